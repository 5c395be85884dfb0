// What the tests of artifacts share: a manifest to spoil, and failures with their messages.
#pragma once

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

#include "error.hpp"

namespace libtame::testing {

/// Do something that has to fail, and return its message.
template <typename Work>
std::string message_of(tame_status expected, const Work& work) {
  try {
    work();
  } catch (const Failure& failure) {
    EXPECT_EQ(failure.status(), expected) << failure.what();
    return failure.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

#define EXPECT_HOLDS(text, part) EXPECT_PRED_FORMAT2(::testing::IsSubstring, part, text)

/// A manifest of schema 1 of two classes, without what has a default; its identity follows from it.
inline nlohmann::json example() {
  return nlohmann::json::parse(R"({
    "name": "example", "backbone": "tiny", "feature_layers": ["a", "b"], "classes": 2,
    "head": {"channels": [4, 8], "classes": 2},
    "inputs": [{"name": "images", "dtype": "uint8", "shape": ["batch", 8, 16, 3]},
               {"name": "class_ids", "dtype": "int64", "shape": ["batch", "k"]}],
    "outputs": [{"name": "logits", "dtype": "float32", "shape": ["batch", 2]},
                {"name": "explained", "dtype": "int64", "shape": ["batch", "k"]},
                {"name": "maps", "dtype": "float32", "shape": ["batch", "k", 2, 4]}],
    "image": {"height": 8, "width": 16, "mean": [0, 0.5, 1e-5], "std": [1, 1, 1]},
    "graph": {"explain": "selectable", "ranks": 2, "maps": "minmax", "opset": 18},
    "weights": {"head": {"source": "file"}, "backbone": {"source": "file"}},
    "files": {"model.onnx": "0", "labels.txt": "1"},
    "calibration": null, "fidelity": null, "parity": null, "tool_versions": {}, "schema_version": 1
  })");
}

/// The same manifest as one of schema 2, which keeps the text that fixes its identity.
inline nlohmann::json with_identity_text(nlohmann::json manifest) {
  nlohmann::json said = manifest;
  for (const char* later :
       {"name", "files", "calibration", "fidelity", "parity", "tool_versions", "schema_version"}) {
    said.erase(later);
  }
  manifest["schema_version"] = 2;
  manifest["identity_text"] = said.dump();
  return manifest;
}

}  // namespace libtame::testing
