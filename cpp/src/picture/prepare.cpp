#include "prepare.hpp"

#include <algorithm>
#include <cstring>

#include "../error.hpp"
#include "scale.hpp"

namespace libtame {
namespace {

/// The whole resized picture, and where the crop begins in it: outside, where it is padded.
struct Plan {
  std::array<std::int64_t, 2> resized;
  std::array<std::int64_t, 2> corner;
};

/// Half of an even or odd difference, half to even as Python's round.
std::int64_t rounded_half(std::int64_t difference) {
  const std::int64_t floor = difference / 2;
  return difference % 2 == 0 ? floor : floor + floor % 2;
}

std::int64_t corner_of(std::int64_t have, std::int64_t wanted) {
  return wanted > have ? -((wanted - have) / 2) : rounded_half(have - wanted);
}

/// Weights of a side take memory in proportion to it; only PNG files have longer ones.
constexpr int most_side = 1 << 20;

[[noreturn]] void fail_narrow(Size size) {
  fail(TAME_INPUT_ERROR, "picture is ", size[0], "x", size[1], ": too long and narrow to resize");
}

/// The largest size of the same proportions that fits, the shorter side rounded, halves up.
std::array<std::int64_t, 2> fitting(Size size, const ImageSpec& spec) {
  const std::int64_t width = size[0], height = size[1];
  const std::int64_t across = spec.width, down = spec.height;
  std::array<std::int64_t, 2> found{across, down};
  if (width * down >= height * across) {
    found[1] = (2 * height * across + width) / (2 * width);
  } else {
    found[0] = (2 * width * down + height) / (2 * height);
  }
  if (std::min(found[0], found[1]) < 1) fail_narrow(size);
  return found;
}

Plan centred(std::array<std::int64_t, 2> resized, const ImageSpec& spec) {
  return {resized, {corner_of(resized[0], spec.width), corner_of(resized[1], spec.height)}};
}

Plan plan_of(Size size, const ImageSpec& spec) {
  if (std::max(size[0], size[1]) > most_side) fail_narrow(size);
  if (spec.crop == Crop::none) return {{spec.width, spec.height}, {0, 0}};
  if (spec.crop == Crop::pad) return centred(fitting(size, spec), spec);
  const double longer = std::max(size[0], size[1]);
  const double shorter = std::min(size[0], size[1]);
  const auto resized = static_cast<std::int64_t>(spec.resize * longer / shorter);
  // A strip one pixel wide would otherwise grow without bound.
  if (spec.resize * resized > max_pixels) fail_narrow(size);
  return centred(size[0] <= size[1] ? std::array<std::int64_t, 2>{spec.resize, resized}
                                    : std::array<std::int64_t, 2>{resized, spec.resize},
                 spec);
}

/// What of a side the crop keeps.
Axis kept(std::int64_t in, std::int64_t out, std::int64_t corner, int wanted) {
  const std::int64_t first = std::max<std::int64_t>(corner, 0);
  const std::int64_t last = std::min(corner + wanted, out);
  return {in, out, first, static_cast<int>(last - first)};
}

}  // namespace

Placed placed(Size size, const ImageSpec& spec) {
  const Plan plan = plan_of(size, spec);
  return {kept(size[0], plan.resized[0], plan.corner[0], spec.width),
          kept(size[1], plan.resized[1], plan.corner[1], spec.height),
          static_cast<std::size_t>(std::max<std::int64_t>(-plan.corner[0], 0)),
          static_cast<std::size_t>(std::max<std::int64_t>(-plan.corner[1], 0))};
}

std::array<float, 256> normalised(const ImageSpec& spec, int channel) {
  const auto mean = static_cast<float>(spec.mean[channel]);
  const auto deviation = static_cast<float>(spec.std[channel]);
  std::array<float, 256> table;
  for (int level = 0; level < 256; ++level) {
    table[level] = (static_cast<float>(level) / 255.0f - mean) / deviation;
  }
  return table;
}

void prepare(const PixelView& picture, const ImageSpec& spec, std::uint8_t* out) {
  const Placed place = placed({picture.width, picture.height}, spec);
  const std::size_t stride = std::size_t{3} * spec.width;
  if (!place.fills(spec)) {
    std::memset(out, spec.crop == Crop::pad ? spec.pad_level : 0, stride * spec.height);
  }
  scale(picture, place.across, place.down, spec.interpolation,
        out + place.top * stride + place.left * 3, stride);
}

namespace {

void prepare_rgb(const PixelView& picture, const ImageSpec& spec, void* out) {
  if (spec.dtype == InputType::uint8) {
    return prepare(picture, spec, static_cast<std::uint8_t*>(out));
  }
  const std::size_t count = static_cast<std::size_t>(spec.height) * spec.width;
  std::vector<std::uint8_t> pixels(3 * count);
  prepare(picture, spec, pixels.data());
  auto* values = static_cast<float*>(out);
  for (int channel = 0; channel < 3; ++channel) {
    const std::array<float, 256> table = normalised(spec, channel);
    const std::uint8_t* from = pixels.data() + channel;
    for (std::size_t i = 0; i < count; ++i) *values++ = table[from[3 * i]];
  }
}

}  // namespace

void prepare_input(const tame_image& image, const Reading& reading, const ImageSpec& spec,
                   void* out) {
  const bool channels = image.format == TAME_CHANNELS || image.format == TAME_CHANNELS16;
  if (spec.channels() != 3 || spec.dtype == InputType::uint16 || channels) {
    return prepare_channels(image, reading, spec, out);
  }
  with_pixels(image, reading, [&](const PixelView& pixels) { prepare_rgb(pixels, spec, out); });
}

Box visible_box(Size size, const ImageSpec& spec) {
  const double width = size[0], height = size[1];
  if (spec.crop == Crop::none) return {0.0, 0.0, width, height};
  const Plan plan = plan_of(size, spec);
  const double across = width / static_cast<double>(plan.resized[0]);
  const double down = height / static_cast<double>(plan.resized[1]);
  const auto left = static_cast<double>(plan.corner[0]);
  const auto top = static_cast<double>(plan.corner[1]);
  return {left * across, top * down, (left + spec.width) * across, (top + spec.height) * down};
}

}  // namespace libtame
