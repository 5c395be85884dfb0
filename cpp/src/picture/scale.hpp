// Resizing of 8-bit pictures, equal to Pillow's to the pixel.
#pragma once

#include "picture.hpp"
#include "resample.hpp"

namespace libtame {

/// Resize the wanted window of a picture to RGB; rows of `out` are `stride` bytes apart.
void scale(const PixelView& picture, const Axis& across, const Axis& down,
           Interpolation interpolation, std::uint8_t* out, std::size_t stride);

/// Channels of a format and where red, green and blue are among them.
struct Layout {
  int channels, red, green, blue;
};
Layout layout_of(tame_format format);

}  // namespace libtame
