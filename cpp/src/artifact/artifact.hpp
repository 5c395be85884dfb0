// An artifact: a directory with a manifest, checked before any other library sees a byte of it.
// The counterpart of tame_deploy/artifact/directory.py.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "manifest.hpp"

namespace libtame {

struct Artifact {
  std::filesystem::path path;
  Manifest manifest;
  std::vector<std::string> labels;
  bool graph_is_checked = false;  // false: model.onnx is no protobuf; its backend has to say so

  std::filesystem::path model() const { return path / "model.onnx"; }
};

/// Open an artifact: schema, containment, every file's sha256, labels, and that the graph was
/// exported with this manifest (tame.manifest in the ONNX file's metadata).
///
/// Throws Failure: TAME_ARTIFACT_ERROR, TAME_MANIFEST_ERROR, TAME_INCOMPATIBLE_ERROR,
/// TAME_CHECKSUM_ERROR.
Artifact open_artifact(const std::filesystem::path& path);

/// Say that model.onnx is not the graph of this manifest. Throws Failure: TAME_INCOMPATIBLE_ERROR.
[[noreturn]] void fail_foreign_graph(const Artifact& artifact);

/// The sha256 of a file, lowercase hexadecimal. Throws Failure: TAME_ARTIFACT_ERROR.
std::string file_sha256(const std::filesystem::path& path);

}  // namespace libtame
