// Which classes are explained: what was asked for, checked and spelt out for the graph.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "artifact/manifest.hpp"

namespace libtame {

/// What the caller asks, copied out of tame_request.
struct Asked {
  std::vector<std::int64_t> class_ids;  // rows * count; empty: `top`
  std::size_t count = 0;                // K
  std::size_t rows = 1;                 // 1 is for all pictures
  int top = 0;                          // 0: not asked
  std::optional<std::int64_t> versus;   // why each of them, and not this class
  int map_width = 0;                    // 0: as the network gives them
  int map_height = 0;
  int batch_size = 8;
};

/// K classes of each picture, for the graph.
struct Chosen {
  std::size_t count = 0;           // K
  std::vector<std::int64_t> rows;  // (1 or N) * K; empty for a graph that takes no class ids

  /// Write the rows of `pictures` pictures from `first` on; all alike where one row is for all.
  void write(std::size_t first, std::size_t pictures, std::int64_t* out) const;
};

/// Throws Failure: TAME_INPUT_ERROR for what the artifact cannot explain, as Python does.
Chosen choose_classes(const Manifest& manifest, const Asked& asked, std::size_t pictures);

/// Check the size that maps are to be resized to. Throws Failure: TAME_INPUT_ERROR.
void check_map_size(const Asked& asked);

}  // namespace libtame
