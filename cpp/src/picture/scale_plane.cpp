// Resizing of floats, equal to Pillow's in mode "F" to the bit.
#include <algorithm>

#include "scale.hpp"

namespace libtame {
namespace {

using ExactTaps = Taps<double>;

/// Resize one row.
void sum_floats(const float* row, const Axis& across, const ExactTaps& taps, float* out) {
  if (across.identity()) {
    std::copy_n(row + across.first, across.count, out);
    return;
  }
  for (int x = 0; x < across.count; ++x) {
    double sum = 0.0;
    for (int i = 0; i < taps.length[x]; ++i) {
      sum += static_cast<double>(row[taps.start[x] + i]) * taps.row(x)[i];
    }
    out[x] = static_cast<float>(sum);
  }
}

/// Sum rows of `columns` floats for one of the result.
void sum_float_rows(const PlaneRow& rows, const ExactTaps& taps, int place,
                    std::vector<double>& sums, float* out) {
  std::fill(sums.begin(), sums.end(), 0.0);
  for (int i = 0; i < taps.length[place]; ++i) {
    const float* row = rows(taps.start[place] + i);
    const double weight = taps.row(place)[i];
    for (std::size_t x = 0; x < sums.size(); ++x) sums[x] += static_cast<double>(row[x]) * weight;
  }
  std::transform(sums.begin(), sums.end(), out, [](double sum) { return static_cast<float>(sum); });
}

std::vector<float> nearest_floats(const PlaneRow& rows, const Axis& across, const Axis& down) {
  std::vector<float> result;
  result.reserve(static_cast<std::size_t>(across.count) * down.count);
  const std::vector<std::int64_t> columns = nearest_taps(across);
  for (const std::int64_t y : nearest_taps(down)) {
    const float* row = y < 0 ? nullptr : rows(y);
    for (const std::int64_t x : columns) {
      result.push_back(row != nullptr && x >= 0 ? row[x] : 0.0f);
    }
  }
  return result;
}

/// Both passes, the horizontal one first, over the rows that matter.
std::vector<float> across_first(const PlaneRow& rows, const Axis& across, const ExactTaps& columns,
                                const ExactTaps& taps) {
  const auto count = static_cast<std::size_t>(across.count);
  const std::int64_t begin = taps.start.front();
  const std::int64_t end = taps.start.back() + taps.length.back();
  std::vector<float> between(count * static_cast<std::size_t>(end - begin));
  for (std::int64_t y = begin; y < end; ++y) {
    sum_floats(rows(y), across, columns, between.data() + (y - begin) * across.count);
  }
  std::vector<float> result(count * taps.start.size());
  std::vector<double> sums(count);
  const PlaneRow row = [&](std::int64_t y) { return between.data() + (y - begin) * across.count; };
  for (std::size_t place = 0; place < taps.start.size(); ++place) {
    sum_float_rows(row, taps, static_cast<int>(place), sums, result.data() + place * count);
  }
  return result;
}

std::vector<float> down_first(const PlaneRow& rows, const Axis& across, const ExactTaps& columns,
                              const ExactTaps& taps) {
  const auto count = static_cast<std::size_t>(across.count);
  std::vector<float> result(count * taps.start.size());
  std::vector<float> row(static_cast<std::size_t>(across.in));
  std::vector<double> sums(row.size());
  for (std::size_t place = 0; place < taps.start.size(); ++place) {
    sum_float_rows(rows, taps, static_cast<int>(place), sums, row.data());
    sum_floats(row.data(), across, columns, result.data() + place * count);
  }
  return result;
}

}  // namespace

std::vector<float> scale_plane(const PlaneRow& rows, const Axis& across, const Axis& down,
                               Interpolation interpolation) {
  if (across.count < 1 || down.count < 1) return {};
  if (interpolation == Interpolation::nearest && !(across.identity() && down.identity())) {
    return nearest_floats(rows, across, down);
  }
  ExactTaps columns;
  if (!across.identity()) columns = exact_taps(across, interpolation);
  if (down.identity()) {
    const auto count = static_cast<std::size_t>(across.count);
    std::vector<float> result(count * down.count);
    for (int y = 0; y < down.count; ++y) {
      sum_floats(rows(down.first + y), across, columns, result.data() + y * count);
    }
    return result;
  }
  const ExactTaps taps = exact_taps(down, interpolation);
  return vertical_first(across, down) ? down_first(rows, across, columns, taps)
                                      : across_first(rows, across, columns, taps);
}

}  // namespace libtame
