// The plugin: found, missing, of another version; and GPUs that cannot be used.
#include <cstdlib>
#include <fstream>

#include "support.hpp"

namespace libtame::tests {
namespace {

namespace fs = std::filesystem;

bool says(const std::string& message, const std::string& part) {
  return message.find(part) != message.npos;
}

TEST_F(TensorRT, APluginThatIsNamedAndMissing) {
  write();
  const auto message = failure(TAME_NOT_INSTALLED_ERROR, [&] {
    open([](Options& options) { options.library = "/nowhere/libtame_tensorrt.so"; });
  });
  EXPECT_TRUE(says(message, "libtame_tensorrt.so")) << message;
  EXPECT_TRUE(says(message, "/nowhere")) << message;
}

TEST_F(TensorRT, NoPluginAtAllSaysHowToBuildOne) {
  write();
  const auto message = failure(TAME_NOT_INSTALLED_ERROR,
                               [&] { open([](Options& options) { options.library.clear(); }); });
  EXPECT_TRUE(says(message, "libtame_tensorrt.so")) << message;
  EXPECT_TRUE(says(message, "-DTAME_WITH_TENSORRT=ON")) << message;
  EXPECT_TRUE(says(message, "TAME_PLUGIN_PATH")) << message;
}

TEST_F(TensorRT, TheEnvironmentNamesThePlugin) {
  write();
  setenv("TAME_PLUGIN_PATH", TAME_TEST_PLUGIN, 1);
  const auto backend = open([](Options& options) { options.library.clear(); });
  unsetenv("TAME_PLUGIN_PATH");
  EXPECT_EQ(backend->name(), "tensorrt fp32 on Simulated");
}

TEST_F(TensorRT, ADirectoryNamesThePlugin) {
  write();
  const fs::path place = path / "lib";
  fs::create_directories(place);
  fs::create_symlink(TAME_TEST_PLUGIN, place / "libtame_tensorrt.so");
  const auto backend = open([&](Options& options) { options.library = place.string(); });
  EXPECT_EQ(backend->version(), "10.13.2.6");
}

TEST_F(TensorRT, APluginOfAnotherLibtame) {
  write();
  const auto message = failure(TAME_INCOMPATIBLE_ERROR, [&] {
    open([](Options& options) { options.library = TAME_TEST_OTHER_PLUGIN; });
  });
  EXPECT_TRUE(says(message, "was built for libtame 0.0.9 tensorrt 1; expected libtame "))
      << message;
}

TEST_F(TensorRT, APluginOfTheOtherFlavour) {
  write();
  const auto message = failure(TAME_INCOMPATIBLE_ERROR, [&] {
    open([](Options& options) { options.backend = "tensorrt-rtx"; });
  });
  EXPECT_TRUE(says(message, "was built for tensorrt; expected one for tensorrt-rtx")) << message;
}

TEST_F(TensorRT, ALibraryOfAnotherMajorVersion) {
  write();
  for (const auto& [number, version] :
       {std::pair{110000, "11.0.0.6"}, {8601, "8.6.1.6"}, {90300, "9.3.0.6"}}) {
    tame_double::Settings settings;
    settings.library = number;
    tame_double::change(settings);
    const auto message = failure(TAME_INCOMPATIBLE_ERROR, [&] { open(); });
    EXPECT_EQ(message, words("the plugin was built for tensorrt 10.13; the library that was loaded "
                             "is ",
                             version,
                             ". Build libtame with -DTensorRT_ROOT of the one that "
                             "it is to run with"));
  }
}

/// What opening comes to on some GPU.
std::string device_failure(const tame_double::Settings& settings,
                           const std::function<void()>& open) {
  tame_double::change(settings);
  const std::string message = failure(TAME_DEVICE_ERROR, open);
  const std::string rest =
      ". An engine runs on its GPU alone; backend onnxruntime runs the graph here";
  EXPECT_TRUE(says(message, rest)) << message;
  return message.substr(0, message.find(rest));
}

TEST_F(TensorRT, GpusThatCannotBeUsed) {
  write();
  tame_double::Settings settings;
  settings.driver = 0;
  EXPECT_EQ(device_failure(settings, [&] { open(); }),
            "found no NVIDIA driver; expected one for CUDA 13.0 or later");
  settings.driver = 12040;
  EXPECT_EQ(device_failure(settings, [&] { open(); }),
            "found an NVIDIA driver for CUDA 12.4; expected one for CUDA 13.0 or later. Update it");
  settings = {};
  settings.devices = 0;
  EXPECT_EQ(device_failure(settings, [&] { open(); }),
            "found an NVIDIA driver and no GPU; check CUDA_VISIBLE_DEVICES");
  settings.devices = 2;
  EXPECT_EQ(device_failure(settings, [&] { open([](Options& options) { options.device = 2; }); }),
            "device 2 was asked for; found GPUs 0 to 1");
  tame_double::fail_next("cudaGetDeviceCount", cudaErrorIllegalAddress);
  EXPECT_EQ(device_failure({}, [&] { open(); }),
            "CUDA cannot be used: an illegal memory access was encountered");
}

TEST_F(TensorRT, AGpuThatIsTooSmallIsToldAtOnce) {
  write();
  tame_double::Settings settings;
  settings.memory = 4096;
  tame_double::reset(settings);
  const auto message = failure(TAME_DEVICE_ERROR, [&] { open(); });
  EXPECT_EQ(message,
            "the GPU has no 0 MiB left; compile a smaller profile (--batch), or end what else uses "
            "it");
}

TEST_F(TensorRT, WhateverFailsWhileOpeningLeavesNothing) {
  write();
  for (const char* function :
       {"cudaMalloc", "cudaHostAlloc", "cudaStreamCreateWithFlags", "cudaEventCreateWithFlags",
        "cudaSetDevice", "cudaGetDeviceProperties"}) {
    for (int after = 0; after < 3; ++after) {
      const int before = tame_double::calls(function);
      tame_double::fail_next(function, cudaErrorInvalidValue, after);
      try {
        open();
      } catch (const Failure& refused) {
        EXPECT_EQ(refused.status(), TAME_DEVICE_ERROR) << function;
        EXPECT_TRUE(says(refused.what(), function)) << refused.what();
      }
      EXPECT_GT(tame_double::calls(function), before);
      EXPECT_EQ(tame_double::leftovers(), std::vector<std::string>()) << function;
      tame_double::reset();
    }
  }
}

}  // namespace
}  // namespace libtame::tests
