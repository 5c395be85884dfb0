// Engines of lower precision are held to the reference pictures where they are first opened.
#include "verify/trust.hpp"

#include <cstdlib>
#include <fstream>

#include "../verify/archive.hpp"
#include "artifact/sha256.hpp"
#include "support.hpp"
#include "warning.hpp"

namespace libtame::tests {
namespace {

namespace fs = std::filesystem;

template <typename T>
std::string bytes_of(const std::vector<T>& values) {
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)};
}

class Trust : public TensorRT {
 protected:
  static constexpr std::size_t count = 3;
  static constexpr std::size_t explained = 2;

  void SetUp() override {
    TensorRT::SetUp();
    setenv("TAME_DEPLOY_CACHE", (path / "cache").c_str(), 1);
    Manifest& manifest = artifact.manifest;
    manifest.precision = "fp16";
    manifest.ranks = 3;
    manifest.maps = MapKind::logits;
    manifest.recorded = RecordedErrors{0.01, 0.02};
    ids = {4, 0, 9, 2, 1, 7};
    write_reference(expected(images, ids, explained));
    write();
  }

  void TearDown() override {
    unsetenv("TAME_DEPLOY_CACHE");
    TensorRT::TearDown();
  }

  void write_reference(const Answers& answers) {
    const std::string archive =
        zip({{"images.npy", npy("|u1", "(3, 4, 5, 3)", bytes_of(images))},
             {"class_ids.npy", npy("<i8", "(3, 2)", bytes_of(ids))},
             {"logits.npy", npy("<f4", "(3, 10)", bytes_of(answers.logits))},
             {"maps.npy", npy("<f4", "(3, 2, 2, 3)", bytes_of(answers.maps))}});
    std::ofstream(path / "parity.npz", std::ios::binary) << archive;
    auto& files = artifact.manifest.files;
    if (files.back().first == "parity.npz") files.pop_back();
    files.emplace_back("parity.npz", sha256(archive));
  }

  /// A reference that no engine here gives: its maps are those of other classes.
  void write_other_reference() {
    Answers other = expected(images, ids, explained);
    other.maps = expected(images, same_ids(count, explained, 5), explained).maps;
    write_reference(other);
  }

  /// How many executions it takes to open.
  int executions() {
    const int before = tame_double::calls("enqueueV3");
    open();
    return tame_double::calls("enqueueV3") - before;
  }

  /// The one verdict that is kept.
  fs::path kept() const {
    std::vector<fs::path> found;
    for (const auto& entry : fs::directory_iterator(path / "cache" / "verdicts")) {
      found.push_back(entry.path());
    }
    EXPECT_EQ(found.size(), 1U);
    return found.at(0);
  }

  std::vector<unsigned char> images = pictures(count, 7);
  std::vector<std::int64_t> ids;
};

TEST_F(Trust, AnEngineIsAskedOnce) {
  EXPECT_EQ(executions(), 4);  // one picture and all, each by class and by rank
  EXPECT_EQ(executions(), 0);
  const auto backend = open();
  EXPECT_EQ(run(*backend, images, ids, explained), expected(images, ids, explained));
  EXPECT_STREQ(last_warning, "");
}

TEST_F(Trust, TheVerdictIsTheFileThatPythonKeeps) {
  open();
  std::ifstream golden(TAME_GOLDEN "/engine_verdict.json");
  std::vector<std::string> about = Json::parse(golden)["about"];
  std::ifstream sidecar(path / "engines" / TAME_TEST_FLAVOUR "-fp32-sm86" / "engine.json");
  about.at(0) += Json::parse(sidecar)["plan_sha256"].get<std::string>();
  about.at(1) += artifact.manifest.files.back().second;
  std::string text;
  for (const std::string& line : about) text += (text.empty() ? "" : "\n") + line;
  EXPECT_EQ(kept().filename(), sha256(text) + ".json");
  std::ifstream file(kept());
  const Json verdict = Json::parse(file);
  EXPECT_EQ(verdict["about"], Json(about));
  EXPECT_EQ(verdict["deviation"]["map_error"], 0.0);
}

TEST_F(Trust, AnotherDriverIsAskedAnew) {
  EXPECT_EQ(executions(), 4);
  tame_double::Settings settings;
  settings.driver = 13060;
  tame_double::change(settings);
  EXPECT_EQ(executions(), 4);
  EXPECT_EQ(executions(), 0);
}

TEST_F(Trust, WhatComputesOtherwiseIsRefusedNowAndLater) {
  write_other_reference();
  const std::string first = failure(TAME_PARITY_ERROR, [&] { open(); });
  const int before = tame_double::calls("enqueueV3");
  EXPECT_EQ(failure(TAME_PARITY_ERROR, [&] { open(); }), first);
  EXPECT_EQ(tame_double::calls("enqueueV3"), before);
  const std::string begin =
      path.string() +
      ": tensorrt 10.13.2.6 computes this fp16 graph otherwise than it was made, on Simulated "
      "(compute capability 8.6, 1 GiB): logits are off by 0.00% and maps by ";
  const std::string end =
      "% of their range here; where this artifact was made it was 1.00% and 2.00%. Run the float32 "
      "artifact, or quantize here, or use backend onnxruntime or openvino";
  EXPECT_EQ(first.substr(0, begin.size()), begin);
  EXPECT_EQ(first.substr(first.size() - std::min(first.size(), end.size())), end);
}

TEST_F(Trust, Float32IsLeftAlone) {
  write_other_reference();
  artifact.manifest.precision = "fp32";
  EXPECT_EQ(executions(), 0);
  EXPECT_FALSE(fs::exists(path / "cache"));
}

TEST_F(Trust, WithoutAReferenceTheCallerIsWarned) {
  artifact.manifest.files.pop_back();
  EXPECT_EQ(executions(), 0);
  EXPECT_NE(std::string(last_warning).find("found no parity.npz"), std::string::npos);
  last_warning[0] = '\0';
}

TEST_F(Trust, AFailureToRunIsNoVerdict) {
  tame_double::Settings settings;
  settings.failing_executions = 1;
  tame_double::change(settings);
  failure(TAME_BACKEND_ERROR, [&] { open(); });
  EXPECT_EQ(executions(), 4);
}

}  // namespace
}  // namespace libtame::tests
