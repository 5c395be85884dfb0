// No graph of lower precision is trusted unseen: it is held to the artifact's reference pictures
// where it first runs on a processor, and what they show is kept in the user's cache.
// The counterpart of tame_deploy/runtime/verify/trust.py; both keep and read the same files.
#pragma once

#include <filesystem>

#include "artifact/artifact.hpp"
#include "backends/backend.hpp"

namespace libtame {

/// Where measurements are kept: TAME_DEPLOY_CACHE, or the user's cache; "" where there is none.
std::filesystem::path cache_directory();

/// Hold a backend for CPUs to the artifact's reference pictures, once on each processor. Graphs of
/// float32 are left alone.
///
/// Throws Failure: TAME_PARITY_ERROR where it computes the graph otherwise than it was made;
/// TAME_MANIFEST_ERROR for a reference that cannot be read; whatever running the graph throws.
void hold_to_reference(Backend& backend, const Artifact& artifact, const Options& options);

}  // namespace libtame
