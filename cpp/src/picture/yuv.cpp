// Pictures as cameras and video decoders give them. docs/pictures.md has the formula.
#include <algorithm>

#include "../error.hpp"
#include "pixels.hpp"

namespace libtame {
namespace {

/// What of red, green and blue a unit of Y, U and V is, in fixed point.
struct Matrix {
  int black;  // Y of black
  std::int32_t luma, red_v, green_u, green_v, blue_u;
};

constexpr int bits = 20;
constexpr std::int32_t half_bit = 1 << (bits - 1);

constexpr std::int32_t fixed(double share) {
  return static_cast<std::int32_t>(share * (1 << bits) + 0.5);
}

/// From the shares of red and blue in Y, which the standard names.
constexpr Matrix matrix(double red, double blue, bool limited) {
  const double green = 1 - red - blue;
  const double chroma = limited ? 255.0 / 224 : 1;
  return {limited ? 16 : 0,
          fixed(limited ? 255.0 / 219 : 1),
          fixed(2 * (1 - red) * chroma),
          fixed(2 * (1 - blue) * blue / green * chroma),
          fixed(2 * (1 - red) * red / green * chroma),
          fixed(2 * (1 - blue) * chroma)};
}

constexpr Matrix matrices[] = {matrix(0.299, 0.114, true), matrix(0.299, 0.114, false),
                               matrix(0.2126, 0.0722, true), matrix(0.2126, 0.0722, false)};

std::uint8_t level(std::int32_t sum) {
  return static_cast<std::uint8_t>(std::clamp(sum >> bits, 0, 255));
}

/// The planes of a picture; U and V are `step` bytes from one to the next.
struct Planes {
  const std::uint8_t* luma;
  const std::uint8_t* u;
  const std::uint8_t* v;
  std::size_t stride, chroma_stride, step;
};

/// The planes of the sides that a picture says it has: Y, and U and V or one of them.
std::array<Plane, 2> checked_shapes(const tame_image& image) {
  const bool pairs = image.format == TAME_NV12;
  const auto rows = static_cast<std::size_t>(image.height);
  const std::size_t across = (static_cast<std::size_t>(image.width) + 1) / 2;
  std::size_t stride = image.chroma_stride;
  if (stride == 0) stride = pairs ? image.stride + image.stride % 2 : (image.stride + 1) / 2;
  const auto luma = static_cast<std::size_t>(image.width);
  return {checked_plane({luma, rows, image.stride}, image.width, "stride"),
          checked_plane({pairs ? 2 * across : across, (rows + 1) / 2, stride}, image.width,
                        "chroma_stride")};
}

Planes checked_planes(const tame_image& image) {
  if (image.color < TAME_BT601_LIMITED || image.color > TAME_BT709_FULL) {
    fail(TAME_INPUT_ERROR, "picture has color ", image.color,
         "; expected TAME_BT601_LIMITED, TAME_BT601_FULL, TAME_BT709_LIMITED or TAME_BT709_FULL");
  }
  const bool pairs = image.format == TAME_NV12;
  const auto [luma, chroma] = checked_shapes(image);
  const bool apart = image.chroma[0] != nullptr;
  if ((image.chroma[1] != nullptr) != (apart && !pairs)) {
    fail(TAME_INPUT_ERROR, "picture has a second plane of chroma at ", image.chroma[1],
         pairs ? "; expected NULL, as TAME_NV12 has one"
               : "; expected both planes of TAME_I420, or neither");
  }
  const auto* y = static_cast<const std::uint8_t*>(image.data);
  Planes planes{y, nullptr, nullptr, luma.stride, chroma.stride, pairs ? std::size_t{2} : 1};
  if (apart) {
    check_bytes(image.size, luma.bytes(), image, "size");
    check_bytes(image.chroma_size, chroma.bytes(), image, "chroma_size");
    planes.u = static_cast<const std::uint8_t*>(image.chroma[0]);
    planes.v = pairs ? planes.u + 1 : static_cast<const std::uint8_t*>(image.chroma[1]);
  } else {
    const std::size_t between = pairs ? 0 : chroma.whole();
    check_bytes(image.size, luma.whole() + between + chroma.bytes(), image, "size");
    planes.u = y + luma.whole();
    planes.v = planes.u + (pairs ? 1 : between);
  }
  return planes;
}

}  // namespace

bool is_yuv(std::int32_t format) { return format == TAME_NV12 || format == TAME_I420; }

void check_yuv(const tame_image& image) { checked_planes(image); }

Picture rgb_of_yuv(const tame_image& image) {
  const Planes planes = checked_planes(image);
  const Matrix& of = matrices[image.color];
  Picture made{image.width, image.height, {}};
  made.pixels.resize(std::size_t{3} * image.width * image.height);
  std::uint8_t* rgb = made.pixels.data();
  for (std::size_t row = 0; row < static_cast<std::size_t>(image.height); ++row) {
    const std::uint8_t* luma = planes.luma + row * planes.stride;
    const std::size_t chroma = row / 2 * planes.chroma_stride;
    for (std::size_t x = 0; x < static_cast<std::size_t>(image.width); ++x, rgb += 3) {
      const std::size_t at = chroma + x / 2 * planes.step;
      const std::int32_t u = planes.u[at] - 128, v = planes.v[at] - 128;
      const std::int32_t y = of.luma * (luma[x] - of.black) + half_bit;
      rgb[0] = level(y + of.red_v * v);
      rgb[1] = level(y - of.green_u * u - of.green_v * v);
      rgb[2] = level(y + of.blue_u * u);
    }
  }
  return made;
}

}  // namespace libtame
