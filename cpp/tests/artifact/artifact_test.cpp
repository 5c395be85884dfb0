#include "artifact/artifact.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <fstream>

#include "artifact/sha256.hpp"
#include "support.hpp"

namespace libtame {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::example;
using testing::message_of;
using testing::with_identity_text;

/// An artifact whose graph is no more than the metadata that is looked at.
class ArtifactTest : public ::testing::Test {
 protected:
  ArtifactTest()
      : root_(fs::temp_directory_path() / ("tame-artifact-" + std::to_string(getpid()))) {
    fs::remove_all(root_);
    fs::create_directory(root_);
    write("labels.txt", "cat\ndog\n");
    write("model.onnx", graph_of(parse_manifest(example().dump()).identity));
    write_manifest(example());
  }

  ~ArtifactTest() override { fs::remove_all(root_); }

  static std::string graph_of(const std::string& identity) {
    const std::string key = "\x0a\x0dtame.manifest";
    const std::string entry = key + "\x12\x40" + identity;
    return std::string("\x3a\x00\x72", 3) + static_cast<char>(entry.size()) + entry;
  }

  void write(const std::string& name, const std::string& bytes) const {
    std::ofstream(root_ / name, std::ios::binary) << bytes;
  }

  /// Write a manifest that has the files' own checksums.
  void write_manifest(json manifest) const {
    for (auto& [name, sha256] : manifest["files"].items()) {
      sha256 = file_sha256(root_ / name);
    }
    write("manifest.json", manifest.dump());
  }

  std::string refusal(tame_status status) const {
    return message_of(status, [&] { open_artifact(root_); });
  }

  fs::path root_;
};

TEST_F(ArtifactTest, Opens) {
  const Artifact artifact = open_artifact(root_.string() + "//./");
  EXPECT_TRUE(fs::equivalent(artifact.path, root_));
  EXPECT_EQ(artifact.labels, (std::vector<std::string>{"cat", "dog"}));
  EXPECT_TRUE(artifact.graph_is_checked);
  EXPECT_EQ(artifact.manifest.files.size(), 2U);
}

TEST_F(ArtifactTest, OpensWithAnIdentityText) {
  const json manifest = with_identity_text(example());
  write("model.onnx", graph_of(sha256(manifest["identity_text"].get<std::string>())));
  write_manifest(manifest);
  EXPECT_TRUE(open_artifact(root_).graph_is_checked);
}

TEST_F(ArtifactTest, GraphOfAnotherManifest) {
  write("model.onnx", graph_of(std::string(64, '0')));
  write_manifest(example());
  EXPECT_EQ(refusal(TAME_INCOMPATIBLE_ERROR),
            root_.string() +
                ": model.onnx was not exported with this manifest.json (one of them was replaced "
                "or edited). Export the artifact again");
}

TEST_F(ArtifactTest, WhatIsNoGraphIsLeftToTheBackend) {
  write("model.onnx", "garbage");
  write_manifest(example());
  EXPECT_FALSE(open_artifact(root_).graph_is_checked);
}

TEST_F(ArtifactTest, NothingOutsideIsRead) {
  for (const char* name : {"../labels.txt", "a/../../x", "/etc/passwd", "a\\b", "C:x", ""}) {
    json manifest = example();
    for (const char* file : {"labels.txt", "model.onnx"}) {
      manifest["files"][file] = file_sha256(root_ / file);
    }
    manifest["files"][name] = std::string(64, '0');
    write("manifest.json", manifest.dump());
    const std::string said = refusal(TAME_MANIFEST_ERROR);
    EXPECT_HOLDS(said, "outside the artifact");
  }
}

TEST_F(ArtifactTest, PipesAndDevicesAreNotWaitedFor) {
  fs::remove(root_ / "labels.txt");
  ASSERT_EQ(mkfifo((root_ / "labels.txt").c_str(), 0600), 0);
  EXPECT_HOLDS(refusal(TAME_CHECKSUM_ERROR), "labels.txt is not a file");
  fs::remove(root_ / "manifest.json");
  ASSERT_EQ(mkfifo((root_ / "manifest.json").c_str(), 0600), 0);
  EXPECT_HOLDS(refusal(TAME_MANIFEST_ERROR), "cannot be read: it is no regular file");
  fs::remove(root_ / "manifest.json");
  fs::create_symlink("/dev/zero", root_ / "manifest.json");
  EXPECT_HOLDS(refusal(TAME_MANIFEST_ERROR), "cannot be read: it is no regular file");
}

TEST_F(ArtifactTest, LineEndsAreThoseOfPython) {
  write("labels.txt", "cat\r\ndog\r");
  write_manifest(example());
  EXPECT_EQ(open_artifact(root_).labels, (std::vector<std::string>{"cat", "dog"}));
}

TEST_F(ArtifactTest, SizesThatCannotBePrepared) {
  json manifest = example();
  manifest["graph"]["ranks"] = 7;
  write("model.onnx", graph_of(parse_manifest(manifest.dump()).identity));
  write_manifest(manifest);
  EXPECT_EQ(refusal(TAME_INCOMPATIBLE_ERROR),
            (root_ / "manifest.json").string() + ": the graph ranks 7 classes; expected 1 to 2");
}

TEST_F(ArtifactTest, Sha256OfNoFile) {
  const std::string path = root_.string();
  EXPECT_EQ(message_of(TAME_ARTIFACT_ERROR, [&] { file_sha256(path); }),
            path + " cannot be read: Is a directory");
}

}  // namespace
}  // namespace libtame
