// One entry of an ONNX file's metadata, without loading its graph.
#pragma once

#include <cstdint>
#include <istream>
#include <optional>
#include <string>
#include <string_view>

namespace libtame {

struct OnnxMetadata {
  bool is_model = false;             // a whole protobuf, with a graph in it
  std::optional<std::string> value;  // of the entry; the last one where there are several
};

/// Walk over the fields of a ModelProto, passing over what is large.
///
/// A value longer than `longest` is given as "". Whatever the bytes are, this neither throws nor
/// takes more memory than a value.
OnnxMetadata find_onnx_metadata(std::istream& stream, std::uint64_t size, std::string_view key,
                                std::size_t longest);

}  // namespace libtame
