// engine.json: what is refused, as in Python.
#include "backends/tensorrt/sidecar.hpp"

#include <fstream>

#include "backends/tensorrt/engines.hpp"
#include "support.hpp"

namespace libtame::tests {
namespace {

namespace fs = std::filesystem;

class EngineJson : public TensorRT {
 protected:
  /// What reading says of a sidecar with a change, after the place of the file.
  std::string refused(const std::function<void(Json&)>& change,
                      tame_status status = TAME_MANIFEST_ERROR) {
    Wanted wanted;
    wanted.change = change;
    return read(status, write(wanted));
  }

  std::string refused_text(const std::string& text, tame_status status = TAME_MANIFEST_ERROR) {
    const fs::path folder = write();
    std::ofstream(folder / "engine.json", std::ios::binary) << text;
    return read(status, folder);
  }

  std::string read(tame_status status, const fs::path& folder) {
    const auto message = failure(status, [&] { read_engine(folder); });
    const std::string place = (folder / "engine.json").string() + ": ";
    EXPECT_EQ(message.compare(0, place.size(), place), 0) << message;
    return message.substr(std::min(place.size(), message.size()));
  }
};

TEST_F(EngineJson, IsReadAsItWasWritten) {
  Wanted wanted;
  wanted.profiles = {{1, 1, 1, 1, 1, 3}, {2, 4, 8, 1, 2, 3}};
  wanted.change = [](Json& one) {
    one["options"]["workspace_mib"] = 64;
    one["options"]["optimization_level"] = 5;
    one["options"]["hardware_compatible"] = true;
    one["parity"] = {{"1", {{"pictures", 4}}}};
    one["calibration"] = "key";
    one["build_s"] = 1.5;
  };
  const Sidecar found = read_engine(write(wanted)).sidecar;
  EXPECT_EQ(found.flavour, "tensorrt");
  EXPECT_EQ(found.options.profiles.size(), 2U);
  EXPECT_EQ(found.options.profiles[1].batch, (Extent{2, 4, 8}));
  EXPECT_EQ(found.options.profiles[1].explained, (Extent{1, 2, 3}));
  EXPECT_EQ(found.shown_precision(), "fp32");
  EXPECT_EQ(compile_command(artifact, found),
            words("tame-deploy compile ", path.string(),
                  " --target tensorrt --batch 1,1,1 --batch 2,4,8 --explained 1,1,3 --workspace 64 "
                  "--optimization-level 5 --hardware-compatible --rebuild"));
}

TEST_F(EngineJson, FieldsThatAreMissingUnknownOrIllTyped) {
  EXPECT_EQ(refused([](Json& one) { one.erase("plan"); }), "engine.plan is missing");
  EXPECT_EQ(refused([](Json& one) { one["plan_byte"] = 1; }).find("unknown key engine.plan_byte; "),
            0U);
  EXPECT_EQ(refused([](Json& one) { one["plan_bytes"] = "many"; }),
            "engine.plan_bytes is \"many\"; expected a whole number");
  EXPECT_EQ(refused([](Json& one) { one["flavour"] = "openvino"; }),
            "engine.flavour is \"openvino\"; expected one of tensorrt, tensorrt-rtx");
  EXPECT_EQ(refused([](Json& one) {
              one["options"]["profiles"][0]["batch"] = {1, 2};
            }),
            "engine.options.profiles[0].batch has 2 entries; expected 3");
}

TEST_F(EngineJson, NumbersOutsideTheirRange) {
  EXPECT_EQ(refused([](Json& one) {
              one["options"]["profiles"][0]["batch"] = {1, 9, 8};
            }),
            "engine.options.profiles[0]: profile batch is 1,9,8; expected min, opt and max, "
            "rising, from 1 to 65536");
  EXPECT_EQ(refused([](Json& one) {
              one["options"]["profiles"][0]["explained"] = {0, 1, 1};
            }),
            "engine.options.profiles[0]: profile explained is 0,1,1; expected min, opt and "
            "max, rising, from 1 to 65536");
  EXPECT_EQ(refused([](Json& one) { one["options"]["profiles"] = Json::array(); }),
            "engine.options: found no profile; expected at least one");
  EXPECT_EQ(refused([](Json& one) { one["options"]["workspace_mib"] = 0; }),
            "engine.options: workspace is 0 MiB; expected 1 to 1048576");
  EXPECT_EQ(refused([](Json& one) { one["options"]["optimization_level"] = 6; }),
            "engine.options: optimization level is 6; expected 0 to 5");
  EXPECT_EQ(refused([](Json& one) { one["compute_capabilities"] = {"8,6"}; }),
            "engine: found compute capability \"8,6\"; expected MAJOR.MINOR as in 8.9");
}

TEST_F(EngineJson, PlansThatLieElsewhere) {
  for (const char* name : {"../model.plan", "/etc/passwd", "..", "", "a\\b", "c:plan", " plan"}) {
    const auto message = refused([&](Json& one) { one["plan"] = name; });
    EXPECT_NE(message.find("expected a plain file name"), std::string::npos) << message;
  }
}

TEST_F(EngineJson, WhatIsNoSidecar) {
  EXPECT_NE(refused_text("{").find("engine.json is not valid JSON"), std::string::npos);
  EXPECT_EQ(refused_text("[]"), "engine.json holds []; expected an object");
  const fs::path folder = write();
  const auto says = [&](const std::string& text) {
    return failure(TAME_MANIFEST_ERROR, [&] { read_engine(folder); }).find(text) !=
           std::string::npos;
  };
  std::ofstream(folder / "engine.json", std::ios::binary) << "{\"a\": \"\xff\"}";
  EXPECT_TRUE(says("cannot be read"));
  std::ofstream(folder / "engine.json") << std::string(max_sidecar_bytes + 1, ' ');
  EXPECT_TRUE(says("is over 1 MiB; no sidecar is"));
  fs::remove(folder / "engine.json");
  EXPECT_TRUE(says("is not an engine: it has no engine.json"));
  fs::create_directory(folder / "engine.json");
  EXPECT_TRUE(says("cannot be read"));
}

TEST_F(EngineJson, ANewerVersion) {
  EXPECT_EQ(refused(
                [](Json& one) {
                  one["schema_version"] = 2;
                  one["new"] = 1;
                },
                TAME_INCOMPATIBLE_ERROR),
            "engine.json has schema version 2; this libtame reads up to 1. Upgrade libtame");
  EXPECT_EQ(refused([](Json& one) { one["schema_version"] = 0; }),
            "schema_version is 0; expected 1");
}

TEST_F(EngineJson, WhereItRuns) {
  Sidecar sidecar;
  sidecar.flavour = "tensorrt";
  EXPECT_TRUE(sidecar.runs_on({8, 0}) && sidecar.runs_on({9, 0}) && !sidecar.runs_on({7, 5}));
  sidecar.flavour = "tensorrt-rtx";
  EXPECT_TRUE(sidecar.runs_on({8, 9}) && sidecar.runs_on({12, 0}) && !sidecar.runs_on({9, 0}));
  sidecar.compute_capabilities = {"12.0", "9.0"};
  EXPECT_TRUE(sidecar.runs_on({9, 0}) && sidecar.runs_on({12, 0}) && !sidecar.runs_on({8, 9}));
}

TEST_F(EngineJson, CommandsForAnotherMachine) {
  Sidecar sidecar;
  sidecar.flavour = "tensorrt-rtx";
  sidecar.compute_capabilities = sidecar.options.compute_capabilities = {"8.9"};
  sidecar.options.profiles = {{{1, 1, 1}, {}}};
  artifact.path = "it's here";
  const Machine data_centre{"tensorrt", "11", 1, {9, 0}, "H100"};
  EXPECT_EQ(compile_command(artifact, sidecar, &data_centre),
            "tame-deploy compile 'it'\"'\"'s here' --target tensorrt --device 1 --batch 1,1,1 "
            "--rebuild");
  EXPECT_EQ(compile_command(artifact, sidecar),
            "tame-deploy compile 'it'\"'\"'s here' --target tensorrt-rtx --batch 1,1,1 "
            "--compute-capability 8.9 --rebuild");
}

}  // namespace
}  // namespace libtame::tests
