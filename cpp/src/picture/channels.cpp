// Pictures for networks that take grey, other channels, or 16 bits: prepared channel by channel.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "../error.hpp"
#include "pixels.hpp"
#include "prepare.hpp"
#include "scale.hpp"

namespace libtame {
namespace {

/// A picture's channels as levels of 8 or 16 bits.
struct Source {
  PixelView view;
  bool deep;
  int channels;
  std::size_t step;                    // bytes from a pixel to the next
  std::array<std::size_t, 3> offsets;  // of red, green and blue in a pixel

  int level(const std::uint8_t* pixel, int channel) const {
    const std::uint8_t* place =
        pixel + (channels == 3 ? offsets[channel] : channel * (deep ? std::size_t{2} : 1));
    return deep ? int{level_at(place)} : int{*place};
  }
};

Source source_of(const PixelView& view) {
  const bool many = view.format == TAME_CHANNELS || view.format == TAME_CHANNELS16;
  if (many || view.format == TAME_GRAY16 || view.format == TAME_RGB16) {
    const bool deep = view.format != TAME_CHANNELS;
    const int channels = many ? view.channels : view.format == TAME_RGB16 ? 3 : 1;
    return {view, deep, channels, (deep ? std::size_t{2} : 1) * channels, {0, 2, 4}};
  }
  const Layout layout = layout_of(view.format);
  return {view,
          false,
          layout.channels == 1 ? 1 : 3,
          static_cast<std::size_t>(layout.channels),
          {static_cast<std::size_t>(layout.red), static_cast<std::size_t>(layout.green),
           static_cast<std::size_t>(layout.blue)}};
}

/// One of the network's channels, level by level.
class Channel {
 public:
  Channel(const Source& source, const ImageSpec& spec, int channel, DeepGray& scaled)
      : source_(source),
        scaled_(scaled),
        channel_(source.channels == spec.channels() ? channel : 0),
        mixes_(source.channels == 3 && spec.channels() == 1),
        lowers_(source.deep && spec.dtype != InputType::uint16),
        raises_(!source.deep && spec.dtype == InputType::uint16) {
    for (int level = 0; raises_ && level < 256; ++level) raised_[level] = deep_level(level, spec);
  }

  /// Write row `y` of the picture.
  template <typename Value>
  void read(std::int64_t y, Value* out) const {
    const PixelView& view = source_.view;
    const std::uint8_t* pixel = view.data + static_cast<std::size_t>(y) * view.stride;
    for (int x = 0; x < view.width; ++x, pixel += source_.step) {
      const int level = mixes_ ? luma(pixel) : source_.level(pixel, channel_);
      *out++ = static_cast<Value>(lowers_ ? scaled_(level) : raises_ ? raised_[level] : level);
    }
  }

 private:
  /// Grey as Pillow's mode "L" has it.
  int luma(const std::uint8_t* pixel) const {
    const auto red = static_cast<std::uint32_t>(source_.level(pixel, 0));
    const auto green = static_cast<std::uint32_t>(source_.level(pixel, 1));
    const auto blue = static_cast<std::uint32_t>(source_.level(pixel, 2));
    return static_cast<int>((red * 19595 + green * 38470 + blue * 7471 + 32768) >> 16);
  }

