// What libtame asks beyond Python: it sizes its buffers by the manifest before the graph runs.
#include <sstream>

#include "artifact/manifest.hpp"
#include "error.hpp"

namespace libtame {

namespace {

using Dimension = std::variant<std::int64_t, std::string>;

/// A tensor as Python writes it: "maps: float32 [batch, k, 28, 28]".
std::string describe(const TensorSpec& tensor) {
  std::ostringstream text;
  text.imbue(std::locale::classic());
  text << tensor.name << ": " << tensor.dtype << " [";
  const char* between = "";
  for (const Dimension& size : tensor.shape) {
    text << between;
    std::visit([&](const auto& shown) { text << shown; }, size);
    between = ", ";
  }
  text << "]";
  return text.str();
}

bool is_size(const Dimension& dimension, std::int64_t size) { return dimension == Dimension(size); }

void check_type(const TensorSpec& tensor, const std::string& dtype) {
  if (tensor.dtype != dtype) {
    fail(TAME_INCOMPATIBLE_ERROR, "found ", describe(tensor), "; expected ", dtype);
  }
}

void check_images(const Manifest& manifest) {
  const TensorSpec& images = manifest.inputs.at(0);
  const ImageSpec& spec = manifest.image;
  check_type(images, spec.type_name());
  const std::array<std::int64_t, 4> expected = spec.input_shape(-1);
  for (std::size_t axis = 0; axis < 3; ++axis) {
    if (!is_size(images.shape.at(axis + 1), expected[axis + 1])) {
      fail(TAME_INCOMPATIBLE_ERROR, "found ", describe(images), "; expected [batch, ", expected[1],
           ", ", expected[2], ", ", expected[3], "], as the image is prepared");
    }
  }
}

void check_ranks(const Manifest& manifest) {
  const bool all = manifest.explain == ExplainMode::all;
  const std::int64_t low = all ? 0 : 1;
  const std::int64_t high = all ? 0 : manifest.classes;
  if (manifest.ranks < low || manifest.ranks > high) {
    fail(TAME_INCOMPATIBLE_ERROR, "the graph ranks ", manifest.ranks, " classes; expected ", low,
         " to ", high);
  }
}

}  // namespace

std::array<std::int64_t, 2> Manifest::map_size() const {
  const TensorSpec& tensor = outputs.at(2);
  std::array<std::int64_t, 2> size{};
  for (std::size_t axis = 0; axis < 2; ++axis) {
    const std::int64_t* found = std::get_if<std::int64_t>(&tensor.shape.at(axis + 2));
    if (found == nullptr || *found < 1 || *found > max_side) {
      fail(TAME_INCOMPATIBLE_ERROR, "found ", describe(tensor), "; expected maps of 1 to ",
           max_side, " pixels a side");
    }
    size[axis] = *found;
  }
  return size;
}

void check_runnable(const Manifest& manifest) {
  check_images(manifest);
  if (manifest.explain == ExplainMode::selectable) {
    check_type(manifest.inputs.at(1), "int64");
  }
  const TensorSpec& logits = manifest.outputs.at(0);
  check_type(logits, "float32");
  if (!is_size(logits.shape.at(1), manifest.classes)) {
    fail(TAME_INCOMPATIBLE_ERROR, "found ", describe(logits), "; expected one for each of the ",
         manifest.classes, " classes");
  }
  check_type(manifest.outputs.at(1), "int64");
  check_type(manifest.outputs.at(2), "float32");
  check_ranks(manifest);
  manifest.map_size();
}

}  // namespace libtame
