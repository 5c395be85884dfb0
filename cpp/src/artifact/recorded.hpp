// How far a graph was from PyTorch where the artifact was made, as its manifest records it.
#pragma once

#include <optional>
#include <string>

namespace libtame {

/// Shares of the range of PyTorch's values, in the worst case.
struct RecordedErrors {
  double logit_error = 0;
  double map_error = 0;
};

/// What the text of a manifest, which was checked, records; nothing where it records none.
std::optional<RecordedErrors> recorded_errors(const std::string& text);

}  // namespace libtame