  const Source& source_;
  DeepGray& scaled_;
  const int channel_;
  const bool mixes_, lowers_, raises_;
  std::array<std::uint16_t, 256> raised_{};
};

/// A prepared channel of 8 bits.
std::vector<std::uint8_t> prepared_plane(const Channel& channel, const PixelView& view,
                                         const ImageSpec& spec, const Placed& place) {
  std::vector<std::uint8_t> plane(static_cast<std::size_t>(view.width) * view.height);
  for (int y = 0; y < view.height; ++y) {
    channel.read(y, plane.data() + static_cast<std::size_t>(y) * view.width);
  }
  const auto width = static_cast<std::size_t>(spec.width);
  const int fill = spec.crop == Crop::pad ? spec.pad_level : 0;
  std::vector<std::uint8_t> made(width * spec.height, static_cast<std::uint8_t>(fill));
  const PixelView gray{plane.data(), view.width, view.height, static_cast<std::size_t>(view.width),
                       TAME_GRAY};
  scale(gray, place.across, place.down, spec.interpolation,
        made.data() + place.top * width + place.left, width, false);
  return made;
}

/// A prepared channel of 16 bits.
std::vector<std::uint16_t> prepared_deep(const Channel& channel, const PixelView& view,
                                         const ImageSpec& spec, const Placed& place) {
  std::vector<float> row(static_cast<std::size_t>(view.width));
  const PlaneRow rows = [&](std::int64_t y) {
    channel.read(y, row.data());
    return row.data();
  };
  const std::vector<float> scaled = scale_plane(rows, place.across, place.down, spec.interpolation);
  const auto width = static_cast<std::size_t>(spec.width);
  const std::uint16_t fill = spec.crop == Crop::pad ? deep_level(spec.pad_level, spec) : 0;
  std::vector<std::uint16_t> made(width * spec.height, fill);
  const auto columns = static_cast<std::size_t>(std::max(place.across.count, 0));
  for (std::size_t at = 0; at < scaled.size(); ++at) {
    const float level = std::clamp(std::nearbyint(scaled[at]), 0.0f, 65535.0f);
    made[(place.top + at / columns) * width + place.left + at % columns] =
        static_cast<std::uint16_t>(level);
  }
  return made;
}

template <typename Level>
void interleave(const std::vector<Level>& plane, int channel, int channels, void* out) {
  Level* to = static_cast<Level*>(out) + channel;
  for (const Level level : plane) {
    *to = level;
    to += channels;
  }
}

void check_channels(int found, const ImageSpec& spec) {
  const int wanted = spec.channels();
  const auto is_color = [](int channels) { return channels == 1 || channels == 3; };
  if (found == wanted || (is_color(found) && is_color(wanted))) return;
  fail(TAME_INPUT_ERROR, "picture has ", found, found == 1 ? " channel" : " channels",
       "; the network takes ", wanted, ": expected ",
       is_color(wanted) ? "RGB or grey" : "TAME_CHANNELS or TAME_CHANNELS16 of as many");
}

void prepare_source(const PixelView& view, const Reading& reading, const ImageSpec& spec,
                    void* out) {
  const Source source = source_of(view);
  check_channels(source.channels, spec);
  const Placed place = placed({view.width, view.height}, spec);
  const int channels = spec.channels();
  const std::size_t count = static_cast<std::size_t>(spec.width) * spec.height;
  DeepGray scaled(reading);
  for (int c = 0; c < channels; ++c) {
    const Channel channel(source, spec, c, scaled);
    if (spec.dtype == InputType::uint16) {
      interleave(prepared_deep(channel, view, spec, place), c, channels, out);
      continue;
    }
    const std::vector<std::uint8_t> plane = prepared_plane(channel, view, spec, place);
    if (spec.dtype == InputType::uint8) {
      interleave(plane, c, channels, out);
      continue;
    }
    const std::array<float, 256> table = normalised(spec, c);
    std::transform(plane.begin(), plane.end(), static_cast<float*>(out) + c * count,
                   [&](std::uint8_t level) { return table[level]; });
  }
  scaled.warn_if_dim();
}

/// Whether an image is used as it is, with its own channels and bits.
bool is_kept(const tame_image& image, const Reading& reading) {
  if (image.format == TAME_GRAY16 || image.format == TAME_RGB16) return reading.deep;
  return is_plain(image.format) || image.format == TAME_CHANNELS || image.format == TAME_CHANNELS16;
}

}  // namespace

std::uint16_t deep_level(int level, const ImageSpec& spec) {
  const auto [low, high] = spec.window.value_or(std::array<int, 2>{0, 65535});
  return static_cast<std::uint16_t>(low + (level * (high - low) + 127) / 255);
}

void prepare_channels(const tame_image& image, const Reading& reading, const ImageSpec& spec,
                      void* out) {
  if (is_kept(image, reading)) {
    return prepare_source(checked_pixels(image, reading.max_pixels), reading, spec, out);
  }
  if (image.format == TAME_ENCODED) {
    const Picture decoded = decode_picture(image.data, image.size, reading);
    return prepare_source(decoded.view(), reading, spec, out);
  }
  const Picture rgb = rgb_of(image, reading);
  prepare_source(rgb.view(), reading, spec, out);
}

}  // namespace libtame
