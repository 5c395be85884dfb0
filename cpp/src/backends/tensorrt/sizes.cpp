#include "sizes.hpp"

#include <algorithm>
#include <cstdlib>
#include <limits>
#include <optional>
#include <tuple>

#include "error.hpp"
#include "plugin.hpp"

namespace libtame::trt {
namespace {

std::string extent(const std::array<std::int64_t, 3>& values) {
  return words(values[0], ",", values[1], ",", values[2]);
}

}  // namespace

std::vector<std::int64_t> Tensor::shape_of(const Sizes& sizes) const {
  std::vector<std::int64_t> found = shape;
  std::replace(found.begin(), found.end(), std::int64_t{TAME_PLUGIN_BATCH}, sizes.batch);
  std::replace(found.begin(), found.end(), std::int64_t{TAME_PLUGIN_EXPLAINED}, sizes.explained);
  return found;
}

std::size_t Tensor::bytes(const Sizes& sizes) const {
  std::size_t count = item_bytes;
  for (const std::int64_t size : shape_of(sizes)) {
    const auto most = static_cast<std::size_t>(std::numeric_limits<std::ptrdiff_t>::max());
    if (size < 1 || count > most / static_cast<std::size_t>(size)) {
      fail(TAME_INCOMPATIBLE_ERROR, name, " has shape ", described(shape), "; no memory holds it");
    }
    count *= static_cast<std::size_t>(size);
  }
  return count;
}

Fit fit(const std::vector<Profile>& profiles, const Sizes& asked) {
  using Rank = std::tuple<std::int64_t, std::int64_t, std::int64_t, std::int32_t>;
  std::optional<std::pair<Rank, Fit>> best;
  std::int32_t number = 0;
  for (const Profile& profile : profiles) {
    const bool takes_ids = profile.explained[2] > 0;
    if (asked.batch <= profile.batch[2] &&
        (!takes_ids || asked.explained <= profile.explained[2])) {
      const Sizes filled{std::max(asked.batch, profile.batch[0]),
                         std::max(asked.explained, profile.explained[0])};
      const Rank rank{filled.batch, std::abs(profile.batch[1] - asked.batch), profile.batch[2],
                      number};
      if (!best || rank < best->first) best = {rank, Fit{number, filled}};
    }
    ++number;
  }
  if (!best) {
    fail(TAME_INPUT_ERROR, "found ", asked.batch, " pictures with ", asked.explained,
         " classes each; no profile holds it (", described(profiles), ")");
  }
  return best->second;
}

Sizes largest(const std::vector<Profile>& profiles) {
  Sizes most;
  for (const Profile& profile : profiles) {
    most.batch = std::max(most.batch, profile.batch[2]);
    most.explained = std::max(most.explained, profile.explained[2]);
  }
  return most;
}

std::string described(const std::vector<Profile>& profiles) {
  std::string text;
  for (const Profile& profile : profiles) {
    if (!text.empty()) text += "; ";
    text += "batch " + extent(profile.batch);
    if (profile.explained[2] > 0) text += " with " + extent(profile.explained) + " classes each";
  }
  return text;
}

std::string described(const std::vector<std::int64_t>& shape) {
  std::string text = "(";
  for (const std::int64_t size : shape) {
    if (text.size() > 1) text += ", ";
    text += size < 0 ? "-1" : std::to_string(size);
  }
  return text + ")";
}

}  // namespace libtame::trt
