// Archives of arrays that anybody may have made: read_npz.
#include "verify/npz.hpp"

#include <cstdlib>

#include "../tests/verify/archive.hpp"
#include "error.hpp"

namespace {

/// Bytes of one value of a type that is read.
std::size_t item_bytes(const std::string& dtype) {
  return dtype == "|u1" ? 1 : dtype == "<f4" ? 4 : dtype == "<i8" ? 8 : 0;
}

/// Whoever takes an array trusts that it has as many values as its shape says.
void check(const libtame::Array& array) {
  std::size_t bytes = item_bytes(array.dtype);
  if (bytes == 0) std::abort();
  for (const std::int64_t size : array.shape) {
    if (size < 0) std::abort();
    bytes *= static_cast<std::size_t>(size);
  }
  if (array.bytes.size() != bytes) std::abort();
}

void read(const std::string& archive) {
  try {
    for (const auto& [name, array] : libtame::read_npz(archive)) check(array);
  } catch (const libtame::Failure& failure) {
    if (failure.status() != TAME_MANIFEST_ERROR || *failure.what() == '\0') std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  read(bytes);
  // No fuzzer guesses a checksum: what is in an archive comes in a whole one as well.
  read(libtame::tests::zip({{"maps.npy", bytes}}));
  return 0;
}
