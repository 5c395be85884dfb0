// engine.json: what a compiled engine was made of and where it runs, read before its plan is.
// The counterpart of tame_deploy/artifact/sidecar.py: the same fields and checks.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "artifact/manifest.hpp"

namespace libtame {

inline constexpr const char* sidecar_name = "engine.json";
inline constexpr std::size_t max_sidecar_bytes = std::size_t{1} << 20;

/// Min, opt and max of a size.
using Extent = std::array<std::int64_t, 3>;

struct EngineProfile {
  Extent batch{};
  std::optional<Extent> explained;  // none where the graph does not take class ids
};

/// Major and minor.
using Capability = std::pair<int, int>;

/// How an engine was compiled (tame_deploy.artifact.sidecar.EngineOptions).
struct CompileOptions {
  std::vector<EngineProfile> profiles;
  std::optional<std::int64_t> workspace_mib;
  std::int64_t optimization_level = 3;
  std::vector<std::string> compute_capabilities;
  bool tf32 = false;
  bool version_compatible = false;
  bool hardware_compatible = false;
  bool refit = false;
  bool strip = false;
};

struct Sidecar {
  std::string flavour;
  std::string version;
  std::string precision;
  std::vector<std::string> compute_capabilities;  // none where it is portable
  CompileOptions options;
  std::vector<TensorSpec> inputs;
  std::vector<TensorSpec> outputs;
  std::string manifest;  // identity of the artifact's
  std::string onnx_sha256;
  std::string plan;
  std::string plan_sha256;
  std::int64_t plan_bytes = 0;

  /// The precision in one word: TF32 is not quite float32.
  std::string shown_precision() const;

  /// Whether it was made for GPUs of a compute capability.
  bool runs_on(const Capability& capability) const;

  /// The GPUs that it was made for, in words.
  std::string runs_where() const;
};

/// Read a sidecar and check every field.
///
/// Throws Failure: TAME_MANIFEST_ERROR for malformed JSON, or a missing, unknown or ill-typed
/// field; TAME_INCOMPATIBLE_ERROR if a newer tame-deploy wrote it.
Sidecar parse_sidecar(const std::string& text);

}  // namespace libtame
