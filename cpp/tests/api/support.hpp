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
