// The plugin built for TensorRT-RTX: graphs are the library's own.
#include "support.hpp"

namespace libtame::tests {
namespace {

TEST_F(TensorRT, RtxRuns) {
  write();
  const auto backend = open();
  EXPECT_EQ(backend->name(), "tensorrt-rtx fp32 on Simulated");
  for (unsigned round = 0; round < 4; ++round) {
    const auto images = pictures(9, round);
    const auto ids = same_ids(9, 2);
    EXPECT_EQ(run(*backend, images, ids, 2), expected(images, ids, 2));
  }
  EXPECT_EQ(tame_double::calls("cudaStreamBeginCapture"), 0);
}

}  // namespace
}  // namespace libtame::tests
