// CUDA's runtime over host memory, with the real header's signatures.
#include <algorithm>
#include <cstring>
#include <limits>

#include "state.hpp"

using tame_double::Block;
using tame_double::drain;
using tame_double::Handle;
using tame_double::last_error;
using tame_double::Operation;
using tame_double::push;
using tame_double::Queue;
using tame_double::state;
using tame_double::State;
using tame_double::thread_device;

namespace {

constexpr std::size_t whole = std::numeric_limits<std::size_t>::max();
constexpr std::size_t alignment = 256;

cudaError_t told(cudaError_t error) {
  if (error != cudaSuccess) last_error() = error;
  return error;
}

/// A call: counted, and failing where a test wants it.
class Called {
 public:
  explicit Called(const char* function) : hold_(state().lock) {
    State& gpu = state();
    ++gpu.calls[function];
    const auto fault = gpu.faults.find(function);
    if (fault != gpu.faults.end() && fault->second.first-- == 0) {
      error_ = told(fault->second.second);
      gpu.faults.erase(fault);
    }
  }

  explicit operator bool() const { return error_ != cudaSuccess; }
  operator cudaError_t() const { return error_; }  // NOLINT: reads as CUDA's own

 private:
  std::lock_guard<std::recursive_mutex> hold_;
  cudaError_t error_ = cudaSuccess;
};

/// What a thread that captures may not do.
bool breaks_capture() {
  bool broken = false;
  for (auto& [stream, capture] : state().capturing) {
    if (capture.thread == std::this_thread::get_id()) capture.broken = broken = true;
  }
  return broken;
}

cudaError_t allocate(void** address, std::size_t size, bool host) {
  State& gpu = state();
  if (breaks_capture()) return told(cudaErrorStreamCaptureUnsupported);
  if (!host && tame_double::used_memory() + size > gpu.settings.memory) {
    return told(cudaErrorMemoryAllocation);
  }
  Block block{std::vector<unsigned char>(size + alignment), size, thread_device(), host};
  const auto start = reinterpret_cast<std::uintptr_t>(block.room.data());
  unsigned char* aligned = block.room.data() + (alignment - start % alignment) % alignment;
  gpu.blocks[aligned] = std::move(block);
  *address = aligned;
  return cudaSuccess;
}

cudaError_t release(void* address) {
  if (address == nullptr) return cudaSuccess;
  state().scratches.erase(address);
  return state().blocks.erase(address) == 1 ? cudaSuccess : told(cudaErrorInvalidValue);
}

template <typename T>
T named(Handle handle) {
  return static_cast<T>(const_cast<void*>(handle));
}

}  // namespace

extern "C" {

// ------------------------------------------------------------------ the device

TAME_DOUBLE_API cudaError_t cudaGetDeviceCount(int* count) {
  const Called call("cudaGetDeviceCount");
  if (call) return call;
  const auto& settings = state().settings;
  if (settings.driver < 13000) return told(cudaErrorInsufficientDriver);
  if (settings.devices == 0) return told(cudaErrorNoDevice);
  *count = settings.devices;
  return cudaSuccess;
}

TAME_DOUBLE_API cudaError_t cudaDriverGetVersion(int* version) {
  const Called call("cudaDriverGetVersion");
  *version = state().settings.driver;
  return cudaSuccess;
}

TAME_DOUBLE_API cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13050;
  return cudaSuccess;
}

TAME_DOUBLE_API const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorIllegalAddress:
      return "an illegal memory access was encountered";
    default:
      return "some error";
  }
}

TAME_DOUBLE_API cudaError_t cudaGetLastError() { return std::exchange(last_error(), cudaSuccess); }

TAME_DOUBLE_API cudaError_t cudaGetDeviceProperties(cudaDeviceProp* found, int device) {
  const Called call("cudaGetDeviceProperties");
  if (call) return call;
  const auto& settings = state().settings;
  if (device >= settings.devices) return told(cudaErrorInvalidDevice);
  std::memset(found, 0, sizeof *found);
  std::strcpy(found->name, "Simulated");
  found->major = settings.major;
  found->minor = settings.minor;
  found->totalGlobalMem = settings.memory;
  return cudaSuccess;
}

TAME_DOUBLE_API cudaError_t cudaSetDevice(int device) {
  const Called call("cudaSetDevice");
  if (call) return call;
  thread_device() = device;
  return cudaSuccess;
}

TAME_DOUBLE_API cudaError_t cudaGetDevice(int* device) {
  *device = thread_device();
  return cudaSuccess;
}

// ------------------------------------------------------------------ memory

TAME_DOUBLE_API cudaError_t cudaMalloc(void** address, std::size_t size) {
  const Called call("cudaMalloc");
  return call ? call : allocate(address, size, false);
}

TAME_DOUBLE_API cudaError_t cudaHostAlloc(void** address, std::size_t size, unsigned int) {
  const Called call("cudaHostAlloc");
  return call ? call : allocate(address, size, true);
}

TAME_DOUBLE_API cudaError_t cudaFree(void* address) {
  const Called call("cudaFree");
  return call ? call : release(address);
}

TAME_DOUBLE_API cudaError_t cudaFreeHost(void* address) {
  const Called call("cudaFreeHost");
  return call ? call : release(address);
}

TAME_DOUBLE_API cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* found,
                                                     const void* address) {
  const Called call("cudaPointerGetAttributes");
  if (call) return call;
  *found = {};
  found->type = cudaMemoryTypeUnregistered;
  for (const auto& [start, block] : state().blocks) {
    const auto* from = static_cast<const unsigned char*>(start);
    if (from <= address && address < from + block.size) {
      found->type = block.host ? cudaMemoryTypeHost : cudaMemoryTypeDevice;
      found->device = block.device;
    }
  }
  return cudaSuccess;
}

