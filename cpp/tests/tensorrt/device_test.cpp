// run_on_device: the caller's memory, on the caller's stream.
#include <cstring>

#include "support.hpp"

namespace libtame::tests {
namespace {

/// A call's tensors on the simulated GPU, which is memory of the host.
struct Tensors {
  Tensors(const std::vector<unsigned char>& images, const std::vector<std::int64_t>& ids,
          std::size_t places)
      : count(images.size() / picture_bytes),
        explained(places),
        pictures(images.size()),
        class_ids(ids.size() * 8 + 1),
        logits(count * classes * 4),
        explained_ids(count * places * 8),
        maps(count * places * map_values * 4) {
    std::memcpy(pictures.as<char>(), images.data(), images.size());
    if (!ids.empty()) std::memcpy(class_ids.as<char>(), ids.data(), ids.size() * 8);
  }

  tame_device_call call(cudaStream_t stream = nullptr) const {
    tame_device_call made{};
    made.struct_size = sizeof made;
    made.count = count;
    made.explained = explained;
    made.images = pictures.as<void>();
    made.class_ids = class_ids.as<std::int64_t>();
    made.logits = logits.as<float>();
    made.explained_ids = explained_ids.as<std::int64_t>();
    made.maps = maps.as<float>();
    made.cuda_stream = stream;
    return made;
  }

  Answers answers() const {
    const auto* ids = explained_ids.as<std::int64_t>();
    return {{logits.as<float>(), logits.as<float>() + count * classes},
            {ids, ids + count * explained},
            {maps.as<float>(), maps.as<float>() + count * explained * map_values}};
  }

  std::size_t count;
  std::size_t explained;
  OnGpu pictures, class_ids, logits, explained_ids, maps;
};

class OwnStream {
 public:
  OwnStream() { cudaStreamCreateWithFlags(&stream_, 0); }
  OwnStream(const OwnStream&) = delete;
  OwnStream& operator=(const OwnStream&) = delete;
  ~OwnStream() { cudaStreamDestroy(stream_); }
  operator cudaStream_t() const { return stream_; }  // NOLINT: it is one

