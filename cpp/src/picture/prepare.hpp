// Inside of prepare_input: where a picture lies in the network's, and normalised levels.
#pragma once

#include <array>

#include "picture.hpp"
#include "resample.hpp"

namespace libtame {

/// What of a resized picture shows, and where that begins in the network's.
struct Placed {
  Axis across, down;
  std::size_t left, top;

  /// Whether it fills the network's picture.
  bool fills(const ImageSpec& spec) const {
    return across.count == spec.width && down.count == spec.height;
  }
};

/// Throws Failure: TAME_INPUT_ERROR if it is too long and narrow.
Placed placed(Size size, const ImageSpec& spec);

/// What levels of 8 bits are for a network that takes normalised floats.
std::array<float, 256> normalised(const ImageSpec& spec, int channel);

/// What a level of 8 bits is for a network of 16: 0 to 255 fill its window.
std::uint16_t deep_level(int level, const ImageSpec& spec);

/// Resize and crop or pad channel by channel, for networks that take no RGB of 8 bits.
void prepare_channels(const tame_image& image, const Reading& reading, const ImageSpec& spec,
                      void* out);

}  // namespace libtame
