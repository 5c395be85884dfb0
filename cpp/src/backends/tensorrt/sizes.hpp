// Sizes of a call, and which profile of an engine takes them.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

namespace libtame::trt {

/// Pictures, and classes to explain for each (1 where the graph takes no class ids).
struct Sizes {
  std::int64_t batch = 1;
  std::int64_t explained = 1;

  bool operator==(const Sizes& other) const {
    return batch == other.batch && explained == other.explained;
  }
};

/// Min, opt and max of each size.
struct Profile {
  std::array<std::int64_t, 3> batch{1, 1, 1};
  std::array<std::int64_t, 3> explained{0, 0, 0};  // zeros where the graph takes no class ids
};

/// One input or output: a size is TAME_PLUGIN_BATCH, TAME_PLUGIN_EXPLAINED or a number.
struct Tensor {
  std::string name;
  std::string dtype;
  std::size_t item_bytes = 0;
  std::vector<std::int64_t> shape;

  std::vector<std::int64_t> shape_of(const Sizes& sizes) const;

  /// Throws Failure: TAME_INCOMPATIBLE_ERROR for more bytes than a machine can address.
  std::size_t bytes(const Sizes& sizes) const;
};

/// A profile by its number, and the sizes filled up to its min.
struct Fit {
  std::int32_t profile = 0;
  Sizes sizes;
};

/// The tightest profile. Throws Failure: TAME_INPUT_ERROR if none holds the sizes.
Fit fit(const std::vector<Profile>& profiles, const Sizes& asked);

/// The largest of each size.
Sizes largest(const std::vector<Profile>& profiles);

/// "1,4,8" and the like, for messages.
std::string described(const std::vector<Profile>& profiles);

std::string described(const std::vector<std::int64_t>& shape);

}  // namespace libtame::trt
