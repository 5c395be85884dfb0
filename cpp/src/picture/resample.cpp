#include "resample.hpp"

#include <algorithm>
#include <cmath>

namespace libtame {
namespace {

constexpr double pi = 3.14159265358979323846;

double triangle(double x) {
  const double away = std::fabs(x);
  return away < 1.0 ? 1.0 - away : 0.0;
}

// Keys' cubic with a = -1/2. Written as Pillow evaluates it: the last bit decides roundings.
double cubic(double x) {
  constexpr double a = -0.5;
  const double away = std::fabs(x);
  if (away < 1.0) return ((a + 2.0) * away - (a + 3.0)) * away * away + 1;
  if (away < 2.0) return (((away - 5) * away + 8) * away - 4) * a;
  return 0.0;
}

double sinc(double x) {
  if (x == 0.0) return 1.0;
  const double angle = x * pi;
  return std::sin(angle) / angle;
}

double windowed_sinc(double x) { return -3.0 <= x && x < 3.0 ? sinc(x) * sinc(x / 3) : 0.0; }

struct Kernel {
  double (*weight)(double);
  double support;
};

Kernel kernel_of(Interpolation interpolation) {
  switch (interpolation) {
    case Interpolation::bicubic:
      return {cubic, 2.0};
    case Interpolation::lanczos:
      return {windowed_sinc, 3.0};
    case Interpolation::nearest:
    case Interpolation::bilinear:
      break;
  }
  return {triangle, 1.0};
}

/// Weights of the source pixels from `first` on, scaled to sum to one.
void fill_weights(double* weights, int length, double first, double shrink, const Kernel& kernel) {
  double sum = 0.0;
  for (int i = 0; i < length; ++i) {
    weights[i] = kernel.weight((i + first + 0.5) * shrink);
    sum += weights[i];
  }
  if (sum == 0.0) return;
  for (int i = 0; i < length; ++i) weights[i] /= sum;
}

}  // namespace

Taps<double> exact_taps(const Axis& axis, Interpolation interpolation) {
  const Kernel kernel = kernel_of(interpolation);
  const double scale = static_cast<double>(axis.in) / static_cast<double>(axis.out);
  const double widening = std::max(scale, 1.0);  // shrinking averages over more pixels
  const double support = kernel.support * widening;
  const double shrink = 1.0 / widening;

  Taps<double> taps;
  taps.width =
      static_cast<int>(std::min(static_cast<std::int64_t>(std::ceil(support)) * 2 + 1, axis.in));
  taps.start.resize(axis.count);
  taps.length.resize(axis.count);
  taps.weights.resize(static_cast<std::size_t>(axis.count) * taps.width);
  for (int place = 0; place < axis.count; ++place) {
    const double center = (static_cast<double>(axis.first + place) + 0.5) * scale;
    const auto begin = std::max<std::int64_t>(static_cast<std::int64_t>(center - support + 0.5), 0);
    const auto end = std::min(static_cast<std::int64_t>(center + support + 0.5), axis.in);
    const int length = static_cast<int>(end - begin);
    taps.start[place] = begin;
    taps.length[place] = length;
    taps.longest = std::max(taps.longest, length);
    fill_weights(taps.weights.data() + static_cast<std::size_t>(place) * taps.width, length,
                 static_cast<double>(begin) - center, shrink, kernel);
  }
  return taps;
}

Taps<std::int32_t> fixed_taps(const Axis& axis, Interpolation interpolation) {
  Taps<double> exact = exact_taps(axis, interpolation);
  Taps<std::int32_t> fixed;
  fixed.width = exact.width;
  fixed.longest = exact.longest;
  fixed.start = std::move(exact.start);
  fixed.length = std::move(exact.length);
  fixed.weights.resize(exact.weights.size());
  std::transform(exact.weights.begin(), exact.weights.end(), fixed.weights.begin(), [](double w) {
    const double scaled = w * (1 << weight_bits);
    return static_cast<std::int32_t>(scaled < 0 ? scaled - 0.5 : scaled + 0.5);
  });
  return fixed;
}

std::vector<std::int64_t> nearest_taps(const Axis& axis) {
  const double step = static_cast<double>(axis.in) / static_cast<double>(axis.out);
  std::vector<std::int64_t> sources(axis.count);
  // Summed up and not multiplied, from the first place on: Pillow's roundings are of this sum.
  double at = step * 0.5;
  for (std::int64_t place = 0; place < axis.first + axis.count; ++place, at += step) {
    if (place < axis.first) continue;
    const auto source = static_cast<std::int64_t>(at);
    sources[static_cast<std::size_t>(place - axis.first)] = source < axis.in ? source : -1;
  }
  return sources;
}

}  // namespace libtame
