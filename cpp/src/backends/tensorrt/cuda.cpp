#include "cuda.hpp"

#include <algorithm>

#include "error.hpp"

namespace libtame::trt {
namespace {

std::string dotted(int version) { return words(version / 1000, ".", version % 1000 / 10); }

/// Which driver is missing; within a major version, an older one does as well.
std::string driver_words() {
  int found = 0;
  int needed = 0;
  if (cudaDriverGetVersion(&found) != cudaSuccess) found = 0;
  if (cudaRuntimeGetVersion(&needed) != cudaSuccess) needed = CUDART_VERSION;
  const std::string expected = words("expected one for CUDA ", needed / 1000, ".0 or later");
  if (found == 0) return "found no NVIDIA driver; " + expected;
  return words("found an NVIDIA driver for CUDA ", dotted(found), "; ", expected, ". Update it");
}

}  // namespace

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  // The runtime remembers it for this thread, and whoever asks next would take it for theirs.
  cudaGetLastError();
  fail(TAME_DEVICE_ERROR, "CUDA: ", what, ": ", cudaGetErrorString(error));
}

Device probe(int index) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error != cudaSuccess) cudaGetLastError();
  if (error == cudaErrorInsufficientDriver) fail(TAME_DEVICE_ERROR, driver_words());
  if (error == cudaErrorNoDevice || (error == cudaSuccess && count == 0)) {
    fail(TAME_DEVICE_ERROR, "found an NVIDIA driver and no GPU; check CUDA_VISIBLE_DEVICES");
  }
  if (error != cudaSuccess) {
    fail(TAME_DEVICE_ERROR, "CUDA cannot be used: ", cudaGetErrorString(error));
  }
  if (index < 0 || index >= count) {
    fail(TAME_DEVICE_ERROR, "device ", index, " was asked for; found GPUs 0 to ", count - 1);
  }
  cudaDeviceProp facts{};
  check(cudaGetDeviceProperties(&facts, index), "cudaGetDeviceProperties");
  int driver = 0;
  check(cudaDriverGetVersion(&driver), "cudaDriverGetVersion");
  return {index, facts.name, facts.major, facts.minor, facts.totalGlobalMem, driver};
}

CurrentDevice::CurrentDevice(int index) {
  check(cudaGetDevice(&before_), "cudaGetDevice");
  check(cudaSetDevice(index), "cudaSetDevice");
}

CurrentDevice::~CurrentDevice() {
  if (cudaSetDevice(before_) != cudaSuccess) cudaGetLastError();
}

DeviceMemory device_memory(std::size_t size) {
  void* address = nullptr;
  const cudaError_t error = cudaMalloc(&address, std::max<std::size_t>(size, 1));
  if (error == cudaErrorMemoryAllocation) {
    cudaGetLastError();
    fail(TAME_DEVICE_ERROR, "the GPU has no ", (size + (1U << 19U)) >> 20U,
         " MiB left; compile a smaller profile (--batch), or end what else uses it");
  }
  check(error, "cudaMalloc");
  return DeviceMemory(address);
}

PinnedMemory pinned_memory(std::size_t size) {
  void* address = nullptr;
  check(cudaHostAlloc(&address, std::max<std::size_t>(size, 1), cudaHostAllocDefault),
        "cudaHostAlloc");
  return PinnedMemory(address);
}

Stream make_stream() {
  cudaStream_t stream = nullptr;
  // Not the legacy default stream's slave: other libraries' work does not hold it up.
  check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
  return Stream(stream);
}

Event make_event() {
  cudaEvent_t event = nullptr;
  check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreateWithFlags");
  return Event(event);
}

void copy(void* target, const void* source, std::size_t size, cudaStream_t stream) {
  check(cudaMemcpyAsync(target, source, size, cudaMemcpyDefault, stream), "cudaMemcpyAsync");
}

Graph capture(cudaStream_t stream, const std::function<void()>& enqueue) {
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "cudaStreamBeginCapture");
  cudaGraph_t captured = nullptr;
  try {
    enqueue();
  } catch (...) {
    // A capture that went wrong must end, or its stream is of no more use.
    if (cudaStreamEndCapture(stream, &captured) != cudaSuccess) cudaGetLastError();
    if (captured != nullptr) cudaGraphDestroy(captured);
    throw;
  }
  const cudaError_t ended = cudaStreamEndCapture(stream, &captured);
  const std::unique_ptr<CUgraph_st, Free<&cudaGraphDestroy>> owner(captured);
  check(ended, "cudaStreamEndCapture");
  cudaGraphExec_t executable = nullptr;
  check(cudaGraphInstantiateWithFlags(&executable, captured, 0), "cudaGraphInstantiateWithFlags");
  return Graph(executable);
}

}  // namespace libtame::trt
