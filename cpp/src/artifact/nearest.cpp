#include "artifact/nearest.hpp"

#include <algorithm>
#include <string_view>
#include <utility>

#include "artifact/text.hpp"

namespace libtame {

namespace {

constexpr double least_ratio = 0.6;

std::u32string code_points(std::string_view text) {
  std::u32string points;
  for (std::size_t at = 0; at < text.size();) {
    points += next_code_point(text, at);
  }
  return points;
}

/// How many letters two texts share: those of the longest common part, and so on left and right of
/// it. Of parts of one length the first counts.
std::size_t shared_letters(std::u32string_view one, std::u32string_view other) {
  std::size_t best = 0;
  std::size_t best_one = 0;
  std::size_t best_other = 0;
  std::vector<std::size_t> before(other.size() + 1);
  for (std::size_t row = 0; row < one.size(); ++row) {
    std::vector<std::size_t> lengths(other.size() + 1);
    for (std::size_t column = 0; column < other.size(); ++column) {
      if (one[row] != other[column]) continue;
      const std::size_t length = lengths[column + 1] = before[column] + 1;
      if (length > best) {
        best = length;
        best_one = row + 1 - length;
        best_other = column + 1 - length;
      }
    }
    before = std::move(lengths);
  }
  if (best == 0) return 0;
  return best + shared_letters(one.substr(0, best_one), other.substr(0, best_other)) +
         shared_letters(one.substr(best_one + best), other.substr(best_other + best));
}

}  // namespace

std::optional<std::string> nearest(const std::string& word, const std::vector<std::string>& names) {
  const std::u32string meant = code_points(word);
  std::optional<std::pair<double, std::string>> found;
  for (const std::string& name : names) {
    const std::u32string known = code_points(name);
    const auto ratio = [&](std::size_t shared) {
      return 2.0 * static_cast<double>(shared) / static_cast<double>(known.size() + meant.size());
    };
    // The first bounds the second, and keeps long words from being compared.
    if (ratio(std::min(known.size(), meant.size())) < least_ratio) continue;
    const std::pair<double, std::string> scored(ratio(shared_letters(known, meant)), name);
    if (scored.first >= least_ratio && (!found || scored > *found)) {
      found = scored;
    }
  }
  return found ? std::optional(found->second) : std::nullopt;
}

}  // namespace libtame
