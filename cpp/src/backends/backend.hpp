// What every inference library looks like from here.
#pragma once

#include <tame/tame.h>

#include <cstdint>
#include <memory>
#include <string>

#include "../artifact/artifact.hpp"

namespace libtame {

/// How an artifact is run: tame_options, checked and with its defaults filled in.
struct Options {
  std::string backend = "onnxruntime";
  std::string library;
  std::string precision;
  std::string engine;
  int threads = 0;
  int streams = 2;
  int device = 0;
  bool cuda_graphs = true;
};

/// One batch: dense tensors in the host's memory, every size known beforehand.
struct Call {
  std::int64_t count = 0;                   // N
  std::int64_t explained = 0;               // K
  const void* images = nullptr;             // N pictures
  const std::int64_t* class_ids = nullptr;  // (N, K); null where the graph takes none
  float* logits = nullptr;                  // (N, C)
  std::int64_t* explained_ids = nullptr;    // (N, K)
  float* maps = nullptr;                    // (N, K, h, w)
};

/// Runs a graph. `run` may be called from many threads; destroyed when none of them is inside.
class Backend {
 public:
  Backend() = default;
  Backend(const Backend&) = delete;
  Backend& operator=(const Backend&) = delete;
  virtual ~Backend() = default;

  /// What runs and where, in words, such as "onnxruntime on CPU".
  virtual std::string name() const = 0;

  /// Version of the library.
  virtual std::string version() const = 0;

  /// Throws Failure: TAME_BACKEND_ERROR; TAME_INPUT_ERROR for sizes that it cannot run.
  virtual void run(const Call& call) = 0;

  /// Throws Failure: TAME_INPUT_ERROR where it knows no GPU.
  virtual void run_on_device(const tame_device_call& call);
};

/// Open an artifact's graph on the backend that the options name.
/// Throws Failure: TAME_NOT_INSTALLED_ERROR, TAME_DEVICE_ERROR, TAME_BACKEND_ERROR,
/// TAME_INCOMPATIBLE_ERROR, TAME_PARITY_ERROR for a graph of lower precision that is computed
/// otherwise than it was made, TAME_INPUT_ERROR for an option without a meaning there.
std::unique_ptr<Backend> open_backend(const Artifact& artifact, const Options& options);

std::unique_ptr<Backend> open_onnxruntime(const Artifact& artifact, const Options& options);
std::unique_ptr<Backend> open_openvino(const Artifact& artifact, const Options& options);
std::unique_ptr<Backend> open_tensorrt(const Artifact& artifact, const Options& options);

}  // namespace libtame
