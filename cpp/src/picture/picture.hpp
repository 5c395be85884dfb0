// Pictures: the caller's pixels, decoded files, and what becomes of them.
// The counterpart of tame_deploy/picture/preprocess.py and overlay.py: equal to the pixel.
#pragma once

#include <tame/tame.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "../artifact/manifest.hpp"

namespace libtame {

/// Pixels in somebody's memory, interleaved; 8 bits a channel, but for formats that say otherwise.
struct PixelView {
  const std::uint8_t* data = nullptr;
  int width = 0;
  int height = 0;
  std::size_t stride = 0;         // bytes from a row to the next
  tame_format format = TAME_RGB;  // neither a file nor planes
  int channels = 0;               // of TAME_CHANNELS and TAME_CHANNELS16
};

/// RGB of its own, or grey of 16 bits; rows without a gap.
struct Picture {
  int width = 0;
  int height = 0;
  std::vector<std::uint8_t> pixels;
  bool deep = false;  // grey of 16 bits in the machine's byte order

  PixelView view() const {
    const std::size_t row = (deep ? std::size_t{2} : std::size_t{3}) * width;
    return {pixels.data(), width, height, row, deep ? TAME_GRAY16 : TAME_RGB};
  }
};

/// More pixels than this are refused unless more are allowed (preprocess.MAX_PIXELS), and
inline constexpr std::int64_t max_pixels = 89'000'000;

/// more than this always (preprocess.MOST_PIXELS).
inline constexpr std::int64_t most_pixels = 250'000'000;

/// How a picture is read (preprocess.load_image).
struct Reading {
  std::int64_t max_pixels = libtame::max_pixels;
  bool windowed = false;  // otherwise dim pictures are warned of
  std::int64_t low = 0;   // levels of 16-bit gray that become 0 and 255
  std::int64_t high = 65535;
  bool deep = false;  // for a network of 16 bits: they are kept, and stretched where they show
};

/// The longest side of pixels in the caller's memory.
inline constexpr int max_pixel_side = 65535;

/// Width, height.
using Size = std::array<int, 2>;

/// Left, top, right, bottom in pixels.
using Box = std::array<double, 4>;

/// Decode a JPEG or PNG file to upright RGB as Pillow does (EXIF rotation applied), over white
/// where it is transparent; if reading.deep, grey of 16 bits stays that. Throws Failure: TAME_INPUT_ERROR if it is broken, empty, too large or
/// of another kind. Warns (warning.hpp) of 16-bit gray that comes out nearly black.
Picture decode_picture(const void* data, std::size_t size, const Reading& reading = {});

/// Upright width and height of a JPEG or PNG file, from its head alone. Throws as decode_picture.
Size decoded_size(const void* data, std::size_t size, std::int64_t most = max_pixels);

/// Check that a picture has pixels, and not too many. Throws Failure: TAME_INPUT_ERROR.
void check_pixels(std::int64_t width, std::int64_t height, std::int64_t most);

/// Check an image of the caller: pointer, sizes, stride, and that it lies within its bytes.
/// Throws Failure: TAME_INPUT_ERROR. Neither for TAME_ENCODED nor for YUV.
PixelView checked_pixels(const tame_image& image, std::int64_t most = max_pixels);

/// Width and height of any image of the caller, checked. Throws Failure: TAME_INPUT_ERROR.
Size checked_size(const tame_image& image, std::int64_t most);

/// Whether a caller's pixels are RGB or grey of 8 bits as they are; files, alpha, 16 bits, YUV and
/// further channels become RGB first.
bool is_plain(std::int32_t format);

/// The image under the name that its one or three channels have.
tame_image named(tame_image image);

/// An image of the caller as RGB, over white; not for plain ones. Throws Failure: TAME_INPUT_ERROR.
Picture rgb_of(const tame_image& image, const Reading& reading);

/// A level laid over another, weighed as Pillow does it; `alpha` is 0 to 255.
inline std::uint8_t mixed(int under, int over, int alpha) {
  const int sum = under * (255 - alpha) + over * alpha + 128;
  return static_cast<std::uint8_t>((sum + (sum >> 8)) >> 8);
}

/// Call `use` with the pixels of a caller's image, made RGB first if they are not plain.
template <typename Use>
void with_pixels(const tame_image& image, const Reading& reading, Use&& use) {
  if (is_plain(image.format)) return use(checked_pixels(image, reading.max_pixels));
  const Picture rgb = rgb_of(image, reading);
  use(rgb.view());
}

/// Resize and crop to uint8 RGB (height, width, 3) of the spec, equal to Pillow's to the pixel.
/// Throws Failure: TAME_INPUT_ERROR if it is too long and narrow.
void prepare(const PixelView& picture, const ImageSpec& spec, std::uint8_t* out);

/// Resize and crop or pad any image of the caller to the `images` tensor: spec.input_bytes() bytes.
/// Throws Failure: TAME_INPUT_ERROR, also if it has other channels than the network takes.
void prepare_input(const tame_image& image, const Reading& reading, const ImageSpec& spec,
                   void* out);

/// What the network sees, in the picture's own pixels.
Box visible_box(Size size, const ImageSpec& spec);

/// Resize a map bilinearly as Pillow does in mode "F".
void resize_map(const float* map, Size size, float* out, Size out_size);

/// Lay a map, stretched to [0, 1], or to [-1, 1] if it is signed, over a picture (tame_deploy.picture.overlay.blend).
/// `out` has height rows of `stride` bytes, RGB; it may be the picture's own where that is RGB.
void blend(const PixelView& picture, const float* heat, Size heat_size, const Box& box,
           double strength, std::uint8_t* out, std::size_t stride, bool is_signed = false);

/// A map stretched to [0, 1] for showing (Explanation.heat): min-max maps as they are, flat ones 0.
/// A signed one, a difference of two, is stretched to an end of [-1, 1], and its 0 stays 0.
std::vector<float> stretched(const float* map, std::size_t count, MapKind kind,
                             bool is_signed = false);

}  // namespace libtame
