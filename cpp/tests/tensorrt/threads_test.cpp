// Many threads and few lanes; meant for ThreadSanitizer as well.
#include <cstring>
#include <thread>

#include "support.hpp"

namespace libtame::tests {
namespace {

/// Run calls of many sizes from many threads; say how many were wrong.
int wrong_answers(Backend& backend, int threads, int rounds) {
  std::vector<int> wrong(static_cast<std::size_t>(threads));
  std::vector<std::thread> all;
  for (std::size_t number = 0; number < wrong.size(); ++number) {
    all.emplace_back([&, number] {
      for (int round = 0; round < rounds; ++round) {
        const std::size_t count = 1 + (number + static_cast<std::size_t>(round)) % 10;
        const std::size_t explained = 1 + number % 2;
        const auto images =
            pictures(count, static_cast<unsigned>(round * 100 + 1) + static_cast<unsigned>(number));
        const auto ids = same_ids(count, explained);
        const bool right = run(backend, images, ids, explained) == expected(images, ids, explained);
        wrong[number] += right ? 0 : 1;
      }
    });
  }
  for (std::thread& one : all) one.join();
  int sum = 0;
  for (const int one : wrong) sum += one;
  return sum;
}

TEST_F(TensorRT, ThreadsShareLanes) {
  write();
  for (const int streams : {1, 2, 4}) {
    const auto backend = open([&](Options& options) { options.streams = streams; });
    EXPECT_EQ(wrong_answers(*backend, 6, 12), 0) << streams;
  }
}

TEST_F(TensorRT, LanesAreAsManyAsStreamsAtMost) {
  write();
  const auto backend = open([](Options& options) { options.streams = 3; });
  EXPECT_EQ(tame_double::calls("cudaStreamCreateWithFlags"), 1);
  EXPECT_EQ(wrong_answers(*backend, 8, 12), 0);
  EXPECT_LE(tame_double::calls("cudaStreamCreateWithFlags"), 3);
}

TEST_F(TensorRT, WithoutRoomForMoreLanesThreadsTakeTurns) {
  write();
  auto backend = open();
  tame_double::Settings settings;
  settings.memory = tame_double::used_memory() + 1000;
  backend.reset();
  tame_double::reset(settings);
  backend = open([](Options& options) { options.streams = 8; });
  EXPECT_EQ(wrong_answers(*backend, 6, 12), 0);
}

TEST_F(TensorRT, ThreadsOfBothKinds) {
  write();
  const auto backend = open();
  int wrong = 0;
  std::thread on_device([&] {
    cudaStream_t stream = nullptr;
    cudaStreamCreateWithFlags(&stream, 0);
    const OnGpu images(2 * picture_bytes);
    const OnGpu ids(2 * 8);
    const OnGpu logits(2 * classes * 4);
    const OnGpu explained(2 * 8);
    const OnGpu maps(2 * map_values * 4);
    const tame_device_call call{sizeof(tame_device_call),
                                2,
                                1,
                                images.as<void>(),
                                ids.as<std::int64_t>(),
                                logits.as<float>(),
                                explained.as<std::int64_t>(),
                                maps.as<float>(),
                                stream};
    for (unsigned round = 0; round < 20; ++round) {
      const auto found = pictures(2, round);
      std::memcpy(images.as<char>(), found.data(), found.size());
      std::fill_n(ids.as<std::int64_t>(), 2, std::int64_t{3});
      backend->run_on_device(call);
      cudaStreamSynchronize(stream);
      const auto right = expected(found, same_ids(2, 1, 3), 1);
      wrong += std::equal(right.maps.begin(), right.maps.end(), maps.as<float>()) ? 0 : 1;
    }
    cudaStreamDestroy(stream);
  });
  EXPECT_EQ(wrong_answers(*backend, 3, 12), 0);
  on_device.join();
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace libtame::tests