TAME_DOUBLE_API cudaError_t cudaMemcpyAsync(void* target, const void* source, std::size_t size,
                                            cudaMemcpyKind, cudaStream_t stream) {
  const Called call("cudaMemcpyAsync");
  if (call) return call;
  push(stream, [=] {
    return [=] {
      if (!state().holds(target, size) && !state().holds(source, size)) {
        state().complain("a copy's memory is gone");
      } else {
        std::memcpy(target, source, size);
      }
    };
  });
  return cudaSuccess;
}

// ------------------------------------------------------------------ streams and events

TAME_DOUBLE_API cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned int flags) {
  const Called call("cudaStreamCreateWithFlags");
  if (call) return call;
  const Handle made = state().number();
  state().streams[made].own_work_only = (flags & cudaStreamNonBlocking) != 0;
  *stream = named<cudaStream_t>(made);
  return cudaSuccess;
}

TAME_DOUBLE_API cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  const Called call("cudaStreamDestroy");
  const Queue& queue = state().streams[stream];
  if (queue.own_work_only && !queue.waiting.empty()) {
    state().complain("work is lost with its stream");
  }
  drain(stream, whole);
  state().streams.erase(stream);
  return cudaSuccess;
}

TAME_DOUBLE_API cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  const Called call("cudaStreamSynchronize");
  if (call) return call;
  const auto captured = state().capturing.find(stream);
  if (captured != state().capturing.end()) {
    captured->second.broken = true;
    return told(cudaErrorStreamCaptureUnsupported);
  }
  drain(stream, whole);
  return cudaSuccess;
}

TAME_DOUBLE_API cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned int) {
  const Called call("cudaEventCreateWithFlags");
  if (call) return call;
  const Handle made = state().number();
  state().events[made] = {nullptr, 0};
  *event = named<cudaEvent_t>(made);
  return cudaSuccess;
}

TAME_DOUBLE_API cudaError_t cudaEventDestroy(cudaEvent_t event) {
  const Called call("cudaEventDestroy");
  state().events.erase(event);
  return cudaSuccess;
}

TAME_DOUBLE_API cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const Called call("cudaEventRecord");
  if (call) return call;
  const Queue& queue = state().streams[stream];
  state().events[event] = {stream, queue.done + queue.waiting.size()};
  return cudaSuccess;
}

TAME_DOUBLE_API cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  const Called call("cudaEventSynchronize");
  if (call) return call;
  const auto [stream, until] = state().events[event];
  drain(stream, until);
  return cudaSuccess;
}

TAME_DOUBLE_API cudaError_t cudaEventQuery(cudaEvent_t event) {
  const Called call("cudaEventQuery");
  if (call) return call;
  const auto [stream, until] = state().events[event];
  const auto found = state().streams.find(stream);
  const bool done = found == state().streams.end() || found->second.done >= until;
  return done ? cudaSuccess : cudaErrorNotReady;
}

TAME_DOUBLE_API cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event,
                                                unsigned int) {
  const Called call("cudaStreamWaitEvent");
  if (call) return call;
  const auto marked = state().events[event];
  if (marked.first != stream && marked.second > 0) {
    push(stream, [=] { return [=] { drain(marked.first, marked.second); }; });
  }
  return cudaSuccess;
}

// ------------------------------------------------------------------ graphs

TAME_DOUBLE_API cudaError_t cudaStreamIsCapturing(cudaStream_t stream,
                                                  cudaStreamCaptureStatus* status) {
  const Called call("cudaStreamIsCapturing");
  if (call) return call;
  *status = state().capturing.count(stream) > 0 ? cudaStreamCaptureStatusActive
                                                : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}

TAME_DOUBLE_API cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  const Called call("cudaStreamBeginCapture");
  if (call) return call;
  if (stream == nullptr) return told(cudaErrorStreamCaptureUnsupported);
  state().capturing[stream] = {{}, std::this_thread::get_id(), false};
  return cudaSuccess;
}

TAME_DOUBLE_API cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  const Called call("cudaStreamEndCapture");
  *graph = nullptr;
  const auto found = state().capturing.find(stream);
  if (found == state().capturing.end()) return told(cudaErrorIllegalState);
  const tame_double::Capture capture = std::move(found->second);
  state().capturing.erase(found);
  if (call) return call;
  if (capture.broken) return told(cudaErrorStreamCaptureInvalidated);
  const Handle made = state().number();
  state().graphs[made] = capture.operations;
  *graph = named<cudaGraph_t>(made);
  return cudaSuccess;
}

TAME_DOUBLE_API cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* executable,
                                                          cudaGraph_t graph, unsigned long long) {
  const Called call("cudaGraphInstantiateWithFlags");
  if (call) return call;
  const Handle made = state().number();
  state().graphs[made] = state().graphs[graph];
  *executable = named<cudaGraphExec_t>(made);
  return cudaSuccess;
}

TAME_DOUBLE_API cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  const Called call("cudaGraphDestroy");
  state().graphs.erase(graph);
  return cudaSuccess;
}

TAME_DOUBLE_API cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  const Called call("cudaGraphLaunch");
  if (call) return call;
  const auto found = state().graphs.find(executable);
  if (found == state().graphs.end()) return told(cudaErrorInvalidValue);
  for (const Operation& operation : found->second) push(stream, operation);
  return cudaSuccess;
}

TAME_DOUBLE_API cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  const Called call("cudaGraphExecDestroy");
  state().graphs.erase(executable);
  return cudaSuccess;
}

}  // extern "C"
