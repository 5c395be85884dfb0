// How far a backend is from PyTorch on the artifact's reference pictures.
// The counterpart of tame_deploy/runtime/verify/parity.py and comparison.py.
#pragma once

#include <stdexcept>

#include "backends/backend.hpp"
#include "verify/reference.hpp"

namespace libtame {

/// The worst case; errors are shares of the range of PyTorch's values.
struct Deviation {
  double logit_error = 0;
  double map_error = 0;
  double map_correlation = 1;  // the least of a map with PyTorch's, in [-1, 1]
};

/// What no backend that computes a graph rightly gives.
class Fault : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Run the reference's pictures one by one and together.
///
/// Throws Fault for NaN or infinity, or where -1 names another class than the likeliest; Failure
/// where the graph cannot be run.
Deviation measure_deviation(Backend& backend, const Manifest& manifest, const Reference& reference);

}  // namespace libtame
