// No graph of lower precision is trusted unseen: it is held to the artifact's reference pictures
// where it first runs on a processor or a GPU, and what they show is kept in the user's cache.
// The counterpart of tame_deploy/runtime/verify/trust.py; both keep and read the same files.
#pragma once

#include <filesystem>
#include <functional>
#include <string>

#include "artifact/artifact.hpp"
#include "backends/backend.hpp"

namespace libtame {

/// Where measurements are kept: TAME_DEPLOY_CACHE, or the user's cache; "" where there is none.
std::filesystem::path cache_directory();

/// What the answers of a backend depend on, besides the artifact.
struct Computed {
  std::string graph;               // sha256 of the graph, or of the engine's plan
  std::string library;             // with its version
  std::string arithmetic = "own";  // or "bf16"
  std::string device;              // the processor or the GPU, in words
  std::string kernels;             // what the library chooses its kernels by
  std::string others;              // backends that may compute the graph well
};

/// What a backend for CPUs computes by.
Computed computed_by_processor(const Backend& backend, const Artifact& artifact,
                               const Options& options);

/// Hold a backend to the artifact's reference pictures, once for all that `computed` says, which is
/// asked only of graphs of lower precision: those of float32 are left alone.
///
/// Throws Failure: TAME_PARITY_ERROR where it computes the graph otherwise than it was made;
/// TAME_MANIFEST_ERROR for a reference that cannot be read; whatever running the graph throws.
void hold_to_reference(Backend& backend, const Artifact& artifact,
                       const std::function<Computed()>& computed);

}  // namespace libtame
