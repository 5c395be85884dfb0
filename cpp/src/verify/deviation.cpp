#include "verify/deviation.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "artifact/contrast.hpp"
#include "error.hpp"

namespace libtame {
namespace {

/// A range below this share of the magnitude is rounding noise (FLAT_RANGE in Python).
constexpr double flat_map_range = 1e-3;
/// The graph stretches every map that is not flat to the whole of [0, 1], or to an end of [-1, 1].
constexpr double whole_range = 0.999;

/// What a backend gave for some pictures.
struct Found {
  std::vector<float> logits;
  std::vector<std::int64_t> class_ids;
  std::vector<float> maps;
};

/// Values in a row: the logits of a picture, or a map.
struct Row {
  const float* values;
  std::size_t size;

  double low() const { return static_cast<double>(*std::min_element(values, values + size)); }
  double high() const { return static_cast<double>(*std::max_element(values, values + size)); }
  double magnitude() const { return std::max(std::abs(low()), std::abs(high())); }
};

Found ask(Backend& backend, const Manifest& manifest, const Reference& reference,
          std::int64_t count, const std::vector<std::int64_t>& class_ids, std::int64_t explained) {
  const auto [height, width] = manifest.map_size();
  const std::int64_t maps = count * explained;
  Found found;
  found.logits.resize(static_cast<std::size_t>(count * manifest.classes));
  found.class_ids.resize(static_cast<std::size_t>(maps));
  found.maps.resize(static_cast<std::size_t>(maps * height * width));
  Call call;
  call.count = count;
  call.explained = explained;
  call.images = reference.images.data();
  if (manifest.explain == ExplainMode::selectable) call.class_ids = class_ids.data();
  call.logits = found.logits.data();
  call.explained_ids = found.class_ids.data();
  call.maps = found.maps.data();
  backend.run(call);
  return found;
}

void require_finite(const char* name, const std::vector<float>& values, std::int64_t count) {
  const auto wrong =
      std::find_if(values.begin(), values.end(), [](float value) { return !std::isfinite(value); });
  if (wrong == values.end()) return;
  throw Fault(words(name, " hold ", std::isnan(*wrong) ? "nan" : "inf", " at batch ", count,
                    "; the PyTorch network gives finite numbers"));
}

/// The largest error of a row as a share of the expected values' range, which is at least `least`.
double share(const Row& found, const Row& expected, double least) {
  const double span =
      std::max({expected.high() - expected.low(), expected.magnitude() * flat_map_range, least,
                static_cast<double>(std::numeric_limits<float>::min())});
  double worst = 0;
  for (std::size_t index = 0; index < found.size; ++index) {
    worst = std::max(worst, std::abs(static_cast<double>(found.values[index]) -
                                     static_cast<double>(expected.values[index])));
  }
  return worst / span;
}

/// Whether a map's range is too small to mean anything; signed: of a difference of two.
bool is_flat(const Row& map, MapKind kind, bool is_signed) {
  const double span = map.high() - map.low();
  if (kind == MapKind::minmax && (is_signed ? map.magnitude() : span) < whole_range) return true;
  return span <= flat_map_range * map.magnitude();
}

double mean(const Row& row) {
  double sum = 0;
  for (std::size_t index = 0; index < row.size; ++index) {
    sum += static_cast<double>(row.values[index]);
  }
  return sum / static_cast<double>(row.size);
}

/// Pearson's correlation of two maps; two flat ones agree.
double correlation(const Row& first, const Row& second, MapKind kind, bool is_signed) {
  const bool flat = is_flat(first, kind, is_signed);
  const bool other_flat = is_flat(second, kind, is_signed);
  if (flat || other_flat) return flat == other_flat ? 1.0 : 0.0;
  const double of_first = mean(first);
  const double of_second = mean(second);
  double both = 0;
  double ones = 0;
  double others = 0;
  for (std::size_t index = 0; index < first.size; ++index) {
    const double one = static_cast<double>(first.values[index]) - of_first;
    const double other = static_cast<double>(second.values[index]) - of_second;
    both += one * other;
    ones += one * one;
    others += other * other;
  }
  return both / std::sqrt(ones * others);
}

/// -1 in place j must name the graph's own j-th most likely class.
void check_ranking(const Found& found, const Manifest& manifest, std::int64_t count) {
  const auto classes = static_cast<std::size_t>(manifest.classes);
  const auto ranks = static_cast<std::size_t>(manifest.ranks);
  for (std::size_t row = 0; row < static_cast<std::size_t>(count); ++row) {
    const float* logits = found.logits.data() + row * classes;
    std::vector<float> sorted(logits, logits + classes);
    std::sort(sorted.begin(), sorted.end(), std::greater<>());
    for (std::size_t place = 0; place < ranks; ++place) {
      const std::int64_t id = found.class_ids[row * ranks + place];
      // By their logits, because classes that tie have no order.
      if (id < 0 || id >= manifest.classes || logits[id] != sorted[place]) {
        throw Fault(words("-1 in place ", place + 1, " gave class ", id, " of picture ", row,
                          ", which is not the likeliest of its place"));
      }
    }
  }
}

void compare(const Found& found, const Reference& reference, const Manifest& manifest,
             std::int64_t count, Deviation& worst) {
  require_finite("logits", found.logits, count);
  require_finite("maps", found.maps, count);
  const auto classes = static_cast<std::size_t>(manifest.classes);
  for (std::size_t at = 0; at < found.logits.size(); at += classes) {
    const double error =
        share({found.logits.data() + at, classes}, {reference.logits.data() + at, classes}, 0.0);
    worst.logit_error = std::max(worst.logit_error, error);
  }
  const auto [height, width] = manifest.map_size();
  const auto size = static_cast<std::size_t>(height * width);
  const double least = manifest.maps == MapKind::minmax ? 1.0 : 0.0;
  for (std::size_t at = 0, map = 0; at < found.maps.size(); at += size, ++map) {
    const std::int64_t asked = reference.class_ids[map];
    const bool is_contrast = decode_contrast(asked, manifest.classes).versus != alone_id;
    const Row one{found.maps.data() + at, size};
    const Row expected{reference.maps.data() + at, size};
    worst.map_error = std::max(worst.map_error, share(one, expected, least));
    worst.map_correlation =
        std::min(worst.map_correlation, correlation(one, expected, manifest.maps, is_contrast));
  }
}

}  // namespace

Deviation measure_deviation(Backend& backend, const Manifest& manifest,
                            const Reference& reference) {
  Deviation worst;
  std::vector<std::int64_t> batches{1, reference.count};
  if (reference.count == 1) batches.pop_back();
  for (const std::int64_t count : batches) {
    const Found found =
        ask(backend, manifest, reference, count, reference.class_ids, reference.explained);
    compare(found, reference, manifest, count, worst);
    if (manifest.explain != ExplainMode::selectable) continue;
    const std::vector<std::int64_t> likeliest(static_cast<std::size_t>(count * manifest.ranks), -1);
    check_ranking(ask(backend, manifest, reference, count, likeliest, manifest.ranks), manifest,
                  count);
  }
  return worst;
}

}  // namespace libtame
