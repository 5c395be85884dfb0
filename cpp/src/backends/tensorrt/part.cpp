#include "part.hpp"

#include <algorithm>
#include <cstring>

namespace libtame::trt {
namespace {

const char* input_of(const tame_plugin_call& call, const Tensor& tensor) {
  return static_cast<const char*>(
      tensor.name == "images" ? call.images : static_cast<const void*>(call.class_ids));
}

char* output_of(const tame_plugin_call& call, const Tensor& tensor) {
  void* found = call.logits;
  if (tensor.name == "explained") found = call.explained_ids;
  if (tensor.name == "maps") found = call.maps;
  return static_cast<char*>(found);
}

/// Whether a tensor has an entry for each class that is explained.
bool by_place(const Tensor& tensor) {
  return tensor.shape.size() > 1 && tensor.shape[1] == TAME_PLUGIN_EXPLAINED;
}

/// Bytes of one entry: of a picture, or of a place where there are places.
std::size_t entry_bytes(const Tensor& tensor) { return tensor.bytes({1, 1}); }

std::size_t unsigned_of(std::int64_t value) { return static_cast<std::size_t>(value); }

}  // namespace

void gather(const Part& part, const Tensor& tensor, const Sizes& filled, void* target) {
  const char* source = input_of(*part.call, tensor);
  auto* to = static_cast<char*>(target);
  const std::size_t entry = entry_bytes(tensor);
  const bool places = by_place(tensor);
  const std::int64_t stride = places ? part.call->explained : 1;
  const std::int64_t columns = places ? filled.explained : 1;
  const std::int64_t last = places ? part.sizes.explained - 1 : 0;
  const std::int64_t first = places ? part.first_place : 0;
  for (std::int64_t row = 0; row < filled.batch; ++row) {
    const std::int64_t picture = part.first_picture + std::min(row, part.sizes.batch - 1);
    const char* from = source + unsigned_of(picture * stride + first) * entry;
    for (std::int64_t column = 0; column < columns; ++column, to += entry) {
      std::memcpy(to, from + unsigned_of(std::min(column, last)) * entry, entry);
    }
  }
}

void scatter(const Part& part, const Tensor& tensor, const Sizes& filled, const void* source) {
  char* target = output_of(*part.call, tensor);
  const bool places = by_place(tensor);
  // What does not depend on the classes is the same in every window of a picture.
  if (!places && part.first_place > 0) return;
  const std::size_t entry = entry_bytes(tensor);
  const std::int64_t stride = places ? part.call->explained : 1;
  const std::int64_t first = places ? part.first_place : 0;
  const std::size_t row_bytes = unsigned_of(places ? filled.explained : 1) * entry;
  const std::size_t wanted = unsigned_of(places ? part.sizes.explained : 1) * entry;
  const auto* from = static_cast<const char*>(source);
  for (std::int64_t row = 0; row < part.sizes.batch; ++row, from += row_bytes) {
    const std::int64_t picture = part.first_picture + row;
    std::memcpy(target + unsigned_of(picture * stride + first) * entry, from, wanted);
  }
}

}  // namespace libtame::trt
