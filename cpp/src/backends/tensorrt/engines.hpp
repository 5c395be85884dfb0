// The engines in an artifact: which of them this machine can run, told before a plan is touched.
// The counterpart of tame_deploy/runtime/backends/tensorrt/engines.py.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "artifact/artifact.hpp"
#include "sidecar.hpp"

namespace libtame {

/// The GPU and the library here.
struct Machine {
  std::string flavour;  // "tensorrt" or "tensorrt-rtx"
  std::string version;  // of that library
  int device = 0;
  Capability capability{0, 0};
  std::string name;  // of the GPU
};

/// An engine's folder and its sidecar; the plan has not been looked at.
struct StoredEngine {
  std::filesystem::path folder;
  Sidecar sidecar;

  std::filesystem::path plan() const { return folder / sidecar.plan; }
};

/// Read the sidecar in a folder. Throws Failure: TAME_MANIFEST_ERROR if it is missing, malformed,
/// or names a file elsewhere; TAME_INCOMPATIBLE_ERROR if a newer tame-deploy wrote it.
StoredEngine read_engine(const std::filesystem::path& folder);

/// The engine that this machine can run. Those for exactly this GPU go before portable ones,
/// float32 before TF32. With a name, that one and no other.
///
/// Throws Failure: TAME_INCOMPATIBLE_ERROR if there is none, saying what was found, what was
/// expected, and the command that makes one; TAME_MANIFEST_ERROR if the one that was named is
/// malformed.
StoredEngine choose_engine(const Artifact& artifact, const Machine& machine,
                           const std::string& name);

/// The plan's bytes, which are those that the sidecar describes. Throws Failure:
/// TAME_CHECKSUM_ERROR if the file is missing, truncated or altered.
std::vector<char> read_plan(const Artifact& artifact, const StoredEngine& engine);

/// The command that makes an engine again, with the options that made it; with a machine that it
/// was not made for, the command for that machine.
std::string compile_command(const Artifact& artifact, const Sidecar& sidecar,
                            const Machine* machine = nullptr);

/// A word as a shell takes it.
std::string quoted(const std::string& word);

}  // namespace libtame
