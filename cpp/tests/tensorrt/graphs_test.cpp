// CUDA graphs: when they are captured, replayed and dropped.
#include "support.hpp"

namespace libtame::tests {
namespace {

void run_right(Backend& backend, std::size_t count, std::size_t explained = 1, unsigned seed = 1) {
  const auto images = pictures(count, seed);
  const auto ids = same_ids(count, explained);
  EXPECT_EQ(run(backend, images, ids, explained), expected(images, ids, explained));
}

TEST_F(TensorRT, TheSecondCallOfASizeIsCapturedAndLaterOnesReplayed) {
  write();
  const auto backend = open();
  run_right(*backend, 3, 1, 1);
  EXPECT_EQ(tame_double::calls("cudaStreamBeginCapture"), 0);
  run_right(*backend, 3, 1, 2);
  EXPECT_EQ(tame_double::calls("cudaStreamBeginCapture"), 1);
  EXPECT_EQ(tame_double::calls("cudaGraphLaunch"), 0);
  const int executions = tame_double::calls("enqueueV3");
  for (unsigned seed = 3; seed < 9; ++seed) run_right(*backend, 3, 1, seed);
  EXPECT_EQ(tame_double::calls("cudaGraphLaunch"), 6);
  EXPECT_EQ(tame_double::calls("enqueueV3"), executions);
}

TEST_F(TensorRT, OtherSizesDoNotDisturbAGraph) {
  write({{{1, 1, 2, 1, 1, 5}, {1, 4, 8, 1, 1, 5}}});
  const auto backend = open();
  for (unsigned round = 0; round < 4; ++round) {
    for (const std::size_t count : {3U, 5U, 2U, 1U}) {
      run_right(*backend, count, 1, round);
      run_right(*backend, count, 4, round);
    }
  }
  EXPECT_EQ(tame_double::calls("cudaStreamBeginCapture"), 8);
  EXPECT_EQ(tame_double::calls("cudaGraphLaunch"), 16);
}

TEST_F(TensorRT, GraphsAreOnlySoMany) {
  write({{{1, 16, 32, 1, 1, 1}}});
  const auto backend = open();
  for (std::size_t count = 1; count <= 20; ++count) {
    run_right(*backend, count);
    run_right(*backend, count);
  }
  EXPECT_EQ(tame_double::calls("cudaStreamBeginCapture"), 20);
  EXPECT_EQ(tame_double::calls("cudaGraphExecDestroy"), 4);
  run_right(*backend, 20);  // is there
  EXPECT_EQ(tame_double::calls("cudaGraphLaunch"), 1);
  run_right(*backend, 5);  // is there, and the oldest: it becomes the newest
  run_right(*backend, 1);  // is not
  EXPECT_EQ(tame_double::calls("cudaGraphLaunch"), 2);
  EXPECT_EQ(tame_double::calls("cudaStreamBeginCapture"), 21);
  run_right(*backend, 5);
  EXPECT_EQ(tame_double::calls("cudaGraphLaunch"), 3);
}

TEST_F(TensorRT, GraphsCanBeForbidden) {
  write();
  const auto backend = open([](Options& options) { options.cuda_graphs = false; });
  for (unsigned seed = 0; seed < 4; ++seed) run_right(*backend, 3, 1, seed);
  EXPECT_EQ(tame_double::calls("cudaStreamBeginCapture"), 0);
}

TEST_F(TensorRT, WhatCannotBeCapturedRunsAllTheSame) {
  tame_double::Settings settings;
  settings.capturable = false;
  tame_double::reset(settings);
  write();
  const auto backend = open();
  for (unsigned seed = 0; seed < 4; ++seed) {
    run_right(*backend, 3, 1, seed);
    run_right(*backend, 4, 1, seed);
  }
  EXPECT_EQ(tame_double::calls("cudaStreamBeginCapture"), 1);
  EXPECT_EQ(tame_double::calls("cudaStreamEndCapture"), 1);
  EXPECT_EQ(tame_double::calls("cudaGraphLaunch"), 0);
}

TEST_F(TensorRT, AFailedCaptureEndsTheCapturing) {
  for (const char* function :
       {"cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiateWithFlags"}) {
    write();
    const auto backend = open();
    tame_double::fail_next(function, cudaErrorInvalidValue);
    for (unsigned seed = 0; seed < 4; ++seed) run_right(*backend, 3, 1, seed);
    EXPECT_EQ(tame_double::calls("cudaGraphLaunch"), 0) << function;
  }
}

TEST_F(TensorRT, WithoutRoomForAContextNothingIsCaptured) {
  write();
  const auto backend = open();
  run_right(*backend, 3);
  tame_double::Settings settings;
  settings.most_contexts = 1;
  tame_double::change(settings);
  for (unsigned seed = 0; seed < 4; ++seed) run_right(*backend, 3, 1, seed);
  EXPECT_EQ(tame_double::calls("cudaStreamBeginCapture"), 0);
}

TEST_F(TensorRT, WithoutRoomForTheFirstContextTheCallFails) {
  tame_double::Settings settings;
  settings.most_contexts = 0;
  tame_double::reset(settings);
  write();
  const auto backend = open();
  EXPECT_EQ(failure(TAME_DEVICE_ERROR, [&] { run(*backend, pictures(1), same_ids(1, 1), 1); }),
            "an execution context could not be made: OutOfMemory (no room for a context)");
}

}  // namespace
}  // namespace libtame::tests
