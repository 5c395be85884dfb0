#include "engine.hpp"

#include <algorithm>
#include <array>
#include <map>

#include "error.hpp"
#include "logger.hpp"

// Not in every header that is supported; where the library has none, its address is null.
// NOLINTNEXTLINE(readability-redundant-declaration)
extern "C" __attribute__((weak)) std::int32_t getInferLibBuildVersion() noexcept;

// A context that is given its memory with its size came with TensorRT 10.1.
#ifdef TRT_MAJOR_RTX
static_assert(NV_TENSORRT_MAJOR >= 1, "TensorRT-RTX 1.3 or later is needed");
#else
static_assert(NV_TENSORRT_MAJOR > 10 || (NV_TENSORRT_MAJOR == 10 && NV_TENSORRT_MINOR >= 1),
              "TensorRT 10.1 or later is needed");
#endif

namespace libtame::trt {
namespace {

/// numpy's name of a type, or "" for one that no graph of tame-deploy has.
std::string dtype_of(nvinfer1::DataType type) {
  switch (type) {
    case nvinfer1::DataType::kFLOAT:
      return "float32";
    case nvinfer1::DataType::kINT64:
      return "int64";
    case nvinfer1::DataType::kUINT8:
      return "uint8";
    default:
      return "";
  }
}

std::size_t item_bytes(const std::string& dtype) {
  static const std::map<std::string, std::size_t> known{
      {"float32", sizeof(float)}, {"int64", sizeof(std::int64_t)}, {"uint8", 1}};
  const auto found = known.find(dtype);
  if (found == known.end()) {
    fail(TAME_INCOMPATIBLE_ERROR, "found a tensor of ", dtype,
         "; expected float32, int64 or uint8");
  }
  return found->second;
}

std::vector<Tensor> tensors_of(const tame_plugin_tensor* found, std::size_t count) {
  std::vector<Tensor> result;
  for (std::size_t place = 0; place < count; ++place) {
    const tame_plugin_tensor& one = found[place];
    result.push_back(
        {one.name, one.dtype, item_bytes(one.dtype), {one.shape, one.shape + one.rank}});
  }
  return result;
}

std::vector<Profile> profiles_of(const tame_plugin_engine& wanted) {
  std::vector<Profile> result(wanted.profile_count);
  for (std::size_t number = 0; number < result.size(); ++number) {
    const tame_plugin_profile& one = wanted.profiles[number];
    std::copy(std::begin(one.batch), std::end(one.batch), result[number].batch.begin());
    std::copy(std::begin(one.explained), std::end(one.explained), result[number].explained.begin());
  }
  return result;
}

/// As TensorRT sees a shape: -1 for every free size.
std::vector<std::int64_t> anonymous(std::vector<std::int64_t> shape) {
  for (std::int64_t& size : shape) size = std::max<std::int64_t>(size, -1);
  return shape;
}

/// "images: uint8 (-1, 4, 4, 3), ...", for messages and to compare.
using Described = std::map<std::string, std::string>;

std::string listed(const Described& tensors) {
  std::string text;
  for (const auto& [name, rest] : tensors) {
    text += words(text.empty() ? "" : ", ", name, ": ", rest);
  }
  return text;
}

}  // namespace

std::vector<std::int64_t> shape_of(const nvinfer1::Dims& dims) {
  return {dims.d, dims.d + std::max(dims.nbDims, 0)};
}

std::string library_version() {
  const std::int32_t found = getInferLibVersion();
  // Before TensorRT 10 the major version stood before three digits.
  const std::int32_t unit = found < 10000 ? 1000 : 10000;
  const std::int32_t major = found / unit;
  std::string text = words(major, ".", found % unit / 100, ".", found % 100);
  if (getInferLibBuildVersion != nullptr) text += words(".", getInferLibBuildVersion());
  if (major != NV_TENSORRT_MAJOR) {
    fail(TAME_INCOMPATIBLE_ERROR, "the plugin was built for ", TAME_TENSORRT_FLAVOUR, " ",
         NV_TENSORRT_MAJOR, ".", NV_TENSORRT_MINOR, "; the library that was loaded is ", text,
         ". Build libtame with -DTensorRT_ROOT of the one that it is to run with");
  }
  return text;
}

Engine::Engine(const tame_plugin_engine& wanted, const Device& device)
    : inputs_(tensors_of(wanted.inputs, wanted.input_count)),
      outputs_(tensors_of(wanted.outputs, wanted.output_count)),
      profiles_(profiles_of(wanted)) {
  const Listening said;
  runtime_.reset(nvinfer1::createInferRuntime(logger()));
  if (runtime_ == nullptr) {
    fail(TAME_BACKEND_ERROR, TAME_TENSORRT_FLAVOUR, " cannot be started: ", said.first_error());
  }
  if (wanted.host_code != 0) runtime_->setEngineHostCodeAllowed(true);
  engine_.reset(runtime_->deserializeCudaEngine(wanted.plan, wanted.plan_bytes));
  if (engine_ == nullptr) {
    fail(TAME_INCOMPATIBLE_ERROR, wanted.folder, ": ", TAME_TENSORRT_FLAVOUR, " ",
         library_version(), " cannot load its plan on ", device.name, ": ", said.first_error(),
         ". Rebuild: ", wanted.rebuild);
  }
  check_tensors(wanted.folder);
  check_profiles(wanted.folder);
  scratch_bytes_ =
      static_cast<std::size_t>(std::max<std::int64_t>(engine_->getDeviceMemorySizeV2(), 0));
#ifdef TRT_MAJOR_RTX
  own_graphs_ = wanted.cuda_graphs != 0;
#endif
}

/// Hold the engine's tensors to its sidecar's: their addresses are written to blindly.
void Engine::check_tensors(const std::string& folder) const {
  Described found;
  for (std::int32_t number = 0; number < engine_->getNbIOTensors(); ++number) {
    const char* name = engine_->getIOTensorName(number);
    const bool input = engine_->getTensorIOMode(name) == nvinfer1::TensorIOMode::kINPUT;
    found[name] = words(input ? "input " : "output ", dtype_of(engine_->getTensorDataType(name)),
                        " ", described(shape_of(engine_->getTensorShape(name))));
  }
  Described expected;
  for (const auto* tensors : {&inputs_, &outputs_}) {
    for (const Tensor& one : *tensors) {
      expected[one.name] = words(tensors == &inputs_ ? "input " : "output ", one.dtype, " ",
                                 described(anonymous(one.shape)));
    }
  }
  if (found != expected) {
    fail(TAME_INCOMPATIBLE_ERROR, folder, ": the engine has tensors ", listed(found),
         "; its sidecar lists ", listed(expected));
  }
}

void Engine::check_profiles(const std::string& folder) const {
  const auto found = static_cast<std::size_t>(std::max(engine_->getNbOptimizationProfiles(), 0));
  if (found != profiles_.size() || profiles_.empty()) {
    fail(TAME_INCOMPATIBLE_ERROR, folder, " has ", found, " profiles; its sidecar lists ",
         profiles_.size());
  }
  for (std::size_t number = 0; number < profiles_.size(); ++number) {
    for (const Tensor& tensor : inputs_) {
      check_extents(tensor, static_cast<std::int32_t>(number), folder);
    }
  }
}

/// Hold one profile to its sidecar's: a size that it does not have would fail in the midst of a
/// run.
void Engine::check_extents(const Tensor& tensor, std::int32_t number,
                           const std::string& folder) const {
  const Profile& profile = profiles_[static_cast<std::size_t>(number)];
  constexpr std::array<nvinfer1::OptProfileSelector, 3> places{nvinfer1::OptProfileSelector::kMIN,
                                                               nvinfer1::OptProfileSelector::kOPT,
                                                               nvinfer1::OptProfileSelector::kMAX};
  for (std::size_t place = 0; place < places.size(); ++place) {
    const auto expected = tensor.shape_of({profile.batch[place], profile.explained[place]});
    const auto found =
        shape_of(engine_->getProfileShape(tensor.name.c_str(), number, places[place]));
    if (found != expected) {
      fail(TAME_INCOMPATIBLE_ERROR, folder, ": profile ", number, " of the engine has ",
           tensor.name, " ", described(found), "; its sidecar lists ", described(expected));
    }
  }
}

nvinfer1::IExecutionContext* Engine::create_context() {
  constexpr auto ours = nvinfer1::ExecutionContextAllocationStrategy::kUSER_MANAGED;
#ifdef TRT_MAJOR_RTX
  // Kernels are compiled when they are first needed: once for all contexts.
  if (settings_ == nullptr) {
    settings_.reset(engine_->createRuntimeConfig());
    if (settings_ == nullptr) return nullptr;
    settings_->setExecutionContextAllocationStrategy(ours);
    kernels_.reset(settings_->createRuntimeCache());
    if (kernels_ != nullptr) settings_->setRuntimeCache(*kernels_);
    settings_->setCudaGraphStrategy(own_graphs_ ? nvinfer1::CudaGraphStrategy::kWHOLE_GRAPH_CAPTURE
                                                : nvinfer1::CudaGraphStrategy::kDISABLED);
  }
  return engine_->createExecutionContext(settings_.get());
#else
  return engine_->createExecutionContext(ours);
#endif
}

Context Engine::context(std::int32_t profile, void* scratch, cudaStream_t stream) {
  const std::lock_guard<std::mutex> hold(turn_);
  const Listening said;
  Context made(create_context());
  if (made == nullptr) {
    fail(TAME_DEVICE_ERROR, "an execution context could not be made: ", said.first_error());
  }
  made->setDeviceMemoryV2(scratch, static_cast<std::int64_t>(scratch_bytes_));
  if (!made->setOptimizationProfileAsync(profile, stream)) {
    fail(TAME_DEVICE_ERROR, "profile ", profile, " was refused: ", said.first_error());
  }
  return made;
}

}  // namespace libtame::trt