 private:
  cudaStream_t stream_ = nullptr;
};

TEST_F(TensorRT, OnlyQueuesOnTheCallersStream) {
  write();
  const auto images = pictures(3);
  const auto ids = same_ids(3, 2);
  const auto right = expected(images, ids, 2);
  const auto backend = open();
  const OwnStream stream;
  const Tensors tensors(images, ids, 2);
  const Answers before = tensors.answers();
  backend->run_on_device(tensors.call(stream));
  EXPECT_EQ(tensors.answers(), before) << "it waited";
  EXPECT_EQ(tame_double::calls("cudaStreamSynchronize"), 0);
  cudaStreamSynchronize(stream);
  EXPECT_EQ(tensors.answers(), right);
}

TEST_F(TensorRT, EarlierWorkOfTheStreamComesFirst) {
  write();
  const auto images = pictures(2, 7);
  const auto backend = open();
  const OwnStream stream;
  const Tensors tensors(pictures(2, 1), same_ids(2, 1), 1);
  // The pictures arrive by work of the stream that is still waiting.
  cudaMemcpyAsync(tensors.pictures.as<void>(), images.data(), images.size(), cudaMemcpyDefault,
                  stream);
  backend->run_on_device(tensors.call(stream));
  cudaStreamSynchronize(stream);
  EXPECT_EQ(tensors.answers(), expected(images, same_ids(2, 1), 1));
}

TEST_F(TensorRT, CallsOnManyStreamsShareALane) {
  write();
  const auto backend = open([](Options& options) { options.streams = 1; });
  const OwnStream streams[3];
  std::vector<std::unique_ptr<Tensors>> all;
  for (unsigned round = 0; round < 12; ++round) {
    const std::size_t count = 1 + round % 3;
    all.push_back(std::make_unique<Tensors>(pictures(count, round), same_ids(count, 1), 1));
    backend->run_on_device(all.back()->call(streams[round % 3]));
  }
  // A call on the host's memory comes behind all of them, on the lane's own stream.
  const auto images = pictures(4, 99);
  EXPECT_EQ(run(*backend, images, same_ids(4, 1), 1), expected(images, same_ids(4, 1), 1));
  for (cudaStream_t stream : streams) cudaStreamSynchronize(stream);
  for (unsigned round = 0; round < 12; ++round) {
    const std::size_t count = 1 + round % 3;
    EXPECT_EQ(all[round]->answers(), expected(pictures(count, round), same_ids(count, 1), 1));
  }
}

TEST_F(TensorRT, TheSameMemoryIsReplayedAsAGraph) {
  write();
  const auto backend = open();
  for (const bool by_default : {false, true}) {
    const std::size_t count = by_default ? 3 : 2;  // or the memory may be the same
    const OwnStream own;
    cudaStream_t const stream = by_default ? nullptr : static_cast<cudaStream_t>(own);
    const Tensors tensors(pictures(count), same_ids(count, 1), 1);
    const int launched = tame_double::calls("cudaGraphLaunch");
    for (unsigned seed = 0; seed < 5; ++seed) {
      const auto images = pictures(count, seed);
      std::memcpy(tensors.pictures.as<char>(), images.data(), images.size());
      backend->run_on_device(tensors.call(stream));
      cudaStreamSynchronize(stream);
      EXPECT_EQ(tensors.answers(), expected(images, same_ids(count, 1), 1));
    }
    EXPECT_EQ(tame_double::calls("cudaGraphLaunch") - launched, 3);
  }
}

TEST_F(TensorRT, OtherMemoryIsNotTheGraphs) {
  write();
  const auto backend = open();
  const OwnStream stream;
  const Tensors one(pictures(2, 1), same_ids(2, 1), 1);
  const Tensors other(pictures(2, 2), same_ids(2, 1), 1);
  for (int round = 0; round < 3; ++round) backend->run_on_device(one.call(stream));
  backend->run_on_device(other.call(stream));
  cudaStreamSynchronize(stream);
  EXPECT_EQ(other.answers(), expected(pictures(2, 2), same_ids(2, 1), 1));
  EXPECT_EQ(tame_double::calls("cudaGraphLaunch"), 1);
}

TEST_F(TensorRT, CloseWaitsForWhatTheCallerQueued) {
  write();
  auto backend = open();
  const OwnStream stream;
  const Tensors tensors(pictures(2), same_ids(2, 1), 1);
  backend->run_on_device(tensors.call(stream));
  backend.reset();
  EXPECT_EQ(tensors.answers(), expected(pictures(2), same_ids(2, 1), 1));
}

TEST_F(TensorRT, SizesMustFitOneProfile) {
  write({{{2, 4, 8, 1, 1, 5}}});
  const auto backend = open();
  for (const std::size_t count : {1U, 9U}) {
    const Tensors tensors(pictures(count), same_ids(count, 1), 1);
    const auto message = failure(TAME_INPUT_ERROR, [&] { backend->run_on_device(tensors.call()); });
    EXPECT_EQ(message, words("found ", count,
                             " pictures with 1 classes each; no profile holds it "
                             "(batch 2,4,8 with 1,1,5 classes each)"));
  }
}

TEST_F(TensorRT, WrongMemoryIsRefused) {
  tame_double::Settings settings;
  settings.devices = 2;
  tame_double::reset(settings);
  write();
  const auto backend = open();
  const Tensors tensors(pictures(2), same_ids(2, 1), 1);
  const auto refused = [&](const std::function<void(tame_device_call&)>& spoil) {
    tame_device_call call = tensors.call();
    spoil(call);
    return failure(TAME_INPUT_ERROR, [&] { backend->run_on_device(call); });
  };
  EXPECT_EQ(refused([](tame_device_call& call) { call.maps = nullptr; }),
            "maps is NULL; expected memory on the GPU");
  EXPECT_NE(refused([](tame_device_call& call) {
              call.logits += 1;
            }).find("expected an address that is a multiple of 256"),
            std::string::npos);
  alignas(256) static float on_host[64];
  EXPECT_EQ(refused([](tame_device_call& call) { call.logits = on_host; }),
            "logits is on no GPU; expected memory on GPU 0");
  cudaSetDevice(1);
  const OnGpu elsewhere(256);
  cudaSetDevice(0);
  EXPECT_EQ(refused([&](tame_device_call& call) { call.images = elsewhere.as<void>(); }),
            "images is on GPU 1; expected GPU 0");
  EXPECT_EQ(refused([](tame_device_call& call) { call.class_ids = nullptr; }),
            "class_ids is missing; this graph takes them");
  EXPECT_EQ(refused([](tame_device_call& call) { call.count = 0; }),
            "found 0 pictures with 1 classes each; expected at least one");
}

TEST_F(TensorRT, AStreamThatIsCapturedIsRefused) {
  write();
  const auto backend = open();
  const OwnStream stream;
  const Tensors tensors(pictures(2), same_ids(2, 1), 1);
  cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
  EXPECT_EQ(failure(TAME_INPUT_ERROR, [&] { backend->run_on_device(tensors.call(stream)); }),
            "cuda_stream is being captured; expected a stream that runs");
  cudaGraph_t graph = nullptr;
  cudaStreamEndCapture(stream, &graph);
  cudaGraphDestroy(graph);
}

TEST_F(TensorRT, AFailureOnTheCallersStreamLeavesALaneThatRuns) {
  write();
  const auto backend = open([](Options& options) { options.streams = 1; });
  const OwnStream stream;
  const Tensors tensors(pictures(2), same_ids(2, 1), 1);
  tame_double::Settings settings;
  settings.failing_executions = 1;
  tame_double::change(settings);
  failure(TAME_BACKEND_ERROR, [&] { backend->run_on_device(tensors.call(stream)); });
  backend->run_on_device(tensors.call(stream));
  cudaStreamSynchronize(stream);
  EXPECT_EQ(tensors.answers(), expected(pictures(2), same_ids(2, 1), 1));
}

}  // namespace
}  // namespace libtame::tests
