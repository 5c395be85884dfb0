// One stream with all it needs to run: buffers for the largest profile, contexts, CUDA graphs.
#pragma once

#include <cstdint>
#include <deque>
#include <list>
#include <map>
#include <vector>

#include "cuda.hpp"
#include "engine.hpp"
#include "part.hpp"
#include "sizes.hpp"

namespace libtame::trt {

/// TensorRT takes addresses that are multiples of this many bytes.
inline constexpr std::size_t alignment = 256;

/// On the GPU, of the engine's inputs and then its outputs.
using Addresses = std::vector<void*>;

/// Runs one call at a time. Everything is allocated here, once, for the largest profile.
class Lane {
 public:
  /// Throws Failure: TAME_DEVICE_ERROR if it does not fit on the GPU.
  Lane(Engine& engine, const Sizes& largest, bool capture);
  Lane(const Lane&) = delete;
  Lane& operator=(const Lane&) = delete;
  ~Lane();

  /// Run a part of a call; its outputs are where the caller wants them when this returns.
  void run(const Fit& fit, const Part& part);

  /// Queue one execution on the caller's stream, behind what this lane does already, and note that
  /// the lane is in use until that stream has done it.
  void run_on(cudaStream_t stream, const Fit& fit, const Addresses& addresses);

  /// Whether all that it was given has run, or runs before anything else on the caller's stream.
  bool is_free_for(const cudaStream_t* stream) const noexcept;

 private:
  struct Key {
    std::int32_t profile;
    Sizes sizes;
    Addresses addresses;
    bool operator==(const Key& other) const {
      return profile == other.profile && sizes == other.sizes && addresses == other.addresses;
    }
  };

  /// Its context holds what the graph reads, and serves nothing else; it outlives the graph.
  struct Captured {
    Key key;
    Context context;
    Graph graph;
  };

  void queue_run(const Fit& fit, const Part& part);
  void enqueue(const Key& key, cudaStream_t stream);
  bool launch_captured(const Key& key, cudaStream_t stream);
  bool worth_capturing(const Key& key);
  void capture_now(const Key& key, cudaStream_t stream);
  Context own_context(std::int32_t profile, cudaStream_t stream);
  nvinfer1::IExecutionContext& context(std::int32_t profile, cudaStream_t stream);
  void execute(nvinfer1::IExecutionContext& context, const Key& key, cudaStream_t stream);
  void set_tensors(nvinfer1::IExecutionContext& context, const Key& key);
  void start(nvinfer1::IExecutionContext& context, cudaStream_t stream);
  void mark_done(cudaStream_t stream);
  void finish();

  Engine& engine_;
  bool capture_;
  // Freed from the last to the first: graphs before contexts, contexts before their memory.
  Stream stream_;
  Event done_;
  cudaStream_t last_ = nullptr;  // the stream of its last work
  DeviceMemory scratch_;
  std::vector<DeviceMemory> device_;  // inputs, then outputs
  std::vector<PinnedMemory> host_;
  Addresses own_;
  std::map<std::int32_t, Context> contexts_;
  // Contexts whose capture failed have work in flight until the lane is closed.
  std::vector<Context> kept_contexts_;
  std::list<Captured> captured_;  // the one used last comes first
  std::deque<Key> seen_;
};

}  // namespace libtame::trt
