#include <algorithm>
#include <cmath>
#include <limits>

#include "picture.hpp"
#include "scale.hpp"

namespace libtame {
namespace {

/// A map whose range is below this share of its magnitude is flat (types.FLAT_RANGE).
constexpr double flat_range = 1e-3;
/// How quickly colour covers with what matters: middle values still show.
constexpr float cover = 0.8f;

using Color = std::array<std::uint8_t, 3>;
using Rectangle = std::array<std::int64_t, 4>;  // left, top, right, bottom

struct Anchor {
  double stop;
  Color color;
};

using Anchors = std::vector<Anchor>;

// The anchors of overlay.py.
Anchors plain_anchors() {
  return {{0.00, {13, 8, 60}},   {0.20, {84, 15, 109}},  {0.40, {166, 37, 98}},
          {0.60, {226, 81, 57}}, {0.80, {251, 155, 24}}, {1.00, {252, 255, 164}}};
}

// Orange for what speaks for a class, blue for what speaks for the other.
Anchors for_anchors() {
  return {
      {0.00, {24, 24, 30}}, {0.30, {122, 46, 12}}, {0.60, {221, 101, 20}}, {1.00, {255, 190, 92}}};
}
Anchors against_anchors() {
  return {
      {0.00, {24, 24, 30}}, {0.30, {18, 72, 134}}, {0.60, {44, 140, 226}}, {1.00, {130, 206, 255}}};
}

using Colors = std::array<Color, 256>;

Colors build_colors(const Anchors& anchors) {
  Colors table{};
  for (int level = 0; level < 256; ++level) {
    const double at = level * (1.0 / 255);
    const auto to = std::find_if(anchors.begin() + 1, anchors.end() - 1,
                                 [at](const Anchor& anchor) { return anchor.stop > at; });
    const auto from = to - 1;
    for (std::size_t c = 0; c < 3; ++c) {
      const double low = from->color[c];
      const double slope = (to->color[c] - low) / (to->stop - from->stop);
      table[level][c] = static_cast<std::uint8_t>(slope * (at - from->stop) + low + 0.5);
    }
  }
  return table;
}

/// The colours of a map's sides: what is above 0, and below.
struct Sides {
  Colors above, below;
};

const Sides& sides(bool is_signed) {
  static const Sides plain{build_colors(plain_anchors()), build_colors(plain_anchors())};
  static const Sides two{build_colors(for_anchors()), build_colors(against_anchors())};
  return is_signed ? two : plain;
}

/// What was not seen: two thirds of the way to grey.
std::array<std::uint8_t, 256> build_dimmed() {
  std::array<std::uint8_t, 256> table{};
  for (int level = 0; level < 256; ++level) {
    const float dimmed = static_cast<float>(level) + 0.65f * static_cast<float>(128 - level);
    table[level] = static_cast<std::uint8_t>(dimmed);
  }
  return table;
}

int level_of(float value) { return static_cast<int>(value * 255.0f + 0.5f); }

/// NaN is 0, what lies outside [0, 1] is moved to its edge.
float clipped(float value) { return value > 0.0f ? std::min(value, 1.0f) : 0.0f; }

/// Likewise of the distance from 0.
float clipped_distance(float value) { return value < 0.0f ? clipped(-value) : clipped(value); }

/// Resize the wanted window of a map.
std::vector<float> scaled_map(const float* map, const Axis& across, const Axis& down) {
  return scale_plane([&](std::int64_t y) { return map + y * across.in; }, across, down,
                     Interpolation::bilinear);
}

/// A box in whole pixels, halves to even as Python's round, at least one pixel a side.
Rectangle rounded(const Box& box) {
  const auto whole = [](double value) { return static_cast<std::int64_t>(std::nearbyint(value)); };
  const std::int64_t left = whole(box[0]), top = whole(box[1]);
  return {left, top, std::max(left + 1, whole(box[2])), std::max(top + 1, whole(box[3]))};
}

/// The part of a map's side that lies within a picture.
Axis shown(std::int64_t map_side, std::int64_t begin, std::int64_t end, std::int64_t side) {
  const std::int64_t first = std::max<std::int64_t>(begin, 0);
  const std::int64_t last = std::min(end, side);
  return {map_side, end - begin, first - begin,
          static_cast<int>(std::max<std::int64_t>(last - first, 0))};
}

void dim_row(const std::uint8_t* from, const Layout& layout, std::int64_t count, std::uint8_t* to) {
  static const std::array<std::uint8_t, 256> dimmed = build_dimmed();
  for (std::int64_t x = 0; x < count; ++x, from += layout.channels) {
    const std::uint8_t red = dimmed[from[layout.red]];
    const std::uint8_t green = dimmed[from[layout.green]];
    const std::uint8_t blue = dimmed[from[layout.blue]];
    *to++ = red;
    *to++ = green;
    *to++ = blue;
  }
}

/// Lay one row of heat over as many pixels.
void cover_row(const std::uint8_t* from, const Layout& layout, const float* heat, int count,
               float strength, std::uint8_t* to, bool is_signed) {
  const Sides& colors = sides(is_signed);
  for (int x = 0; x < count; ++x, from += layout.channels) {
    const float value = is_signed ? clipped_distance(heat[x]) : clipped(heat[x]);
    const Color& color = (heat[x] < 0.0f ? colors.below : colors.above)[level_of(value)];
    const int alpha = level_of(strength * std::pow(value, cover));
    const std::uint8_t red = mixed(from[layout.red], color[0], alpha);
    const std::uint8_t green = mixed(from[layout.green], color[1], alpha);
    const std::uint8_t blue = mixed(from[layout.blue], color[2], alpha);
    *to++ = red;
    *to++ = green;
    *to++ = blue;
  }
}

}  // namespace

void resize_map(const float* map, Size size, float* out, Size out_size) {
  const Axis across{size[0], out_size[0], 0, out_size[0]};
  const Axis down{size[1], out_size[1], 0, out_size[1]};
  const std::vector<float> resized = scaled_map(map, across, down);
  std::copy(resized.begin(), resized.end(), out);
}

void blend(const PixelView& picture, const float* heat, Size heat_size, const Box& box,
           double strength, std::uint8_t* out, std::size_t stride, bool is_signed) {
  const Rectangle place = rounded(box);
  const Layout layout = layout_of(picture.format);
  // Of the map only what shows: a box far larger than the picture costs no memory.
  const Axis across = shown(heat_size[0], place[0], place[2], picture.width);
  const Axis down = shown(heat_size[1], place[1], place[3], picture.height);
  std::vector<float> inside;
  if (across.count > 0 && down.count > 0) inside = scaled_map(heat, across, down);
  const std::int64_t left = std::max<std::int64_t>(place[0], 0);
  const std::int64_t right = left + across.count;
  const std::int64_t top = std::max<std::int64_t>(place[1], 0);
  for (std::int64_t y = 0; y < picture.height; ++y) {
    const std::uint8_t* from = picture.data + y * picture.stride;
    std::uint8_t* to = out + y * stride;
    if (inside.empty() || y < top || y >= top + down.count) {
      dim_row(from, layout, picture.width, to);
      continue;
    }
    dim_row(from, layout, left, to);
    cover_row(from + left * layout.channels, layout, inside.data() + (y - top) * across.count,
              across.count, clipped(static_cast<float>(strength)), to + 3 * left, is_signed);
    dim_row(from + right * layout.channels, layout, picture.width - right, to + 3 * right);
  }
}

std::vector<float> stretched(const float* map, std::size_t count, MapKind kind, bool is_signed) {
  std::vector<float> result(map, map + count);
  if (kind == MapKind::minmax || count == 0) return result;  // stretched already
  if (std::any_of(map, map + count, [](float value) { return std::isnan(value); })) {
    // As NumPy has it: the largest of values with a NaN is NaN, and so is all that follows.
    std::fill(result.begin(), result.end(), std::numeric_limits<float>::quiet_NaN());
    return result;
  }
  const auto [least, most] = std::minmax_element(map, map + count);
  const float low = *least, high = *most;
  const auto span = static_cast<double>(high - low);
  const double magnitude =
      std::max(std::fabs(static_cast<double>(low)), std::fabs(static_cast<double>(high)));
  if (is_signed) {
    if (magnitude == 0) return result;
    for (float& value : result) value /= static_cast<float>(magnitude);
    return result;
  }
  if (span <= flat_range * magnitude) {
    std::fill(result.begin(), result.end(), 0.0f);
    return result;
  }
  for (float& value : result) value = (value - low) / static_cast<float>(span);
  return result;
}

}  // namespace libtame
