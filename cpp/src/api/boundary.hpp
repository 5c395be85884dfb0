// Where C ends: no exception goes further, and nothing that comes in is believed.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "error.hpp"
#include "explain/explainer.hpp"
#include "explain/stream.hpp"
#include "handles.hpp"
#include "warning.hpp"

namespace libtame {

Handles<tame_explainer, const Explainer>& explainers();
Handles<tame_explanation, const Explanation>& explanations();
Handles<tame_stream, Stream>& streams();

/// Keep a message for `tame_last_error`.
void set_last_error(const char* message) noexcept;

/// The status and message of the exception that is being handled.
tame_status report_current() noexcept;

/// Run `work`, which returns nothing or a status, and turn what it throws into a status. The warning
/// of an earlier call stays: `work` only looks at, or frees, what that call gave.
template <typename Work>
tame_status keeping_warning(Work&& work) noexcept {
  set_last_error("");
  try {
    if constexpr (std::is_void_v<decltype(work())>) {
      work();
      return TAME_OK;
    } else {
      return work();
    }
  } catch (...) {
    return report_current();
  }
}

/// Likewise; a warning is that of this call.
template <typename Work>
tame_status guarded(Work&& work) noexcept {
  last_warning[0] = '\0';
  return keeping_warning(std::forward<Work>(work));
}

/// Refuse a pointer that is NULL or, as far as can be seen, points to no T.
template <typename T>
T* checked_pointer(T* pointer, const char* name) {
  if (!pointer) fail(TAME_INPUT_ERROR, name, " is NULL");
  if (reinterpret_cast<std::uintptr_t>(pointer) % alignof(T) != 0) {
    fail(TAME_INPUT_ERROR, name, " is misaligned: found ", static_cast<const void*>(pointer),
         "; expected a multiple of ", alignof(T));
  }
  return pointer;
}

/// Refuse a struct of a size that no version of the header gave it. Callers of an older header
/// give a smaller one, of a newer header a larger one.
inline void check_struct_size(std::size_t found, std::size_t known, const char* name) {
  constexpr std::size_t most = 4096;
  if (found < sizeof(std::size_t) + sizeof(void*) || found > most) {
    fail(TAME_INPUT_ERROR, name, ".struct_size is ", found, "; set it to sizeof(", name, "), ",
         known, " here");
  }
}

/// Copy a struct of the caller's: what its header did not know yet is zero, and what ours does not
/// know yet must be.
template <typename T>
T checked_struct(const T* given, const char* name) {
  T copy{};
  copy.struct_size = sizeof(T);
  if (!given) return copy;
  checked_pointer(given, name);
  const std::size_t size = given->struct_size;
  check_struct_size(size, sizeof(T), name);
  const auto* bytes = reinterpret_cast<const unsigned char*>(given);
  for (std::size_t place = sizeof(T); place < size; ++place) {
    if (bytes[place] != 0) {
      fail(TAME_INPUT_ERROR, name, " has ", size, " bytes, and this libtame knows the first ",
           sizeof(T), "; it is older than the header that the program was compiled with");
    }
  }
  std::memcpy(static_cast<void*>(&copy), given, std::min(size, sizeof(T)));
  return copy;
}

/// Write a struct into the caller's, as much of it as the caller's header knew.
template <typename T>
void write_struct(T* out, T found, const char* name) {
  checked_pointer(out, name);
  const std::size_t size = out->struct_size;
  check_struct_size(size, sizeof(T), name);
  found.struct_size = size;
  std::memset(static_cast<void*>(out), 0, size);  // what only a newer header knows
  std::memcpy(static_cast<void*>(out), &found, std::min(size, sizeof(T)));
}

/// Copy a picture's description, which callers of an older header give shorter.
inline tame_image checked_image(const tame_image* image) {
  return named(checked_struct(checked_pointer(image, "image"), "tame_image"));
}

/// Copy the descriptions of an array, in which they are as far apart as the caller's header has it.
std::vector<tame_image> checked_images(const tame_image* images, std::size_t count);

/// Check a number of an options struct, in which zero means the default.
inline int checked_number(std::int32_t given, int fallback, int most, const char* name) {
  if (given < 0 || given > most) {
    fail(TAME_INPUT_ERROR, name, " is ", given, "; expected 0 (the default) or 1 to ", most);
  }
  return given == 0 ? fallback : given;
}

/// Copy a request. Throws Failure: TAME_INPUT_ERROR.
Asked checked_request(const tame_request* request, std::size_t pictures);

}  // namespace libtame
