// Manifests, and the metadata of ONNX files, from whoever wrote them.
#include "artifact/manifest.hpp"

#include <cstddef>
#include <cstdint>
#include <sstream>
#include <string>

#include "artifact/onnx_metadata.hpp"
#include "artifact/text.hpp"
#include "error.hpp"

namespace {

void read_manifest(const std::string& text) {
  try {
    libtame::check_runnable(libtame::parse_manifest(text));
  } catch (const libtame::Failure& failure) {
    if (!libtame::is_utf8(failure.what())) {
      __builtin_trap();  // messages are Unicode too
    }
  }
}

void read_metadata(const std::string& bytes) {
  std::istringstream stream(bytes);
  libtame::find_onnx_metadata(stream, bytes.size(), "tame.manifest", 64);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  read_manifest(bytes);
  read_metadata(bytes);
  return 0;
}
