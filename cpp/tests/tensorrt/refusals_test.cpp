// Engines that are not for this machine, graph or libtame, told before TensorRT sees their plans.
#include <fstream>

#include "support.hpp"

namespace libtame::tests {
namespace {

namespace fs = std::filesystem;

class Refusals : public TensorRT {
 protected:
  /// The message of opening, with the artifact's path left out.
  std::string refused(tame_status status, const std::string& engine = "") {
    std::string message =
        failure(status, [&] { open([&](Options& options) { options.engine = engine; }); });
    for (auto at = message.find(path.string()); at != message.npos;
         at = message.find(path.string())) {
      message.replace(at, path.string().size(), "ARTIFACT");
    }
    return message;
  }

  std::string changed(tame_status status, const std::function<void(Json&)>& change) {
    write({{{1, 4, 8, 1, 1, 5}}, "tensorrt-fp32-sm86", change, [](std::string&) {}});
    return refused(status);
  }
};

const std::string rebuild =
    "Rebuild: tame-deploy compile ARTIFACT --target tensorrt --batch 1,4,8 --explained 1,1,5 "
    "--rebuild";
const std::string engine_folder = "ARTIFACT/engines/tensorrt-fp32-sm86";

TEST_F(Refusals, NoEngine) {
  EXPECT_EQ(refused(TAME_INCOMPATIBLE_ERROR),
            "ARTIFACT has no tensorrt engine (found: none). Make one: tame-deploy compile ARTIFACT "
            "--target tensorrt");
  write();
  EXPECT_EQ(refused(TAME_INCOMPATIBLE_ERROR, "other"),
            "ARTIFACT has no tensorrt engine other (found: tensorrt-fp32-sm86). Make one: "
            "tame-deploy compile ARTIFACT --target tensorrt");
}

TEST_F(Refusals, AnotherGpu) {
  EXPECT_EQ(changed(TAME_INCOMPATIBLE_ERROR,
                    [](Json& one) {
                      one["compute_capabilities"] = {"8.9", "9.0"};
                    }),
            engine_folder +
                ": engine built for compute capability 8.9 or 9.0 with 10.13.2.6; this machine "
                "is 8.6 with 10.13.2.6. " +
                rebuild);
}

TEST_F(Refusals, AnotherVersion) {
  EXPECT_EQ(changed(TAME_INCOMPATIBLE_ERROR, [](Json& one) { one["version"] = "10.12.0.1"; }),
            engine_folder +
                ": engine built for compute capability 8.6 with 10.12.0.1; this machine is 8.6 "
                "with 10.13.2.6. " +
                rebuild);
}

TEST_F(Refusals, AVersionCompatibleEngineGoesForwardsOnly) {
  const auto compatible = [](const char* version) {
    return [=](Json& one) {
      one["version"] = version;
      one["options"]["version_compatible"] = true;
    };
  };
  write({{{1, 4, 8, 1, 1, 5}}, "tensorrt-a", compatible("10.9.0.34"), [](std::string&) {}});
  EXPECT_NE(open(), nullptr);
  EXPECT_EQ(tame_double::calls("setEngineHostCodeAllowed"), 1);
  fs::remove_all(path / "engines");
  EXPECT_NE(changed(TAME_INCOMPATIBLE_ERROR, compatible("10.14.0.1")).find("--version-compatible"),
            std::string::npos);
}

TEST_F(Refusals, HostCodeIsAllowedOnlyWhereItWasAskedFor) {
  write();
  EXPECT_NE(open(), nullptr);
  EXPECT_EQ(tame_double::calls("setEngineHostCodeAllowed"), 0);
}

TEST_F(Refusals, VersionsOfThreeNumbers) {
  write({{{1, 4, 8, 1, 1, 5}},
         "tensorrt-a",
         [](Json& one) { one["version"] = "10.13.2"; },
         [](std::string&) {}});
  EXPECT_NE(open(), nullptr);
}

TEST_F(Refusals, AnotherGraph) {
  const std::string other = changed(TAME_INCOMPATIBLE_ERROR,
                                    [](Json& one) { one["onnx_sha256"] = std::string(64, 'e'); });
  EXPECT_EQ(other, engine_folder +
                       " was built from graph eeeeeeeeeeeeeeee…; this artifact's is "
                       "aaaaaaaaaaaaaaaa…. " +
                       rebuild);
  changed(TAME_INCOMPATIBLE_ERROR, [](Json& one) { one["manifest"] = std::string(64, 'e'); });
}

TEST_F(Refusals, AStrippedEngine) {
  EXPECT_EQ(changed(TAME_INCOMPATIBLE_ERROR, [](Json& one) { one["options"]["strip"] = true; }),
            engine_folder +
                ": the engine was stripped of its weights, which only Python puts back; "
                "expected one that was compiled without --strip. " +
                rebuild);
}

TEST_F(Refusals, OtherTensorsThanTheManifests) {
  const std::string message = changed(TAME_INCOMPATIBLE_ERROR, [](Json& one) {
    one["outputs"][2]["shape"] = {"batch", "explained", 200, 300};
  });
  EXPECT_EQ(message, engine_folder + " lists other tensors than the manifest. " + rebuild);
}

TEST_F(Refusals, OtherTensorsThanTheEngines) {
  write({{{1, 4, 8, 1, 1, 5}},
         "tensorrt-a",
         [](Json&) {},
         [](std::string& plan) { plan.replace(plan.find("-1 10"), 5, "-1 11"); }});
  const auto message = refused(TAME_INCOMPATIBLE_ERROR);
  EXPECT_NE(message.find("the engine has tensors"), std::string::npos) << message;
  EXPECT_NE(message.find("output float32 (-1, 11)"), std::string::npos) << message;
}

TEST_F(Refusals, OtherProfilesThanTheEngines) {
  const auto profile = [](const char* text) {
    return [=](std::string& plan) { plan.replace(plan.find("profile"), 19, text); };
  };
  write({{{1, 4, 8, 1, 1, 5}}, "tensorrt-a", [](Json&) {}, profile("profile 1 4 9 1 1 5")});
  EXPECT_EQ(refused(TAME_INCOMPATIBLE_ERROR),
            "ARTIFACT/engines/tensorrt-a: profile 0 of the engine has images (9, 4, 5, 3); its "
            "sidecar lists (8, 4, 5, 3)");
  write({{{1, 4, 8, 1, 1, 5}}, "tensorrt-a", [](Json&) {}, profile("")});
  EXPECT_EQ(refused(TAME_INCOMPATIBLE_ERROR),
            "ARTIFACT/engines/tensorrt-a has 0 profiles; its sidecar lists 1");
}

TEST_F(Refusals, GraphsWhoseTensorsAreNotOfTheirManifest) {
  artifact.manifest.outputs[0].shape[1] = std::int64_t{11};
  write();
  EXPECT_EQ(refused(TAME_INCOMPATIBLE_ERROR),
            "the tensors of demo are not those of its pictures, classes and maps");
}

TEST_F(Refusals, APlanThatTensorRTDoesNotTake) {
  write({{{1, 4, 8, 1, 1, 5}},
         "tensorrt-fp32-sm86",
         [](Json&) {},
         [](std::string& plan) { plan = "garbage"; }});
  EXPECT_EQ(refused(TAME_INCOMPATIBLE_ERROR),
            engine_folder +
                ": tensorrt 10.13.2.6 cannot load its plan on Simulated: Serialization "
                "(Serialization assertion magicTag failed. " +
                rebuild);
}

TEST_F(Refusals, AnAlteredPlan) {
  const fs::path plan = write() / "model.plan";
  std::fstream file(plan, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(14);
  file.put('X');
  file.close();
  EXPECT_NE(refused(TAME_CHECKSUM_ERROR).find("model.plan was altered: its sha256 is "),
            std::string::npos);
  fs::resize_file(plan, 10);
  EXPECT_NE(refused(TAME_CHECKSUM_ERROR).find("model.plan has 10 bytes; expected "),
            std::string::npos);
  fs::remove(plan);
  EXPECT_EQ(refused(TAME_CHECKSUM_ERROR), engine_folder + "/model.plan is missing. " + rebuild);
}

TEST_F(Refusals, LinksThatLeadOut) {
  const fs::path outside = path.string() + "-outside";
  const fs::path engine = write();
  fs::rename(engine, outside);
  fs::create_directory_symlink(outside, engine);
  EXPECT_NE(refused(TAME_MANIFEST_ERROR).find("outside the artifact"), std::string::npos);
  fs::remove(engine);
  fs::rename(outside, engine);
  fs::rename(engine / "model.plan", outside);
  fs::create_symlink(outside, engine / "model.plan");
  EXPECT_NE(refused(TAME_MANIFEST_ERROR).find(", outside"), std::string::npos);
  fs::remove(outside);
}

TEST_F(Refusals, TheBestOfManyEnginesIsTaken) {
  const auto with = [](const char* capability, bool tf32) {
    return [=](Json& one) {
      one["compute_capabilities"] = Json::array();
      if (capability != nullptr) one["compute_capabilities"] = {capability};
      one["options"]["tf32"] = tf32;
      one["precision"] = "fp32";
    };
  };
  const auto put = [&](const char* name, const std::function<void(Json&)>& change) {
    write({{{1, 4, 8, 1, 1, 5}}, name, change, [](std::string&) {}});
  };
  put("tensorrt-a", with("9.0", false));
  put("tensorrt-b", with(nullptr, false));
  EXPECT_EQ(open()->name(), "tensorrt fp32 on Simulated");
  put("tensorrt-c", with("8.6", true));
  EXPECT_EQ(open()->name(), "tensorrt tf32 on Simulated");
  put("tensorrt-d", with("8.6", false));
  EXPECT_EQ(open()->name(), "tensorrt fp32 on Simulated");
  EXPECT_EQ(open([](Options& options) { options.engine = "tensorrt-c"; })->name(),
            "tensorrt tf32 on Simulated");
}

TEST_F(Refusals, AllThatWasRefusedIsTold) {
  for (const char* name : {"tensorrt-a", "tensorrt-b"}) {
    write(
        {{{1, 4, 8, 1, 1, 5}}, name, [](Json& one) { one["version"] = "9"; }, [](std::string&) {}});
  }
  const auto message = refused(TAME_INCOMPATIBLE_ERROR);
  EXPECT_NE(message.find("tensorrt-a"), std::string::npos);
  EXPECT_NE(message.find("; ARTIFACT/engines/tensorrt-b"), std::string::npos);
}

TEST_F(Refusals, AnotherFlavoursEngine) {
  const auto rtx = [](Json& one) { one["flavour"] = "tensorrt-rtx"; };
  write({{{1, 4, 8, 1, 1, 5}}, "tensorrt-rtx-fp32", rtx, [](std::string&) {}});
  EXPECT_NE(refused(TAME_INCOMPATIBLE_ERROR).find("(found: tensorrt-rtx-fp32)"), std::string::npos);
  EXPECT_EQ(refused(TAME_INCOMPATIBLE_ERROR, "tensorrt-rtx-fp32"),
            "ARTIFACT/engines/tensorrt-rtx-fp32 is for tensorrt-rtx; expected one for tensorrt");
}

}  // namespace
}  // namespace libtame::tests
