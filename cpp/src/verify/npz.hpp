// Arrays in an .npz file, which is a ZIP archive of .npy files; from a file that anybody may have made.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace libtame {

/// An array in C's order; numbers are little-endian.
struct Array {
  std::string dtype;  // as numpy spells it, such as "<f4"
  std::vector<std::int64_t> shape;
  std::string bytes;
};

/// An archive that unpacks to more is no reference but a bomb.
inline constexpr std::size_t max_npz_bytes = std::size_t{1} << 30;

/// The arrays of an archive, by name.
///
/// Throws Failure: TAME_MANIFEST_ERROR for what is damaged, encrypted, of another order or type than
/// numbers, or too large. The message has no place: the caller knows the file.
std::map<std::string, Array> read_npz(const std::string& archive);

}  // namespace libtame
