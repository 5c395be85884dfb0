#include <algorithm>
#include <array>
#include <cstring>

#include "../error.hpp"
#include "picture.hpp"
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

Plan plan_of(Size size, const ImageSpec& spec) {
  if (std::max(size[0], size[1]) > most_side) fail_narrow(size);
  if (spec.crop == Crop::none) return {{spec.width, spec.height}, {0, 0}};
  const double longer = std::max(size[0], size[1]);
  const double shorter = std::min(size[0], size[1]);
  const auto resized = static_cast<std::int64_t>(spec.resize * longer / shorter);
  // A strip one pixel wide would otherwise grow without bound.
  if (spec.resize * resized > max_pixels) fail_narrow(size);
  Plan plan;
  plan.resized = size[0] <= size[1] ? std::array<std::int64_t, 2>{spec.resize, resized}
                                    : std::array<std::int64_t, 2>{resized, spec.resize};
  plan.corner = {corner_of(plan.resized[0], spec.width), corner_of(plan.resized[1], spec.height)};
  return plan;
}

/// What of a side the crop keeps.
Axis kept(std::int64_t in, std::int64_t out, std::int64_t corner, int wanted) {
  const std::int64_t first = std::max<std::int64_t>(corner, 0);
  const std::int64_t last = std::min(corner + wanted, out);
  return {in, out, first, static_cast<int>(last - first)};
}

}  // namespace

void prepare(const PixelView& picture, const ImageSpec& spec, std::uint8_t* out) {
  const Plan plan = plan_of({picture.width, picture.height}, spec);
  const Axis across = kept(picture.width, plan.resized[0], plan.corner[0], spec.width);
  const Axis down = kept(picture.height, plan.resized[1], plan.corner[1], spec.height);
  const std::size_t stride = std::size_t{3} * spec.width;
  if (across.count < spec.width || down.count < spec.height) {
    std::memset(out, 0, stride * spec.height);
  }
  const std::int64_t left = std::max<std::int64_t>(-plan.corner[0], 0);
  const std::int64_t top = std::max<std::int64_t>(-plan.corner[1], 0);
  scale(picture, across, down, spec.interpolation, out + top * stride + left * 3, stride);
}

void prepare_input(const PixelView& picture, const ImageSpec& spec, void* out) {
  if (spec.dtype == InputType::uint8) {
    return prepare(picture, spec, static_cast<std::uint8_t*>(out));
  }
  const std::size_t count = static_cast<std::size_t>(spec.height) * spec.width;
  std::vector<std::uint8_t> pixels(3 * count);
  prepare(picture, spec, pixels.data());
  auto* values = static_cast<float*>(out);
  for (std::size_t channel = 0; channel < 3; ++channel) {
    const auto mean = static_cast<float>(spec.mean[channel]);
    const auto deviation = static_cast<float>(spec.std[channel]);
    float table[256];
    for (int level = 0; level < 256; ++level) {
      table[level] = (static_cast<float>(level) / 255.0f - mean) / deviation;
    }
    const std::uint8_t* from = pixels.data() + channel;
    for (std::size_t i = 0; i < count; ++i) *values++ = table[from[3 * i]];
  }
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
