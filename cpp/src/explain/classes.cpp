#include "classes.hpp"

#include <algorithm>

#include "error.hpp"

namespace libtame {
namespace {

/// Graphs that always explain the same classes take no choice.
Chosen fixed_classes(const Manifest& manifest, const Asked& asked) {
  const bool all = manifest.explain == ExplainMode::all;
  const std::int64_t count = all ? manifest.classes : manifest.ranks;
  const bool other_top = asked.top != 0 && (all || asked.top != manifest.ranks);
  if (asked.count > 0 || other_top) {
    fail(TAME_INPUT_ERROR, "this artifact always explains ",
         all ? "every class" : words("the top ", manifest.ranks),
         "; to choose, export it with --explain selectable");
  }
  return {static_cast<std::size_t>(count), {}};
}

void check_ids(const Manifest& manifest, const Asked& asked) {
  for (std::size_t place = 0; place < asked.class_ids.size(); ++place) {
    const std::int64_t id = asked.class_ids[place];
    if (id < -1 || id >= manifest.classes) {
      fail(TAME_INPUT_ERROR, "class id ", id, " is out of range; expected -1 to ",
           manifest.classes - 1);
    }
    if (id == -1 && place % asked.count >= static_cast<std::size_t>(manifest.ranks)) {
      fail(TAME_INPUT_ERROR, "-1 stands in place ", manifest.ranks + 1,
           " or later; this artifact ranks ", manifest.ranks,
           " classes (export with a larger --top-k for more)");
    }
  }
}

}  // namespace

void Chosen::write(std::size_t first, std::size_t pictures, std::int64_t* out) const {
  const bool one_for_all = rows.size() == count;
  for (std::size_t picture = 0; picture < pictures; ++picture) {
    const auto row =
        rows.begin() + static_cast<std::ptrdiff_t>(one_for_all ? 0 : (first + picture) * count);
    out = std::copy_n(row, count, out);
  }
}

Chosen choose_classes(const Manifest& manifest, const Asked& asked, std::size_t pictures) {
  if (asked.count > 0 && asked.top != 0) {
    fail(TAME_INPUT_ERROR, "found both class_ids and top; expected one of them");
  }
  if (manifest.explain != ExplainMode::selectable) return fixed_classes(manifest, asked);
  if (asked.count == 0) {
    if (asked.top < 0 || asked.top > manifest.ranks) {
      fail(TAME_INPUT_ERROR, "top is ", asked.top, "; this artifact ranks 1 to ", manifest.ranks,
           " classes (export with a larger --top-k for more)");
    }
    const auto count = static_cast<std::size_t>(std::max(asked.top, 1));
    return {count, std::vector<std::int64_t>(count, -1)};
  }
  if (asked.rows != 1 && asked.rows != pictures) {
    fail(TAME_INPUT_ERROR, "class_ids has ", asked.rows, " rows; expected ", pictures,
         ", one a picture");
  }
  check_ids(manifest, asked);
  return {asked.count, asked.class_ids};
}

void check_map_size(const Asked& asked) {
  const bool native = asked.map_width == 0 && asked.map_height == 0;
  const bool given = asked.map_width >= 1 && asked.map_height >= 1 && asked.map_width <= max_side &&
                     asked.map_height <= max_side;
  if (!native && !given) {
    fail(TAME_INPUT_ERROR, "map size is ", asked.map_width, "x", asked.map_height,
         "; expected 0x0 (as the network gives them) or 1 to ", max_side, " pixels a side");
  }
}

}  // namespace libtame
