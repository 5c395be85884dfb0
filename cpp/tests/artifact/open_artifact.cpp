// Opens artifacts, or reads manifests, and says what it made of each in a line of JSON.
//
//   tame-open DIR…        -> {"status": "OK", "identity": "…", …} or {"status": …, "message": …}
//   tame-open --manifests    reads their texts from standard input, each a line of JSON itself
#include <iostream>
#include <nlohmann/json.hpp>

#include "artifact/artifact.hpp"
#include "artifact/text.hpp"
#include "error.hpp"

namespace {

using libtame::Artifact;
using libtame::Manifest;
using nlohmann::json;

const char* status_name(tame_status status) {
  switch (status) {
    case TAME_ARTIFACT_ERROR:
      return "ArtifactError";
    case TAME_MANIFEST_ERROR:
      return "ManifestError";
    case TAME_CHECKSUM_ERROR:
      return "ChecksumError";
    case TAME_INCOMPATIBLE_ERROR:
      return "IncompatibleArtifactError";
    default:
      return "TameError";
  }
}

json facts(const Manifest& manifest) {
  return {{"status", "OK"},
          {"identity", manifest.identity},
          {"name", manifest.name},
          {"classes", manifest.classes},
          {"speed_only", manifest.speed_only},
          {"files", manifest.files.size()},
          {"target", manifest.target},
          {"precision", manifest.precision},
          {"mean", manifest.image.mean},
          {"std", manifest.image.std}};
}

json opened(const std::string& path) {
  const Artifact artifact = libtame::open_artifact(path);
  json found = facts(artifact.manifest);
  found["map_size"] = artifact.manifest.map_size();
  found["labels"] = artifact.labels;
  found["graph_is_checked"] = artifact.graph_is_checked;
  return found;
}

template <typename Work>
void answer(const Work& work) {
  json found;
  try {
    found = work();
  } catch (const libtame::Failure& failure) {
    found = {{"status", status_name(failure.status())}, {"message", failure.what()}};
  }
  std::cout << found.dump(-1, ' ', true, json::error_handler_t::replace) << std::endl;
}

}  // namespace

int main(int count, char** arguments) {
  if (count == 2 && std::string(arguments[1]) == "--manifests") {
    for (std::string line; std::getline(std::cin, line);) {
      answer([&] { return facts(libtame::parse_manifest(json::parse(line))); });
    }
    return 0;
  }
  for (int index = 1; index < count; ++index) {
    answer([&] { return opened(arguments[index]); });
  }
}
