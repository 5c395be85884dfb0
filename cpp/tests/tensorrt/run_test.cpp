// Calls of any size on the host's memory.
#include "support.hpp"

namespace libtame::tests {
namespace {

/// A call whose ids are partly chosen and partly ranks.
void expect_right(Backend& backend, std::size_t count, std::size_t explained) {
  const auto images = pictures(count, static_cast<unsigned>(count * 31 + explained));
  auto ids = same_ids(count, explained);
  for (std::size_t place = 0; place < ids.size(); place += 2) {
    ids[place] = static_cast<std::int64_t>(place % classes);
  }
  EXPECT_EQ(run(backend, images, ids, explained), expected(images, ids, explained))
      << count << " pictures with " << explained;
}

TEST_F(TensorRT, AnyNumberOfPicturesAndClasses) {
  write();
  const auto backend = open();
  for (const std::size_t count : {1U, 2U, 7U, 8U, 9U, 16U, 21U}) {
    for (const std::size_t explained : {1U, 2U, 5U}) expect_right(*backend, count, explained);
  }
}

TEST_F(TensorRT, MoreClassesThanAProfileHolds) {
  write();
  const auto backend = open();
  const auto images = pictures(9);
  for (const std::size_t explained : {6U, 10U, 13U}) {
    auto ids = same_ids(9, explained);
    for (std::size_t row = 0; row < 9; ++row) {
      for (std::size_t place = 0; place < explained; ++place) {
        // Ranks are the engine's own in the first places alone.
        if (place >= 5 || row % 2 == 0) {
          ids[row * explained + place] = static_cast<std::int64_t>((row + place) % classes);
        }
      }
    }
    EXPECT_EQ(run(*backend, images, ids, explained), expected(images, ids, explained));
  }
}

TEST_F(TensorRT, RanksBeyondWhatTheEngineRanksAreRefused) {
  write();
  const auto backend = open();
  auto ids = same_ids(2, 6, 3);
  ids[11] = -1;
  const auto message = failure(TAME_INPUT_ERROR, [&] { run(*backend, pictures(2), ids, 6); });
  EXPECT_EQ(message,
            "-1 stands in place 6 or later; this engine ranks 5 classes at a time (compile with a "
            "larger --explained)");
}

TEST_F(TensorRT, LessThanTheLeastIsFilledUp) {
  write({{{4, 4, 8, 3, 3, 5}}});
  const auto backend = open();
  for (const std::size_t count : {1U, 3U, 4U, 9U}) {
    for (const std::size_t explained : {1U, 2U, 3U, 4U}) expect_right(*backend, count, explained);
  }
}

TEST_F(TensorRT, TheTightestProfileRuns) {
  write({{{1, 1, 1, 1, 1, 2}, {4, 8, 16, 1, 1, 2}, {2, 2, 4, 1, 1, 2}}});
  const auto backend = open();
  for (const std::size_t count : {1U, 2U, 3U, 4U, 5U, 16U, 17U, 19U, 35U}) {
    expect_right(*backend, count, 2);
  }
}

TEST_F(TensorRT, AGraphThatTakesNoIds) {
  take_no_ids();
  write({{{2, 2, 4, 0, 0, 0}}});
  const auto backend = open();
  const auto images = pictures(7);
  EXPECT_EQ(run(*backend, images, {}, 2), expected(images, {}, 2));
  EXPECT_EQ(failure(TAME_INPUT_ERROR, [&] { run(*backend, images, {}, 1); }),
            "found 1 classes to explain; this graph explains 2");
  EXPECT_EQ(failure(TAME_INPUT_ERROR, [&] { run(*backend, images, same_ids(7, 2), 2); }),
            "class_ids is given; this graph takes none");
}

TEST_F(TensorRT, CallsWithoutWhatTheyNeedAreRefused) {
  write();
  const auto backend = open();
  EXPECT_EQ(failure(TAME_INPUT_ERROR, [&] { run(*backend, pictures(1), {}, 1); }),
            "class_ids is missing; this graph takes them");
  EXPECT_EQ(failure(TAME_INPUT_ERROR, [&] { run(*backend, {}, same_ids(1, 1), 1); }),
            "found 0 pictures with 1 classes each; expected at least one");
}

TEST_F(TensorRT, NamesWhatRunsWhere) {
  write({{{1, 4, 8, 1, 1, 5}}, "tensorrt-fp32-sm86", [](Json& one) {
           one["options"]["tf32"] = true;
         }});
  const auto backend = open();
  EXPECT_EQ(backend->name(), "tensorrt tf32 on Simulated");
  EXPECT_EQ(backend->version(), "10.13.2.6");
}

TEST_F(TensorRT, AFailureOfTheEngineIsToldAndOver) {
  write();
  const auto backend = open();
  tame_double::Settings settings;
  settings.failing_executions = 1;
  tame_double::change(settings);
  const auto message =
      failure(TAME_BACKEND_ERROR, [&] { run(*backend, pictures(2), same_ids(2, 1), 1); });
  EXPECT_EQ(message, "tensorrt failed: Cuda Runtime (went wrong)");
  // The pinned memory that the next call writes is not read any more.
  EXPECT_EQ(tame_double::calls("cudaStreamSynchronize"), 1);
  expect_right(*backend, 3, 2);
}

TEST_F(TensorRT, ErrorsOfCudaAreTold) {
  write();
  const auto backend = open();
  for (const char* function : {"cudaMemcpyAsync", "cudaStreamSynchronize", "cudaStreamWaitEvent"}) {
    tame_double::fail_next(function, cudaErrorIllegalAddress);
    const auto message =
        failure(TAME_DEVICE_ERROR, [&] { run(*backend, pictures(2), same_ids(2, 1), 1); });
    EXPECT_EQ(message,
              std::string("CUDA: ") + function + ": an illegal memory access was encountered");
  }
  expect_right(*backend, 3, 2);
}

TEST_F(TensorRT, TheCallersDeviceStaysCurrent) {
  tame_double::Settings settings;
  settings.devices = 3;
  tame_double::reset(settings);
  write();
  cudaSetDevice(2);
  auto backend = open([](Options& options) { options.device = 1; });
  expect_right(*backend, 9, 2);
  expect_right(*backend, 9, 2);
  backend.reset();
  int current = -1;
  cudaGetDevice(&current);
  EXPECT_EQ(current, 2);
  cudaSetDevice(0);
}

}  // namespace
}  // namespace libtame::tests
