// CUDA's runtime: its resources as owners, its errors as failures.
#pragma once

#include <cuda_runtime_api.h>

#include <functional>
#include <memory>
#include <string>

namespace libtame::trt {

/// Throw what CUDA says went wrong: Failure, TAME_DEVICE_ERROR.
void check(cudaError_t error, const char* what);

struct Device {
  int index = 0;
  std::string name;
  int major = 0;
  int minor = 0;
  std::size_t memory_bytes = 0;
  int driver = 0;  // the CUDA version of the driver, such as 13050
};

/// A GPU that can be used. Throws Failure: TAME_DEVICE_ERROR without a driver, a GPU, or a GPU of
/// that number.
Device probe(int index);

/// Makes a GPU this thread's for a while: the caller has one, too.
class CurrentDevice {
 public:
  explicit CurrentDevice(int index);
  CurrentDevice(const CurrentDevice&) = delete;
  CurrentDevice& operator=(const CurrentDevice&) = delete;
  ~CurrentDevice();

 private:
  int before_ = 0;
};

// What a destructor cannot free is left to the driver: there is nobody to tell.
template <auto free_it>
struct Free {
  template <typename Handle>
  void operator()(Handle handle) const noexcept {
    if (free_it(handle) != cudaSuccess) cudaGetLastError();
  }
};

using DeviceMemory = std::unique_ptr<void, Free<&cudaFree>>;
using PinnedMemory = std::unique_ptr<void, Free<&cudaFreeHost>>;
using Stream = std::unique_ptr<CUstream_st, Free<&cudaStreamDestroy>>;
using Event = std::unique_ptr<CUevent_st, Free<&cudaEventDestroy>>;
using Graph = std::unique_ptr<CUgraphExec_st, Free<&cudaGraphExecDestroy>>;

/// Bytes on the GPU, at a multiple of 256.
DeviceMemory device_memory(std::size_t size);

/// Bytes on the host that the GPU reads and writes by itself, at the bus's full speed.
PinnedMemory pinned_memory(std::size_t size);

Stream make_stream();
Event make_event();

/// Queue a copy between addresses of host or GPU.
void copy(void* target, const void* source, std::size_t size, cudaStream_t stream);

/// Work that is captured once and started as one. `enqueue` gives it to the stream.
Graph capture(cudaStream_t stream, const std::function<void()>& enqueue);

}  // namespace libtame::trt
