// What the PyTorch network gave for a few pictures, as parity.npz in the artifact holds it.
// The counterpart of tame_deploy/runtime/verify/reference.py.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "artifact/artifact.hpp"

namespace libtame {

inline constexpr const char* reference_name = "parity.npz";

struct Reference {
  std::int64_t count = 0;               // N pictures
  std::int64_t explained = 0;           // K classes of each
  std::string images;                   // the graph's images
  std::vector<std::int64_t> class_ids;  // (N, K), all of them named; also contrasts
  std::vector<float> logits;            // (N, C)
  std::vector<float> maps;              // (N, K, h, w)
};

/// The sha256 that the manifest lists for a file; "" for one that it does not list.
std::string listed_sha256(const Manifest& manifest, const std::string& name);

/// Read an artifact's reference.
/// Throws Failure: TAME_MANIFEST_ERROR where it cannot be read, or does not fit the manifest.
Reference read_reference(const Artifact& artifact);

}  // namespace libtame
