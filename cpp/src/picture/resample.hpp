// Which pixels make up a resized one, and how much of each: Pillow's weights.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "../artifact/manifest.hpp"

namespace libtame {

/// A side that is resized, and the part of the result that is wanted.
struct Axis {
  std::int64_t in = 0;
  std::int64_t out = 0;
  std::int64_t first = 0;
  int count = 0;

  /// Whether resizing leaves this side alone: Pillow then skips the pass.
  bool identity() const { return in == out; }
};

/// Whether Pillow (since 13) resizes vertically before it resizes horizontally: where the height
/// shrinks by far more than the width. The order shows, as pixels are rounded in between.
inline bool vertical_first(const Axis& across, const Axis& down) {
  const std::int64_t lower = down.in - down.out;
  return lower > 0 && lower > 2 * (across.in - across.out);
}

/// For each wanted place: the first source pixel and the weights from there on.
template <typename Weight>
struct Taps {
  int width = 0;    // places for weights of one result
  int longest = 0;  // of `length`
  std::vector<std::int64_t> start;
  std::vector<int> length;
  std::vector<Weight> weights;

  const Weight* row(int place) const {
    return weights.data() + static_cast<std::size_t>(place) * width;
  }
};

/// Bits behind the point of fixed-point weights.
inline constexpr int weight_bits = 22;

/// Weights that sum to one. Not for Interpolation::nearest.
Taps<double> exact_taps(const Axis& axis, Interpolation interpolation);

/// The same in fixed point.
Taps<std::int32_t> fixed_taps(const Axis& axis, Interpolation interpolation);

/// The source pixel of each wanted place, nearest neighbour; -1 where there is none.
std::vector<std::int64_t> nearest_taps(const Axis& axis);

}  // namespace libtame
