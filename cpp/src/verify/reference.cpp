#include "verify/reference.hpp"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <iterator>

#include "artifact/contrast.hpp"
#include "error.hpp"
#include "verify/npz.hpp"

namespace libtame {
namespace {

using Arrays = std::map<std::string, Array>;
using Shape = std::vector<std::int64_t>;

std::string read_whole(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::error_code error;
  const auto size = std::filesystem::file_size(path, error);
  if (!file || error || size > max_npz_bytes) fail(TAME_MANIFEST_ERROR, "cannot be read");
  std::string bytes(static_cast<std::size_t>(size), '\0');
  if (!file.read(bytes.data(), static_cast<std::streamsize>(size))) {
    fail(TAME_MANIFEST_ERROR, "cannot be read");
  }
  return bytes;
}

const Array& named(const Arrays& arrays, const char* name) {
  const auto found = arrays.find(name);
  if (found == arrays.end()) fail(TAME_MANIFEST_ERROR, "has no ", name);
  return found->second;
}

template <typename T>
std::vector<T> values_of(const Array& array) {
  std::vector<T> values(array.bytes.size() / sizeof(T));
  std::memcpy(values.data(), array.bytes.data(), values.size() * sizeof(T));
  return values;
}

/// The number of classes that a graph explains of each picture, where it chooses them; 0: any.
std::int64_t fixed_explained(const Manifest& manifest) {
  switch (manifest.explain) {
    case ExplainMode::predicted:
      return manifest.ranks;
    case ExplainMode::all:
      return manifest.classes;
    case ExplainMode::selectable:
      break;
  }
  return 0;
}

Reference checked(const Arrays& arrays, const Manifest& manifest) {
  const Array& images = named(arrays, "images");
  const Array& class_ids = named(arrays, "class_ids");
  const Array& logits = named(arrays, "logits");
  const Array& maps = named(arrays, "maps");
  const ImageSpec& image = manifest.image;
  const std::int64_t count = images.shape.empty() ? 0 : images.shape[0];
  const std::int64_t explained = class_ids.shape.size() == 2 ? class_ids.shape[1] : 0;
  const auto [height, width] = manifest.map_size();
  const std::array<std::int64_t, 4> sizes = image.input_shape(count);
  const Shape pixels(sizes.begin(), sizes.end());
  const char* const types[] = {"|u1", "<u2", "<f4"};
  const std::int64_t fixed = fixed_explained(manifest);
  const bool fits = count > 0 && explained > 0 && (fixed == 0 || fixed == explained) &&
                    images.dtype == types[static_cast<int>(image.dtype)] &&
                    images.shape == pixels && class_ids.dtype == "<i8" &&
                    class_ids.shape == Shape{count, explained} && logits.dtype == "<f4" &&
                    logits.shape == Shape{count, manifest.classes} && maps.dtype == "<f4" &&
                    maps.shape == Shape{count, explained, height, width};
  if (!fits) fail(TAME_MANIFEST_ERROR, "does not fit the manifest's tensors");
  Reference reference{count,
                      explained,
                      images.bytes,
                      values_of<std::int64_t>(class_ids),
                      values_of<float>(logits),
                      values_of<float>(maps)};
  const auto names_class = [&](std::int64_t id) {
    if (id < 0 && !manifest.contrast) return false;
    return is_question(id, manifest.classes) && decode_contrast(id, manifest.classes).own >= 0;
  };
  if (!std::all_of(reference.class_ids.begin(), reference.class_ids.end(), names_class)) {
    fail(TAME_MANIFEST_ERROR, "does not fit the manifest's classes");
  }
  return reference;
}

}  // namespace

std::string listed_sha256(const Manifest& manifest, const std::string& name) {
  for (const auto& [listed, hash] : manifest.files) {
    if (listed == name) return hash;
  }
  return "";
}

Reference read_reference(const Artifact& artifact) {
  const std::filesystem::path path = artifact.path / reference_name;
  try {
    return checked(read_npz(read_whole(path)), artifact.manifest);
  } catch (const Failure& failure) {
    fail(TAME_MANIFEST_ERROR, path.string(), " ", failure.what(), ". Export again");
  }
}

}  // namespace libtame
