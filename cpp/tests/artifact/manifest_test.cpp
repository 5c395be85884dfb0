#include "artifact/manifest.hpp"

#include "artifact/sha256.hpp"
#include "support.hpp"

namespace libtame {
namespace {

using nlohmann::json;
using testing::example;
using testing::message_of;
using testing::with_identity_text;

Manifest parsed(const json& manifest) { return parse_manifest(manifest.dump()); }

json spoiled(const char* place, const json& value) {
  json manifest = example();
  manifest[json::json_pointer(place)] = value;
  return manifest;
}

std::string refusal(const json& manifest, tame_status status = TAME_MANIFEST_ERROR) {
  return message_of(status, [&] { parsed(manifest); });
}

std::string unrunnable(const char* place, const json& value) {
  const Manifest manifest = parsed(spoiled(place, value));
  return message_of(TAME_INCOMPATIBLE_ERROR, [&] { check_runnable(manifest); });
}

TEST(Manifest, GivesItsFacts) {
  const Manifest manifest = parsed(example());
  EXPECT_EQ(manifest.name, "example");
  EXPECT_EQ(manifest.classes, 2);
  EXPECT_EQ(manifest.image.width, 16);
  EXPECT_EQ(manifest.image.resize, 256);
  EXPECT_EQ(manifest.image.interpolation, Interpolation::bilinear);
  EXPECT_EQ(manifest.image.mean[2], 1e-5);
  EXPECT_EQ(manifest.image.input_bytes(), 8U * 16U * 3U);
  EXPECT_EQ(manifest.ranks, 2);
  EXPECT_EQ(manifest.labels, "labels.txt");
  EXPECT_EQ(manifest.target, "");
  EXPECT_FALSE(manifest.speed_only);
  EXPECT_EQ(manifest.map_size(), (std::array<std::int64_t, 2>{2, 4}));
  EXPECT_EQ(std::get<std::string>(manifest.outputs[2].shape[1]), "k");
  check_runnable(manifest);
  EXPECT_TRUE(parsed(spoiled("/weights/head/random", true)).speed_only);
  EXPECT_EQ(parsed(spoiled("/target", "cpu")).target, "cpu");
  EXPECT_EQ(parsed(spoiled("/target", "cpu-vnni")).target, "cpu-vnni");
  EXPECT_EQ(parsed(spoiled("/image/interpolation", "lanczos")).image.interpolation,
            Interpolation::lanczos);
}

TEST(Manifest, IdentityOfSchema1IsThatOfWhatItSays) {
  // Computed by Manifest.from_json(…).identity() in Python.
  const std::string expected = "754c4c71bbacd055efe4f950f7a3b18425b63b041ca661418eefc97795624f9e";
  EXPECT_EQ(parsed(example()).identity, expected);
  EXPECT_EQ(parsed(spoiled("/name", "other")).identity, expected);
  EXPECT_EQ(parsed(spoiled("/tool_versions", {{"torch", "2"}})).identity, expected);
  EXPECT_NE(parsed(spoiled("/image/resize", 255)).identity, expected);
  EXPECT_EQ(refusal(spoiled("/identity_text", "{}")),
            "schema_version is 1 beside an identity_text, which schema 1 did not have; expected 4. "
            "Undo the edit, or export the artifact again");
}

TEST(Manifest, IdentityIsTheHashOfItsTextsBytes) {
  json manifest = with_identity_text(example());
  const std::string text = manifest["identity_text"];
  EXPECT_EQ(parsed(manifest).identity, sha256(text));
  manifest["name"] = "other";
  manifest["image"]["resize"] = 256;  // as by default
  EXPECT_EQ(parsed(manifest).identity, sha256(text));
  const json head = manifest["head"];  // the order of its members says nothing
  manifest["head"] = {{"classes", head["classes"]}, {"channels", head["channels"]}};
  EXPECT_EQ(parsed(manifest).identity, sha256(text));
  manifest["identity_text"] = " " + text;
  EXPECT_EQ(parsed(manifest).identity, sha256(" " + text));
}

TEST(Manifest, EditsOfWhatFixesTheMeaningAreRefused) {
  json manifest = with_identity_text(example());
  manifest["image"]["resize"] = 255;
  EXPECT_EQ(refusal(manifest, TAME_INCOMPATIBLE_ERROR),
            "model.onnx was not exported with this manifest.json: image is not what identity_text "
            "says. Undo the edit, or export the artifact again");
  manifest["target"] = "cpu";
  EXPECT_HOLDS(refusal(manifest, TAME_INCOMPATIBLE_ERROR), "image, target are not what");
  manifest["identity_text"] = "";
  EXPECT_EQ(refusal(manifest), "manifest.identity_text is missing or empty");
  manifest["identity_text"] = "{}";
  EXPECT_HOLDS(refusal(manifest), "manifest.identity_text.backbone, manifest.identity_text.cl");
}

TEST(Manifest, WhatStandsNowhereElseCannotBeLeftOut) {
  for (const char* name :
       {"calibration", "fidelity", "parity", "tool_versions", "schema_version"}) {
    for (json manifest : {example(), with_identity_text(example())}) {
      manifest.erase(name);
      EXPECT_EQ(refusal(manifest), std::string("manifest.") + name + " is missing");
    }
  }
}

TEST(Manifest, NewerOnesSayUpgrade) {
  EXPECT_EQ(refusal(spoiled("/schema_version", 5), TAME_INCOMPATIBLE_ERROR),
            "artifact has schema version 5; this tame-deploy reads up to 4. Upgrade: pip install "
            "-U tame-deploy");
  EXPECT_EQ(refusal(spoiled("/schema_version", -2)), "schema_version is -2; expected 1 to 4");
  EXPECT_EQ(refusal(spoiled("/schema_version", "2")),
            "manifest.schema_version is \"2\"; expected a whole number");
}

TEST(Manifest, WhatIsWrongIsNamed) {
  EXPECT_EQ(refusal(spoiled("/classes", 3)), "classes is 3 but the head has 2");
  EXPECT_EQ(refusal(spoiled("/feature_layers", json::array())),
            "0 feature layers but a head for 2");
  EXPECT_EQ(refusal(spoiled("/kind", "engine")),
            "manifest.kind is \"engine\"; expected one of explainer");
  EXPECT_EQ(refusal(spoiled("/weights", json::object())),
            "weights names []; expected backbone and head");
  EXPECT_EQ(refusal(spoiled("/inputs", json::array())), "inputs is []; expected images, class_ids");
  EXPECT_EQ(refusal(spoiled("/graph/explain", "all")),
            "inputs is [(\"images\", 4), (\"class_ids\", 2)]; expected images");
  EXPECT_EQ(refusal(spoiled("/labels", "other")), "files does not list other");
  EXPECT_EQ(refusal(spoiled("/image/height", 8193)),
            "manifest.image: image height is 8193; expected 1 to 8192 pixels");
  EXPECT_EQ(refusal(spoiled("/image/std/1", -1)),
            "manifest.image: image std is [1.0,-1.0,1.0]; expected positive numbers");
  EXPECT_EQ(refusal(spoiled("/image/layout", "NCHW")),
            "manifest.image: image input is uint8 NCHW normalised by the graph; expected NHWC "
            "normalised by the graph for uint8");
  EXPECT_EQ(refusal(spoiled("/head/channels", {0, 8})),
            "manifest.head: head has channels [0,8] and 2 classes; expected at least one layer, "
            "and 1 to 1000000 of each");
  EXPECT_EQ(refusal(spoiled("/head/width", json::array({9000}))),
            "manifest.head: head width is [9000] for layers of " +
                example()["head"]["channels"].dump() +
                " channels; expected one number a layer, from 1 to the layer's channels");
  EXPECT_EQ(refusal(spoiled("/head/width", "classes")),
            "manifest.head: a head whose branches are one channel a class has no skip connection");
}

TEST(Manifest, BuffersCanBeSizedByIt) {
  EXPECT_EQ(unrunnable("/outputs/2/shape/3", 8193),
            "found maps: float32 [batch, k, 2, 8193]; expected maps of 1 to 8192 pixels a side");
  EXPECT_HOLDS(unrunnable("/outputs/2/shape/2", "h"), "[batch, k, h, 4]");
  EXPECT_HOLDS(unrunnable("/outputs/2/shape/2", 0), "expected maps of 1");
  EXPECT_HOLDS(unrunnable("/outputs/2/dtype", "float16"), "expected float32");
  EXPECT_HOLDS(unrunnable("/outputs/0/shape/1", 3), "expected one for each of the 2 classes");
  EXPECT_HOLDS(unrunnable("/outputs/1/dtype", "int32"), "expected int64");
  EXPECT_HOLDS(unrunnable("/inputs/0/shape/1", 9), "expected [batch, 8, 16, 3]");
  EXPECT_HOLDS(unrunnable("/inputs/0/dtype", "float32"), "expected uint8");
  EXPECT_HOLDS(unrunnable("/inputs/1/dtype", "int32"), "expected int64");
  EXPECT_HOLDS(unrunnable("/graph/ranks", 3), "ranks 3 classes; expected 1 to 2");
  EXPECT_HOLDS(unrunnable("/graph/ranks", 0), "ranks 0 classes");
  const json predicted = spoiled("/graph/ranks", 18446744073709551615U);
  EXPECT_GT(parsed(predicted).ranks, 1 << 30);  // the nearest that fits, to be refused
}

TEST(Manifest, PlanarInputIsChecked) {
  json manifest = spoiled("/image/dtype", "float32");
  manifest["image"]["layout"] = "NCHW";
  manifest["image"]["normalise"] = "caller";
  manifest["inputs"][0] = {
      {"name", "images"}, {"dtype", "float32"}, {"shape", {"batch", 3, 8, 16}}};
  check_runnable(parsed(manifest));
  EXPECT_EQ(parsed(manifest).image.input_bytes(), 8U * 16U * 12U);
  manifest["inputs"][0]["shape"] = {"batch", 3, 16, 8};
  const std::string said =
      message_of(TAME_INCOMPATIBLE_ERROR, [&] { check_runnable(parsed(manifest)); });
  EXPECT_HOLDS(said, "expected [batch, 3, 8, 16]");
}

}  // namespace
}  // namespace libtame
