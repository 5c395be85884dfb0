#include "classes.hpp"

#include <algorithm>

#include "artifact/contrast.hpp"
#include "error.hpp"

namespace libtame {
namespace {

std::string explained_always(const Manifest& manifest) {
  if (manifest.explain == ExplainMode::all) return "every class";
  return words("the top ", manifest.ranks);
}

/// Graphs that always explain the same classes take no choice.
Chosen fixed_classes(const Manifest& manifest, const Asked& asked) {
  const bool all = manifest.explain == ExplainMode::all;
  const std::int64_t count = all ? manifest.classes : manifest.ranks;
  const bool other_top = asked.top != 0 && (all || asked.top != manifest.ranks);
  if (asked.count > 0 || other_top) {
    fail(TAME_INPUT_ERROR, "this artifact always explains ", explained_always(manifest),
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

/// Check that the graph can contrast classes with this one.
void check_versus(const Manifest& manifest, std::int64_t versus) {
  if (manifest.explain != ExplainMode::selectable) {
    fail(TAME_INPUT_ERROR, "this artifact always explains ", explained_always(manifest),
         ", each class alone; to contrast one with another, export it with --explain selectable");
  }
  if (!manifest.contrast && (manifest.classes < 2 || manifest.classes > most_contrasted)) {
    fail(TAME_INPUT_ERROR, "this artifact has ", manifest.classes,
         " classes, and none can be contrasted with another; expected 2 to ", most_contrasted,
         " classes");
  }
  if (!manifest.contrast) {
    fail(TAME_INPUT_ERROR,
         "this artifact's graph cannot contrast classes, because an older tame-deploy wrote it; "
         "export it again");
  }
  if (versus < 0 || versus >= manifest.classes) {
    fail(TAME_INPUT_ERROR, "versus is class ", versus, "; expected 0 to ", manifest.classes - 1);
  }
}

/// Put the other class into what the graph is asked.
Chosen contrasted(Chosen chosen, const Manifest& manifest, const Asked& asked) {
  if (!asked.versus) return chosen;
  for (std::int64_t& id : chosen.rows) {
    if (id == *asked.versus) {
      fail(TAME_INPUT_ERROR, "class ", id,
           " is to be explained and is also what it is contrasted with; expected two different "
           "classes");
    }
    id = encode_contrast({id, *asked.versus}, manifest.classes);
  }
  return chosen;
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
  if (asked.versus) check_versus(manifest, *asked.versus);
  if (manifest.explain != ExplainMode::selectable) return fixed_classes(manifest, asked);
  if (asked.count == 0) {
    if (asked.top < 0 || asked.top > manifest.ranks) {
      fail(TAME_INPUT_ERROR, "top is ", asked.top, "; this artifact ranks 1 to ", manifest.ranks,
           " classes (export with a larger --top-k for more)");
    }
    const auto count = static_cast<std::size_t>(std::max(asked.top, 1));
    return contrasted({count, std::vector<std::int64_t>(count, likeliest_id)}, manifest, asked);
  }
  if (asked.rows != 1 && asked.rows != pictures) {
    fail(TAME_INPUT_ERROR, "class_ids has ", asked.rows, " rows; expected ", pictures,
         ", one a picture");
  }
  check_ids(manifest, asked);
  return contrasted({asked.count, asked.class_ids}, manifest, asked);
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
