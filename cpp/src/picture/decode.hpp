// Inside of decode_picture: what the readers of JPEG and PNG have in common.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "picture.hpp"

namespace libtame {

/// Bytes in somebody's memory.
struct Bytes {
  const std::uint8_t* data = nullptr;
  std::size_t size = 0;

  bool begins(const std::string& prefix) const;
  Bytes from(std::size_t offset) const {
    return offset < size ? Bytes{data + offset, size - offset} : Bytes{};
  }
};

/// How a picture is stored, and the EXIF orientation that makes it upright, 1 to 8.
struct Stored {
  Size size{};
  int orientation = 1;
};

/// Throws Failure: TAME_INPUT_ERROR, "picture cannot be decoded: …".
[[noreturn]] void fail_decoding(const std::string& reason);

/// The orientation in an EXIF block, with or without "Exif\0\0" before it; 0 if there is none.
/// Other values than 1 to 8 are returned as 1. Nothing else in the block matters.
int exif_orientation(Bytes block);

/// The orientation in an XMP packet, 0 if there is none.
int xmp_orientation(Bytes packet);

/// As they are stored; sizes are checked against `most` before anything is allocated for pixels.
Stored jpeg_head(Bytes file, std::int64_t most);
Picture decode_jpeg(Bytes file, std::int64_t most, int& orientation);
Stored png_head(Bytes file, std::int64_t most);
Picture decode_png(Bytes file, const Reading& reading, int& orientation);

/// Spread gray levels that lie, a byte each, at the end of `count` RGB pixels.
void spread_gray(std::uint8_t* rgb, std::size_t count);

}  // namespace libtame
