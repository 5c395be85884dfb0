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
  if (file.from(4).begins("ftypavi")) return "an AVIF file";
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

/// Levels of 16 bits lie in three bytes each until they are upright; the third is nothing.
void pack_levels(std::vector<std::uint8_t>& pixels) {
  const std::size_t count = pixels.size() / 3;
  for (std::size_t i = 0; i < count; ++i) {
    const std::uint8_t first = pixels[3 * i], second = pixels[3 * i + 1];
    pixels[2 * i] = first;
    pixels[2 * i + 1] = second;
  }
  pixels.resize(2 * count);
}

Picture upright(Picture stored, int orientation) {
  if (orientation == 1) return stored;
  const Size from{stored.width, stored.height};
  const Size to = upright_size(from, orientation);
  Picture result{to[0], to[1], std::vector<std::uint8_t>(stored.pixels.size()), stored.deep};
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

Picture decode_picture(const void* data, std::size_t size, const Reading& reading) {
  const Bytes file{static_cast<const std::uint8_t*>(data), size};
  int orientation = 1;
  Picture stored = kind_of(file) == Kind::jpeg ? decode_jpeg(file, reading.max_pixels, orientation)
                                               : decode_png(file, reading, orientation);
  Picture picture = upright(std::move(stored), orientation);
  if (picture.deep) pack_levels(picture.pixels);
  return picture;
}

Size decoded_size(const void* data, std::size_t size, std::int64_t most) {
  const Bytes file{static_cast<const std::uint8_t*>(data), size};
  const Stored stored = kind_of(file) == Kind::jpeg ? jpeg_head(file, most) : png_head(file, most);
  return upright_size(stored.size, stored.orientation);
}

void spread_gray(std::uint8_t* rgb, std::size_t count) {
  const std::uint8_t* level = rgb + 2 * count;
  // What is written never overtakes what is still to be read.
  for (std::size_t i = 0; i < count; ++i, rgb += 3, ++level) rgb[0] = rgb[1] = rgb[2] = *level;
}

#else

Picture decode_picture(const void*, std::size_t, const Reading&) {
  fail(TAME_INPUT_ERROR,
       "picture is a file, which this libtame was built without reading; "
       "build it with -DTAME_DECODE=ON, or pass pixels");
}

Size decoded_size(const void* data, std::size_t size, std::int64_t) {
  decode_picture(data, size);
  return {};
}

#endif

}  // namespace libtame
