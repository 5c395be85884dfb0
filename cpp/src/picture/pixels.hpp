// Inside of with_pixels: the caller's planes, checked, and what is not 8-bit RGB made so.
#pragma once

#include <cstddef>
#include <cstdint>

#include "picture.hpp"

namespace libtame {

/// Rows of bytes that a caller says there are.
struct Plane {
  std::size_t row = 0;  // bytes of one that matter
  std::size_t rows = 0;
  std::size_t stride = 0;  // bytes from a row to the next; 0: as `row`

  /// From its first byte to its last one that matters, and to where the next plane would begin.
  std::size_t bytes() const { return (rows - 1) * stride + row; }
  std::size_t whole() const { return rows * stride; }
};

/// A plane whose stride, the field `name` of tame_image, holds its rows.
/// Throws Failure: TAME_INPUT_ERROR.
Plane checked_plane(Plane plane, int width, const char* name);

/// Check the bytes that the field `name` says there are; 0 is not checked.
void check_bytes(std::size_t found, std::size_t needed, const tame_image& image, const char* name);

/// Check what all formats have: that there is data, its sides, its pixels.
void check_sides(const tame_image& image, std::int64_t most);

/// The most channels of a picture.
inline constexpr int max_channels = 1024;

/// A level of 16 bits in the machine's byte order.
std::uint16_t level_at(const std::uint8_t* place);

/// 16-bit grey in 8 bits, scaled and rounded as preprocess.py does; Pillow alone would clip it.
class DeepGray {
 public:
  explicit DeepGray(const Reading& reading) : reading_(reading) {}

  std::uint8_t operator()(int level);

  /// Warn if all levels so far come out nearly black.
  void warn_if_dim() const;

 private:
  const Reading reading_;
  int most_ = 0;
};

/// Whether a picture is YUV.
bool is_yuv(std::int32_t format);

/// YUV as RGB. Throws Failure: TAME_INPUT_ERROR.
Picture rgb_of_yuv(const tame_image& image);

/// Check a picture in YUV. Throws Failure: TAME_INPUT_ERROR.
void check_yuv(const tame_image& image);

}  // namespace libtame
