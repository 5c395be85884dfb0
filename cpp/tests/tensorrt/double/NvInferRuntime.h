// A double of TensorRT's runtime: the names and signatures that NVIDIA documents, as far as the
// plugin uses them, over a simulated GPU. It says nothing about what a real TensorRT does.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "NvInferVersion.h"

namespace nvinfer1 {

using AsciiChar = char;

class ILogger {
 public:
  enum class Severity : int32_t {
    kINTERNAL_ERROR = 0,
    kERROR = 1,
    kWARNING = 2,
    kINFO = 3,
    kVERBOSE = 4
  };

  virtual void log(Severity severity, AsciiChar const* msg) noexcept = 0;

  ILogger() = default;
  virtual ~ILogger() = default;

 protected:
  ILogger(ILogger const&) = default;
  ILogger& operator=(ILogger const&) & = default;
};

class Dims64 {
 public:
  static constexpr int32_t MAX_DIMS{8};
  int32_t nbDims;
  int64_t d[MAX_DIMS];
};
using Dims = Dims64;

enum class DataType : int32_t {
  kFLOAT = 0,
  kHALF = 1,
  kINT8 = 2,
  kINT32 = 3,
  kBOOL = 4,
  kUINT8 = 5,
  kFP8 = 6,
  kBF16 = 7,
  kINT64 = 8
};
enum class TensorIOMode : int32_t { kNONE = 0, kINPUT = 1, kOUTPUT = 2 };
enum class OptProfileSelector : int32_t { kMIN = 0, kOPT = 1, kMAX = 2 };
enum class ExecutionContextAllocationStrategy : int32_t {
  kSTATIC = 0,
  kON_PROFILE_CHANGE = 1,
  kUSER_MANAGED = 2
};

class INoCopy {
 public:
  INoCopy(INoCopy const&) = delete;
  INoCopy& operator=(INoCopy const&) = delete;

 protected:
  INoCopy() = default;
  virtual ~INoCopy() = default;
};

class IExecutionContext : public INoCopy {
 public:
  ~IExecutionContext() noexcept override = default;
  virtual void setDeviceMemoryV2(void* memory, int64_t size) noexcept = 0;
  virtual bool setOptimizationProfileAsync(int32_t profileIndex, cudaStream_t stream) noexcept = 0;
  virtual bool setInputShape(char const* tensorName, Dims const& dims) noexcept = 0;
  virtual Dims getTensorShape(char const* tensorName) const noexcept = 0;
  virtual bool setTensorAddress(char const* tensorName, void* data) noexcept = 0;
  virtual int32_t inferShapes(int32_t nbMaxNames, char const** tensorNames) noexcept = 0;
  virtual bool enqueueV3(cudaStream_t stream) noexcept = 0;
};

#ifdef TRT_MAJOR_RTX
enum class CudaGraphStrategy : int32_t { kDISABLED = 0, kWHOLE_GRAPH_CAPTURE = 1 };

class IRuntimeCache : public INoCopy {
 public:
  ~IRuntimeCache() noexcept override = default;
};

class IRuntimeConfig : public INoCopy {
 public:
  ~IRuntimeConfig() noexcept override = default;
  virtual void setExecutionContextAllocationStrategy(
      ExecutionContextAllocationStrategy strategy) noexcept = 0;
  virtual IRuntimeCache* createRuntimeCache() const noexcept = 0;
  virtual bool setRuntimeCache(IRuntimeCache const& cache) noexcept = 0;
  virtual bool setCudaGraphStrategy(CudaGraphStrategy strategy) noexcept = 0;
};
#endif

class ICudaEngine : public INoCopy {
 public:
  ~ICudaEngine() noexcept override = default;
  virtual int32_t getNbIOTensors() const noexcept = 0;
  virtual char const* getIOTensorName(int32_t index) const noexcept = 0;
  virtual TensorIOMode getTensorIOMode(char const* tensorName) const noexcept = 0;
  virtual DataType getTensorDataType(char const* tensorName) const noexcept = 0;
  virtual Dims getTensorShape(char const* tensorName) const noexcept = 0;
  virtual int32_t getNbOptimizationProfiles() const noexcept = 0;
  virtual Dims getProfileShape(char const* tensorName, int32_t profileIndex,
                               OptProfileSelector select) const noexcept = 0;
  virtual int64_t getDeviceMemorySizeV2() const noexcept = 0;
  virtual IExecutionContext* createExecutionContext(
      ExecutionContextAllocationStrategy strategy =
          ExecutionContextAllocationStrategy::kSTATIC) noexcept = 0;
#ifdef TRT_MAJOR_RTX
  virtual IRuntimeConfig* createRuntimeConfig() noexcept = 0;
  virtual IExecutionContext* createExecutionContext(IRuntimeConfig* runtimeConfig) noexcept = 0;
#endif
};

class IRuntime : public INoCopy {
 public:
  ~IRuntime() noexcept override = default;
  virtual void setEngineHostCodeAllowed(bool allowed) noexcept = 0;
  virtual ICudaEngine* deserializeCudaEngine(void const* blob, std::size_t size) noexcept = 0;
};

}  // namespace nvinfer1

extern "C" int32_t getInferLibVersion() noexcept;
extern "C" int32_t getInferLibBuildVersion() noexcept;
extern "C" void* createInferRuntime_INTERNAL(void* logger, int32_t version) noexcept;

namespace nvinfer1 {

inline IRuntime* createInferRuntime(ILogger& logger) noexcept {
  constexpr int32_t version =
      NV_TENSORRT_MAJOR * 10000 + NV_TENSORRT_MINOR * 100 + NV_TENSORRT_PATCH;
  return static_cast<IRuntime*>(createInferRuntime_INTERNAL(&logger, version));
}

}  // namespace nvinfer1
