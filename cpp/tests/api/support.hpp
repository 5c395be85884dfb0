// What the tests of the public functions share.
#pragma once

#include <gtest/gtest.h>

#include <cstdlib>
#include <string>
#include <tame/tame.hpp>

namespace support {

inline std::string environment(const char* name) {
  const char* found = std::getenv(name);
  return found ? found : "";
}

/// The artifact to run on; "" where there is none.
inline std::string artifact() { return environment("TAME_TEST_ARTIFACT"); }

/// A test that runs the demo; skipped where TAME_TEST_ARTIFACT names none.
class WithArtifact : public testing::Test {
 protected:
  void SetUp() override {
    if (artifact().empty()) GTEST_SKIP() << "TAME_TEST_ARTIFACT names no exported demo";
  }
};

/// Pixels that differ from each other, in a pattern of their own for each seed.
inline tame::Picture pattern(int width, int height, unsigned seed = 1) {
  tame::Picture picture{width, height, {}};
  picture.pixels.resize(static_cast<std::size_t>(width) * static_cast<std::size_t>(height) * 3);
  std::uint32_t state = seed * 2654435761U + 1;
  for (std::uint8_t& value : picture.pixels) {
    state = state * 1664525U + 1013904223U;
    value = static_cast<std::uint8_t>(state >> 24);
  }
  return picture;
}

/// A PNG file of 2x1 pixels in 16-bit grey: 0 and 4095.
inline const std::vector<std::uint8_t> dim_png = {
    0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a, 0x00, 0x00, 0x00, 0x0d, 0x49, 0x48,
    0x44, 0x52, 0x00, 0x00, 0x00, 0x02, 0x00, 0x00, 0x00, 0x01, 0x10, 0x00, 0x00, 0x00,
    0x00, 0x81, 0xd9, 0xfc, 0x15, 0x00, 0x00, 0x00, 0x0d, 0x49, 0x44, 0x41, 0x54, 0x78,
    0x9c, 0x63, 0x60, 0x60, 0xe0, 0xff, 0x0f, 0x00, 0x01, 0x22, 0x01, 0x0f, 0x65, 0x06,
    0x5f, 0xdc, 0x00, 0x00, 0x00, 0x00, 0x49, 0x45, 0x4e, 0x44, 0xae, 0x42, 0x60, 0x82};

/// Whether libtame reads files.
inline bool decodes() {
  std::int32_t width = 0, height = 0;
  const tame::Image dim = tame::Image::encoded(dim_png);
  return tame_image_size(&dim.get(), &width, &height) == TAME_OK;
}

/// The status of what a call throws; TAME_OK if it throws nothing.
template <typename Call>
tame_status status_of(Call&& call) {
  try {
    call();
    return TAME_OK;
  } catch (const tame::Error& error) {
    EXPECT_STRNE(error.what(), "");
    EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
    return error.status();
  }
}

}  // namespace support
