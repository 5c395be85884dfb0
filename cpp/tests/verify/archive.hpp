// Archives of arrays as numpy.savez writes them, for what reads them.
#pragma once

#include <zlib.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace libtame::tests {

/// A number in as many bytes, the lowest first.
inline std::string little(std::size_t value, int bytes) {
  std::string text;
  for (int place = 0; place < bytes; ++place) text += static_cast<char>(value >> 8 * place);
  return text;
}

/// A .npy file; the shape is given as Python writes it, such as "(3, 2)".
inline std::string npy(const std::string& dtype, const std::string& shape,
                       const std::string& bytes) {
  const std::string header =
      "{'descr': '" + dtype + "', 'fortran_order': False, 'shape': " + shape + ", }\n";
  return "\x93NUMPY\x01" + std::string(1, '\0') + little(header.size(), 2) + header + bytes;
}

/// A ZIP archive of files by name, which are stored as they are.
inline std::string zip(const std::vector<std::pair<std::string, std::string>>& files) {
  std::string archive;
  std::string directory;
  for (const auto& [name, bytes] : files) {
    const auto* data = reinterpret_cast<const Bytef*>(bytes.data());
    const std::string sizes = little(crc32(0, data, static_cast<uInt>(bytes.size())), 4) +
                              little(bytes.size(), 4) + little(bytes.size(), 4) +
                              little(name.size(), 2) + little(0, 2);
    directory += "PK\1\2" + little(20, 2) + little(20, 2) + std::string(8, '\0') + sizes +
                 std::string(10, '\0') + little(archive.size(), 4) + name;
    archive += "PK\3\4" + little(20, 2) + std::string(8, '\0') + sizes + name + bytes;
  }
  const std::string counts = little(files.size(), 2) + little(files.size(), 2);
  return archive + directory + "PK\5\6" + std::string(4, '\0') + counts +
         little(directory.size(), 4) + little(archive.size(), 4) + little(0, 2);
}

}  // namespace libtame::tests
