// libtame for C++17: errors and views. Included by tame.hpp.
#ifndef TAME_ERROR_HPP
#define TAME_ERROR_HPP

#include <cstddef>
#include <stdexcept>
#include <string>

#include "tame.h"

// Says that a result looks into what a function was given; clang then warns where that ends first.
#if defined(__has_cpp_attribute)
#if __has_cpp_attribute(clang::lifetimebound)
#define TAME_LIFETIMEBOUND [[clang::lifetimebound]]
#endif
#endif
#ifndef TAME_LIFETIMEBOUND
#define TAME_LIFETIMEBOUND
#endif

namespace tame {

/// Whatever went wrong: a status of tame.h, and one line that says what was found and expected.
class Error : public std::runtime_error {
 public:
  Error(tame_status status, const std::string& message)
      : std::runtime_error(message), status_(status) {}

  tame_status status() const noexcept { return status_; }

  /// Name of the status, as the Python package has it: "ChecksumError".
  const char* name() const noexcept { return tame_status_name(status_); }

  /// Whether it is of a family: an Error of TAME_CHECKSUM_ERROR is a TAME_ARTIFACT_ERROR.
  bool is(tame_status family) const noexcept {
    return status_ == family || (family % 10 == 0 && status_ / 10 == family / 10);
  }

 private:
  tame_status status_;
};

/// Throw what a failed call left behind; statuses that are no errors are returned.
inline tame_status check(tame_status status) {
  if (status > TAME_OK) throw Error(status, tame_last_error());
  return status;
}

/// What this thread's last call noticed and went on with; "" if that is nothing.
inline std::string last_warning() { return tame_last_warning(); }

/// Values in somebody else's memory, as C++20's std::span.
template <typename T>
class View {
 public:
  View() = default;
  View(T* data, std::size_t size) : data_(data), size_(size) {}

  T* data() const { return data_; }
  std::size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }
  T* begin() const { return data_; }
  T* end() const { return data_ + size_; }
  T& operator[](std::size_t place) const { return data_[place]; }

 private:
  T* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace tame

#endif  // TAME_ERROR_HPP
