#include "pixels.hpp"

#include <algorithm>
#include <cstring>

#include "../error.hpp"
#include "../warning.hpp"
#include "scale.hpp"

namespace libtame {
namespace {

/// 16-bit gray whose levels are all lower comes out nearly black (preprocess._DIM).
constexpr int dim_level = 1 << 14;

std::size_t pixel_bytes(tame_format format, int channels) {
  if (format == TAME_GRAY16) return 2;
  if (format == TAME_RGB16) return 6;
  if (format == TAME_CHANNELS) return static_cast<std::size_t>(channels);
  if (format == TAME_CHANNELS16) return 2 * static_cast<std::size_t>(channels);
  return static_cast<std::size_t>(layout_of(format).channels);
}

Picture blank(int width, int height) {
  return {width, height, std::vector<std::uint8_t>(std::size_t{3} * width * height)};
}

/// Call `write` with each pixel and the place of its RGB.
template <typename Write>
Picture rewritten(const PixelView& pixels, Write&& write) {
  const std::size_t step = pixel_bytes(pixels.format, pixels.channels);
  Picture made = blank(pixels.width, pixels.height);
  std::uint8_t* rgb = made.pixels.data();
  for (int y = 0; y < pixels.height; ++y) {
    const std::uint8_t* pixel = pixels.data + static_cast<std::size_t>(y) * pixels.stride;
    for (int x = 0; x < pixels.width; ++x, pixel += step, rgb += 3) write(pixel, rgb);
  }
  return made;
}

/// White shows where pixels are transparent.
Picture over_white(const PixelView& pixels) {
  const Layout layout = layout_of(pixels.format);
  return rewritten(pixels, [&](const std::uint8_t* pixel, std::uint8_t* rgb) {
    const int alpha = pixel[3];
    rgb[0] = mixed(255, pixel[layout.red], alpha);
    rgb[1] = mixed(255, pixel[layout.green], alpha);
    rgb[2] = mixed(255, pixel[layout.blue], alpha);
  });
}

Picture from_gray16(const PixelView& pixels, const Reading& reading) {
  DeepGray scaled(reading);
  Picture made = rewritten(pixels, [&](const std::uint8_t* pixel, std::uint8_t* rgb) {
    rgb[0] = rgb[1] = rgb[2] = scaled(level_at(pixel));
  });
  scaled.warn_if_dim();
  return made;
}

Picture from_rgb16(const PixelView& pixels) {
  return rewritten(pixels, [](const std::uint8_t* pixel, std::uint8_t* rgb) {
    for (int c = 0; c < 3; ++c) rgb[c] = static_cast<std::uint8_t>(level_at(pixel + 2 * c) >> 8);
  });
}

/// Levels of 16 bits for people: stretched from the least that shows to the greatest.
template <typename Level>
Picture stretched_levels(const PixelView& pixels, Level&& level) {
  int low = 65535, high = 0;
  Picture made = rewritten(pixels, [&](const std::uint8_t* pixel, std::uint8_t*) {
    for (int c = 0; c < 3; ++c) {
      low = std::min(low, level(pixel, c));
      high = std::max(high, level(pixel, c));
    }
  });
  const int span = std::max(high - low, 1);
  std::uint8_t* rgb = made.pixels.data();
  for (int y = 0; y < pixels.height; ++y) {
    const std::uint8_t* pixel = pixels.data + static_cast<std::size_t>(y) * pixels.stride;
    const std::size_t step = pixel_bytes(pixels.format, pixels.channels);
    for (int x = 0; x < pixels.width; ++x, pixel += step) {
      for (int c = 0; c < 3; ++c) {
        *rgb++ = static_cast<std::uint8_t>(((level(pixel, c) - low) * 255 + span / 2) / span);
      }
    }
  }
  return made;
}

/// Of many channels the first three are red, green and blue; of two, the mean shows.
template <typename Level>
auto shown_channels(int channels, Level&& level) {
  return [=](const std::uint8_t* pixel, int c) {
    return channels == 2 ? (level(pixel, 0) + level(pixel, 1) + 1) / 2 : level(pixel, c);
  };
}

Picture from_channels(const PixelView& pixels, const Reading& reading) {
  const auto deep = [](const std::uint8_t* pixel, int c) { return int{level_at(pixel + 2 * c)}; };
  if (pixels.format == TAME_CHANNELS16 && reading.deep) {
    return stretched_levels(pixels, shown_channels(pixels.channels, deep));
  }
  DeepGray scaled(reading);
  const bool bytes = pixels.format == TAME_CHANNELS;
  const auto level = shown_channels(pixels.channels, [&](const std::uint8_t* pixel, int c) {
    return bytes ? int{pixel[c]} : int{scaled(deep(pixel, c))};
  });
  Picture made = rewritten(pixels, [&](const std::uint8_t* pixel, std::uint8_t* rgb) {
    for (int c = 0; c < 3; ++c) rgb[c] = static_cast<std::uint8_t>(level(pixel, c));
  });
  scaled.warn_if_dim();
  return made;
}

Picture from_deep(const PixelView& pixels) {
  const int step = pixels.format == TAME_GRAY16 ? 0 : 2;
  return stretched_levels(
      pixels, [=](const std::uint8_t* pixel, int c) { return int{level_at(pixel + c * step)}; });
}

}  // namespace

std::uint16_t level_at(const std::uint8_t* place) {
  std::uint16_t level;
  std::memcpy(&level, place, sizeof level);  // which may lie at any address
  return level;
}

std::uint8_t DeepGray::operator()(int level) {
  most_ = std::max(most_, level);
  const std::int64_t span = reading_.high - reading_.low;
  const std::int64_t inside =
      std::clamp<std::int64_t>(level, reading_.low, reading_.high) - reading_.low;
  return static_cast<std::uint8_t>((inside * 255 + span / 2) / span);
}

void DeepGray::warn_if_dim() const {
  if (reading_.windowed || most_ == 0 || most_ >= dim_level) return;
  int whole = 1;
  while (whole <= most_) whole *= 2;
  warn(words("picture has 16-bit pixels of at most ", most_,
             ", which come out nearly black; give it a window, such as 0,", whole - 1));
}

void check_pixels(std::int64_t width, std::int64_t height, std::int64_t most) {
  if (width < 1 || height < 1) {
    fail(TAME_INPUT_ERROR, "picture is ", width, "x", height, "; expected at least one pixel");
  }
  if (width > most || width * height > most) {
    if (most < 1'000'000) {
      fail(TAME_INPUT_ERROR, "picture is ", width, "x", height, "; expected at most ", most,
           " pixels");
    }
    fail(TAME_INPUT_ERROR, "picture is ", width, "x", height, "; expected at most ",
         static_cast<double>(most) / 1e6, " megapixels");
  }
}

void check_sides(const tame_image& image, std::int64_t most) {
  if (image.data == nullptr) {
    fail(TAME_INPUT_ERROR, "picture has data NULL; expected the address of its pixels");
  }
  if (image.width < 1 || image.height < 1 || image.width > max_pixel_side ||
      image.height > max_pixel_side) {
    fail(TAME_INPUT_ERROR, "picture is ", image.width, "x", image.height, "; expected 1 to ",
         max_pixel_side, " pixels a side");
  }
  check_pixels(image.width, image.height, most);
}

Plane checked_plane(Plane plane, int width, const char* name) {
  if (plane.stride == 0) plane.stride = plane.row;
  if (plane.stride < plane.row) {
    fail(TAME_INPUT_ERROR, "picture has ", name, " ", plane.stride, "; expected at least ",
         plane.row, " bytes for ", width, " pixels, or 0 for rows without a gap");
  }
  if (plane.stride > PTRDIFF_MAX / 4 / plane.rows) {  // so that three planes can be summed
    fail(TAME_INPUT_ERROR, "picture has ", name, " ", plane.stride, " and ", plane.rows,
         " rows; expected no more bytes than there is memory");
  }
  return plane;
}

void check_bytes(std::size_t found, std::size_t needed, const tame_image& image, const char* name) {
  if (found == 0 || found >= needed) return;
  fail(TAME_INPUT_ERROR, "picture has ", name, " ", found, "; expected at least ", needed,
       " bytes for ", image.width, "x", image.height);
}

PixelView checked_pixels(const tame_image& image, std::int64_t most) {
  const bool channels = image.format == TAME_CHANNELS || image.format == TAME_CHANNELS16;
  if (!channels && (image.format < TAME_RGB || image.format > TAME_RGB16)) {
    fail(TAME_INPUT_ERROR, "picture has format ", image.format,
         "; expected TAME_ENCODED, TAME_RGB or another tame_format");
  }
  check_sides(image, most);
  if (channels && (image.channels < 1 || image.channels > max_channels)) {
    fail(TAME_INPUT_ERROR, "picture has ", image.channels, " channels; expected 1 to ",
         max_channels);
  }
  const auto format = static_cast<tame_format>(image.format);
  const std::size_t row = pixel_bytes(format, image.channels) * image.width;
  const auto rows = static_cast<std::size_t>(image.height);
  const Plane plane = checked_plane({row, rows, image.stride}, image.width, "stride");
  if (image.size != 0 && image.size < plane.bytes()) {
    fail(TAME_INPUT_ERROR, "picture has size ", image.size, "; expected at least ", plane.bytes(),
         " bytes for ", image.width, "x", image.height, " and stride ", plane.stride);
  }
  return {static_cast<const std::uint8_t*>(image.data),
          image.width,
          image.height,
          plane.stride,
          format,
          image.channels};
}

Size checked_size(const tame_image& image, std::int64_t most) {
  if (image.format == TAME_ENCODED) return decoded_size(image.data, image.size, most);
  if (is_yuv(image.format)) {
    check_sides(image, most);
    check_yuv(image);
  } else {
    checked_pixels(image, most);
  }
  return {image.width, image.height};
}

bool is_plain(std::int32_t format) {
  return format != TAME_ENCODED && format != TAME_RGBA && format != TAME_BGRA &&
         format != TAME_GRAY16 && format != TAME_RGB16 && format != TAME_CHANNELS &&
         format != TAME_CHANNELS16 && !is_yuv(format);
}

tame_image named(tame_image image) {
  const bool bytes = image.format == TAME_CHANNELS;
  if (!bytes && image.format != TAME_CHANNELS16) return image;
  if (image.channels == 1) image.format = bytes ? TAME_GRAY : TAME_GRAY16;
  if (image.channels == 3) image.format = bytes ? TAME_RGB : TAME_RGB16;
  return image;
}

Picture rgb_of(const tame_image& image, const Reading& reading) {
  if (image.format == TAME_ENCODED) {
    Picture decoded = decode_picture(image.data, image.size, reading);
    return decoded.deep ? from_deep(decoded.view()) : decoded;
  }
  if (is_yuv(image.format)) {
    check_sides(image, reading.max_pixels);
    return rgb_of_yuv(image);
  }
  const PixelView pixels = checked_pixels(image, reading.max_pixels);
  if (pixels.format == TAME_CHANNELS || pixels.format == TAME_CHANNELS16) {
    return from_channels(pixels, reading);
  }
  const bool deep = pixels.format == TAME_GRAY16 || pixels.format == TAME_RGB16;
  if (deep && reading.deep) return from_deep(pixels);
  if (pixels.format == TAME_GRAY16) return from_gray16(pixels, reading);
  if (pixels.format == TAME_RGB16) return from_rgb16(pixels);
  return over_white(pixels);
}

}  // namespace libtame
