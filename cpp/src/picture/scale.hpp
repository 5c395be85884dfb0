// Resizing of 8-bit pictures, equal to Pillow's to the pixel.
#pragma once

#include <functional>

#include "picture.hpp"
#include "resample.hpp"

namespace libtame {

/// Resize the wanted window of a picture to RGB; rows of `out` are `stride` bytes apart. Grey stays
/// grey, a byte a pixel, if it is not to be `spread`.
void scale(const PixelView& picture, const Axis& across, const Axis& down,
           Interpolation interpolation, std::uint8_t* out, std::size_t stride, bool spread = true);

/// A row of a plane of floats, across.in of them.
using PlaneRow = std::function<const float*(std::int64_t y)>;

/// Resize the wanted window of a plane, as Pillow does in mode "F": down.count rows of across.count.
std::vector<float> scale_plane(const PlaneRow& rows, const Axis& across, const Axis& down,
                               Interpolation interpolation);

/// Channels of a format and where red, green and blue are among them.
struct Layout {
  int channels, red, green, blue;
};
Layout layout_of(tame_format format);

}  // namespace libtame
