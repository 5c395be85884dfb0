#include "decode.hpp"

#include <algorithm>
#include <cstring>

#include "../error.hpp"

namespace libtame {

void fail_decoding(const std::string& reason) {
  fail(TAME_INPUT_ERROR, "picture cannot be decoded: ", reason);
}

bool Bytes::begins(const std::string& prefix) const {
  return size >= prefix.size() && std::memcmp(data, prefix.data(), prefix.size()) == 0;
}

#ifdef TAME_DECODE
namespace {

enum class Kind { jpeg, png };

/// What a file that cannot be read seems to be.
const char* found_in(Bytes file) {
  if (file.data == nullptr || file.size == 0) return "no bytes";
  if (file.begins("RIFF")) return "a WebP file";
  if (file.begins("GIF8")) return "a GIF file";
  if (file.begins("BM")) return "a BMP file";
  if (file.begins("II*") || file.begins("MM")) return "a TIFF file";
  if (file.begins("P5") || file.begins("P6")) return "a PPM file";
  return "something else";
}

Kind kind_of(Bytes file) {
  if (file.data != nullptr && file.begins("\xff\xd8\xff")) return Kind::jpeg;
  if (file.data != nullptr && file.begins("\x89PNG\r\n\x1a\n")) return Kind::png;
  fail(TAME_INPUT_ERROR, "picture is not a picture in JPEG, PNG (found ", found_in(file),
       "). Convert it, or pass its pixels");
}

Size upright_size(Size stored, int orientation) {
  return orientation < 5 ? stored : Size{stored[1], stored[0]};
}

/// Where the pixels of a row of the upright picture lie in the stored one, in pixels.
struct Walk {
  std::ptrdiff_t start, step;
};

Walk walk_of(Size stored, int orientation, std::ptrdiff_t row) {
  const std::ptrdiff_t width = stored[0], right = width - 1, bottom = stored[1] - 1;
  const auto at = [width](std::ptrdiff_t x, std::ptrdiff_t y) { return y * width + x; };
  switch (orientation) {
    case 2:
      return {at(right, row), -1};
    case 3:
      return {at(right, bottom - row), -1};
    case 4:
      return {at(0, bottom - row), 1};
    case 5:
      return {at(row, 0), width};
    case 6:
      return {at(row, bottom), -width};
    case 7:
      return {at(right - row, bottom), -width};
    case 8:
      return {at(right - row, 0), width};
    default:
      return {at(0, row), 1};
  }
}

Picture upright(Picture stored, int orientation) {
  if (orientation == 1) return stored;
  const Size from{stored.width, stored.height};
  const Size to = upright_size(from, orientation);
  Picture result{to[0], to[1], std::vector<std::uint8_t>(stored.pixels.size())};
  std::uint8_t* out = result.pixels.data();
  for (int row = 0; row < to[1]; ++row) {
    const Walk walk = walk_of(from, orientation, row);
    for (std::ptrdiff_t x = 0; x < to[0]; ++x, out += 3) {
      std::memcpy(out, stored.pixels.data() + 3 * (walk.start + x * walk.step), 3);
    }
  }
  return result;
}

}  // namespace

Picture decode_picture(const void* data, std::size_t size, std::int64_t most) {
  const Bytes file{static_cast<const std::uint8_t*>(data), size};
  int orientation = 1;
  Picture stored = kind_of(file) == Kind::jpeg ? decode_jpeg(file, most, orientation)
                                               : decode_png(file, most, orientation);
  return upright(std::move(stored), orientation);
}

Size decoded_size(const void* data, std::size_t size, std::int64_t most) {
  const Bytes file{static_cast<const std::uint8_t*>(data), size};
  const Stored stored = kind_of(file) == Kind::jpeg ? jpeg_head(file, most) : png_head(file, most);
  return upright_size(stored.size, stored.orientation);
}

void spread_levels(std::uint8_t* rgb, std::size_t count, int bytes, const std::uint8_t* palette) {
  const std::uint8_t* level = rgb + count * (3 - static_cast<std::size_t>(bytes));
  // What is written never overtakes what is still to be read.
  for (std::size_t i = 0; i < count; ++i, rgb += 3, level += bytes) {
    // 16 bits are scaled and rounded as preprocess.py does; Pillow alone would clip them.
    const int value = bytes == 1 ? level[0] : ((level[0] << 8 | level[1]) + 128) / 257;
    if (palette != nullptr) {
      std::memcpy(rgb, palette + 3 * value, 3);
    } else {
      rgb[0] = rgb[1] = rgb[2] = static_cast<std::uint8_t>(value);
    }
  }
}

#else

Picture decode_picture(const void*, std::size_t, std::int64_t) {
  fail(TAME_INPUT_ERROR,
       "picture is a file, which this libtame was built without reading; "
       "build it with -DTAME_DECODE=ON, or pass pixels");
}

Size decoded_size(const void* data, std::size_t size, std::int64_t most) {
  decode_picture(data, size, most);
  return {};
}

#endif

}  // namespace libtame
