// A plan turned into an engine that can run.
#pragma once

#include <NvInferRuntime.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "cuda.hpp"
#include "plugin.hpp"
#include "sizes.hpp"

namespace libtame::trt {

using Context = std::unique_ptr<nvinfer1::IExecutionContext>;

/// "10.13.2.6", of the library that was loaded. Throws Failure: TAME_INCOMPATIBLE_ERROR where the
/// headers that this was built with are another major version's.
std::string library_version();

/// The sizes of a shape; none of one that is unknown.
std::vector<std::int64_t> shape_of(const nvinfer1::Dims& dims);

/// A deserialised engine. `context` may be called from many threads; its calls are taken in turn.
class Engine {
 public:
  /// Throws Failure: TAME_INCOMPATIBLE_ERROR if the library refuses the plan, or it is not what its
  /// sidecar says.
  Engine(const tame_plugin_engine& wanted, const Device& device);

  /// A new context for a profile; contexts of one lane share `scratch`, of scratch_bytes(). The
  /// profile is set by work of `stream`. Throws Failure: TAME_DEVICE_ERROR if it cannot be made.
  Context context(std::int32_t profile, void* scratch, cudaStream_t stream);

  const std::vector<Tensor>& inputs() const { return inputs_; }
  const std::vector<Tensor>& outputs() const { return outputs_; }
  const std::vector<Profile>& profiles() const { return profiles_; }
  std::size_t scratch_bytes() const { return scratch_bytes_; }

  /// Whether the library captures CUDA graphs by itself (TensorRT-RTX).
  bool own_graphs() const { return own_graphs_; }

 private:
  void check_tensors(const std::string& folder) const;
  void check_profiles(const std::string& folder) const;
  void check_extents(const Tensor& tensor, std::int32_t number, const std::string& folder) const;
  nvinfer1::IExecutionContext* create_context();

  std::vector<Tensor> inputs_;
  std::vector<Tensor> outputs_;
  std::vector<Profile> profiles_;
  // Engines do not outlive their runtime.
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
  std::unique_ptr<nvinfer1::ICudaEngine> engine_;
  std::mutex turn_;  // TensorRT promises nothing about two contexts made at once
  std::size_t scratch_bytes_ = 0;
  bool own_graphs_ = false;
#ifdef TRT_MAJOR_RTX
  std::unique_ptr<nvinfer1::IRuntimeConfig> settings_;
  std::unique_ptr<nvinfer1::IRuntimeCache> kernels_;
#endif
};

}  // namespace libtame::trt
