#include "output.hpp"

#include <cstring>

#include "picture/scale.hpp"

namespace libtame {

void write_rgb(const PixelView& pixels, std::uint8_t* rgb, std::size_t stride) {
  const Layout layout = layout_of(pixels.format);
  for (int y = 0; y < pixels.height; ++y) {
    const std::uint8_t* from = pixels.data + static_cast<std::size_t>(y) * pixels.stride;
    std::uint8_t* to = rgb + static_cast<std::size_t>(y) * stride;
    if (pixels.format == TAME_RGB) {
      std::memcpy(to, from, std::size_t{3} * static_cast<std::size_t>(pixels.width));
      continue;
    }
    for (int x = 0; x < pixels.width; ++x, from += layout.channels, to += 3) {
      to[0] = from[layout.red];
      to[1] = from[layout.green];
      to[2] = from[layout.blue];
    }
  }
}

}  // namespace libtame
