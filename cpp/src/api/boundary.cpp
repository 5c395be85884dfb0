#include "boundary.hpp"

#include <new>
#include <string>
#include <system_error>

#include "artifact/text.hpp"

namespace libtame {
namespace {

constexpr int most_batch = 65536;
constexpr std::size_t most_classes = 1'000'000;

// Plain bytes: destructors of static objects call libtame after those of this thread's objects ran.
thread_local char last_error[4096] = "";

constexpr const char* is_closed = "is closed; open it again";
constexpr const char* was_closed = "was closed before; close each handle once";
constexpr const char* freed = "was freed; make another";
constexpr const char* freed_twice = "was freed before; free each handle once";

/// Whether a byte of UTF-8 belongs to the one before it.
bool is_continued(char byte) { return (static_cast<unsigned char>(byte) & 0xc0) == 0x80; }

/// A message as one line of UTF-8, whatever names of files were put into it.
std::string one_line(std::string text) {
  for (char& letter : text) {
    const bool control = static_cast<unsigned char>(letter) < 0x20;
    if (control) letter = ' ';
  }
  if (is_utf8(text)) return text;
  for (char& letter : text) {
    if (static_cast<unsigned char>(letter) >= 0x80) letter = '?';
  }
  return text;
}

}  // namespace

// The registries are never destroyed: threads may still be inside when the process ends.
Handles<tame_explainer, const Explainer>& explainers() {
  using All = Handles<tame_explainer, const Explainer>;
  static std::atomic<All*> all{new All({"explainer", is_closed, was_closed, 1})};
  return All::of_this_process(all);
}

Handles<tame_explanation, const Explanation>& explanations() {
  using All = Handles<tame_explanation, const Explanation>;
  static std::atomic<All*> all{new All({"explanation", freed, freed_twice, 2})};
  return All::of_this_process(all);
}

Handles<tame_stream, Stream>& streams() {
  using All = Handles<tame_stream, Stream>;
  static std::atomic<All*> all{new All({"stream", is_closed, was_closed, 3})};
  return All::of_this_process(all);
}

void set_last_error(const char* message) noexcept {
  last_error[0] = '\0';
  if (*message == '\0') return;
  try {
    std::string line = one_line(message);
    std::size_t size = std::min(line.size(), sizeof last_error - 1);
    while (size < line.size() && size > 0 && is_continued(line[size])) --size;
    line.copy(last_error, size);
    last_error[size] = '\0';
  } catch (...) {
    // No memory for the message; the status says the rest.
  }
}

tame_status report_current() noexcept {
  try {
    throw;
  } catch (const Failure& failure) {
    set_last_error(failure.what());
    return failure.status();
  } catch (const std::bad_alloc&) {
    set_last_error("out of memory");
    return TAME_MEMORY_ERROR;
  } catch (const std::length_error&) {
    set_last_error("out of memory");
    return TAME_MEMORY_ERROR;
  } catch (const std::system_error& error) {  // a thread that the system does not give
    set_last_error(words("the system refused: ", error.what()).c_str());
    return TAME_MEMORY_ERROR;
  } catch (const std::exception& error) {
    set_last_error(error.what());
    return TAME_ERROR;
  } catch (...) {
    set_last_error("an unknown fault");
    return TAME_ERROR;
  }
}

std::vector<tame_image> checked_images(const tame_image* images, std::size_t count) {
  const std::size_t step = checked_pointer(images, "images")->struct_size;
  check_struct_size(step, sizeof(tame_image), "tame_image");
  std::vector<tame_image> copies;
  copies.reserve(count);
  const auto* bytes = reinterpret_cast<const unsigned char*>(images);
  for (std::size_t index = 0; index < count; ++index, bytes += step) {
    const auto* image = checked_pointer(reinterpret_cast<const tame_image*>(bytes), "images");
    if (image->struct_size != step) {
      fail(TAME_INPUT_ERROR, "picture ", index, " has struct_size ", image->struct_size,
           "; expected ", step, ", as the first one has");
    }
    copies.push_back(named(checked_struct(image, "tame_image")));
  }
  return copies;
}

Asked checked_request(const tame_request* request, std::size_t pictures) {
  const tame_request given = checked_struct(request, "tame_request");
  Asked asked;
  asked.top = given.top;
  asked.map_width = given.map_width;
  asked.map_height = given.map_height;
  asked.batch_size = checked_number(given.batch_size, asked.batch_size, most_batch, "batch_size");
  if (given.versus) asked.versus = *checked_pointer(given.versus, "versus");
  if (!given.class_ids) {
    if (given.class_count > 0)
      fail(TAME_INPUT_ERROR, "class_ids is NULL; expected ", given.class_count, " classes");
    return asked;
  }
  checked_pointer(given.class_ids, "class_ids");
  asked.rows = std::max<std::size_t>(given.class_rows, 1);
  asked.count = given.class_count;
  if (asked.count < 1 || asked.count > most_classes || asked.rows > SIZE_MAX / 16 / asked.count) {
    fail(TAME_INPUT_ERROR, "class_count is ", asked.count, " and class_rows ", asked.rows,
         "; expected at least one class, and at most ", most_classes);
  }
  if (asked.rows != 1 && asked.rows != pictures) {  // before they are read: there may be fewer
    fail(TAME_INPUT_ERROR, "class_ids has ", asked.rows, " rows; expected ", pictures,
         ", one a picture");
  }
  asked.class_ids.assign(given.class_ids, given.class_ids + asked.rows * asked.count);
  return asked;
}

}  // namespace libtame

extern "C" {

const char* tame_last_error(void) { return libtame::last_error; }

const char* tame_last_warning(void) { return libtame::last_warning; }

const char* tame_status_name(tame_status status) {
  switch (status) {
    case TAME_END:
      return "End";
    case TAME_TIMED_OUT:
      return "TimedOut";
    case TAME_OK:
      return "OK";
    case TAME_ERROR:
      return "TameError";
    case TAME_MEMORY_ERROR:
      return "MemoryError";
    case TAME_ARTIFACT_ERROR:
      return "ArtifactError";
    case TAME_MANIFEST_ERROR:
      return "ManifestError";
    case TAME_CHECKSUM_ERROR:
      return "ChecksumError";
    case TAME_INCOMPATIBLE_ERROR:
      return "IncompatibleArtifactError";
    case TAME_INPUT_ERROR:
      return "InputError";
    case TAME_BACKEND_ERROR:
      return "BackendError";
    case TAME_NOT_INSTALLED_ERROR:
      return "BackendNotInstalledError";
    case TAME_DEVICE_ERROR:
      return "DeviceError";
    case TAME_PARITY_ERROR:
      return "ParityError";
  }
  return "unknown status";
}

const char* tame_version(void) { return TAME_LIBRARY_VERSION; }

}  // extern "C"
