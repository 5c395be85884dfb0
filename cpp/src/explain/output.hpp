// Pictures that are written into the caller's memory.
#pragma once

#include "error.hpp"
#include "picture/picture.hpp"

namespace libtame {

/// Check the memory for an RGB picture, and return the bytes from a row to the next.
/// Throws Failure: TAME_INPUT_ERROR.
inline std::size_t checked_output(const void* rgb, std::size_t size, std::size_t stride,
                                  Size picture) {
  const std::size_t row = std::size_t{3} * static_cast<std::size_t>(picture[0]);
  const auto height = static_cast<std::size_t>(picture[1]);
  if (stride == 0) stride = row;
  if (!rgb) fail(TAME_INPUT_ERROR, "rgb is NULL; expected memory for the picture");
  if (stride < row) {
    fail(TAME_INPUT_ERROR, "stride is ", stride, "; a row of ", picture[0], " RGB pixels has ", row,
         " bytes");
  }
  if (size < row || (size - row) / stride < height - 1) {
    fail(TAME_INPUT_ERROR, "found ", size, " bytes for an RGB picture of ", picture[0], "x",
         picture[1], " pixels; expected ", (height - 1) * stride + row);
  }
  return stride;
}

/// Write a picture as RGB, in rows of `stride` bytes.
void write_rgb(const PixelView& pixels, std::uint8_t* rgb, std::size_t stride);

}  // namespace libtame
