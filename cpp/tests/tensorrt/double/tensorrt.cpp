// TensorRT's runtime over the simulated GPU. A plan here is text:
//
//     tame-double
//     tensor input images uint8 -1 4 4 3
//     profile 1 4 8 1 1 5
//     scratch 4096
#include <NvInferRuntime.h>

#include <algorithm>
#include <cstring>
#include <memory>
#include <sstream>

#include "state.hpp"

namespace tame_double {
namespace {

using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::ILogger;

constexpr std::size_t address_unit = 256;

struct Tensor {
  std::string name;
  bool input = false;
  DataType type = DataType::kFLOAT;
  std::size_t item = 4;
  std::vector<std::int64_t> shape;  // free sizes: -1 batch, -2 explained
};

struct Plan {
  std::vector<Tensor> tensors;
  std::vector<std::vector<std::int64_t>> profiles;
  std::int64_t scratch = 4096;
};

bool parse(const std::string& text, Plan& plan) {
  std::istringstream lines(text);
  std::string line;
  if (!std::getline(lines, line) || line != "tame-double") return false;
  while (std::getline(lines, line)) {
    std::istringstream parts(line);
    std::string kind;
    parts >> kind;
    if (kind == "tensor") {
      Tensor tensor;
      std::string mode;
      std::string type;
      parts >> mode >> tensor.name >> type;
      tensor.input = mode == "input";
      tensor.type = type == "uint8"   ? DataType::kUINT8
                    : type == "int64" ? DataType::kINT64
                    : type == "half"  ? DataType::kHALF
                                      : DataType::kFLOAT;
      tensor.item = type == "uint8" ? 1 : type == "int64" ? 8 : 4;
      for (std::int64_t size = 0; parts >> size;) tensor.shape.push_back(size);
      plan.tensors.push_back(tensor);
    } else if (kind == "profile") {
      std::vector<std::int64_t> values;
      for (std::int64_t value = 0; parts >> value;) values.push_back(value);
      plan.profiles.push_back(values);
    } else if (kind == "scratch") {
      parts >> plan.scratch;
    }
  }
  return true;
}

Dims dims_of(const std::vector<std::int64_t>& shape) {
  Dims dims{};
  dims.nbDims = static_cast<std::int32_t>(shape.size());
  std::copy(shape.begin(), shape.end(), dims.d);
  return dims;
}

const Tensor* find(const Plan& plan, const char* name) {
  for (const Tensor& tensor : plan.tensors) {
    if (tensor.name == name) return &tensor;
  }
  return nullptr;
}

/// What one execution reads and writes.
struct Bindings {
  std::int64_t batch = 0;
  std::int64_t explained = 0;
  std::map<std::string, void*> addresses;
  bool operator==(const Bindings& other) const {
    return batch == other.batch && explained == other.explained && addresses == other.addresses;
  }
};

std::size_t entry_bytes(const Tensor& tensor) {
  std::size_t bytes = tensor.item;
  for (const std::int64_t size : tensor.shape)
    bytes *= size > 0 ? static_cast<std::size_t>(size) : 1;
  return bytes;
}

void compute(const Plan& plan, const Bindings& now) {
  const Tensor& images = *find(plan, "images");
  const Tensor& explained = *find(plan, "explained");
  const Tensor& maps = *find(plan, "maps");
  const Network network{static_cast<int>(find(plan, "logits")->shape[1]),
                        static_cast<int>(maps.shape[2]), static_cast<int>(maps.shape[3])};
  const auto classes = static_cast<std::size_t>(network.classes);
  const auto* ids = find(plan, "class_ids") == nullptr
                        ? nullptr
                        : static_cast<const std::int64_t*>(now.addresses.at("class_ids"));
  const std::int64_t places = explained.shape[1] < 0 ? now.explained : explained.shape[1];
  const auto pixels = static_cast<std::size_t>(network.map_height * network.map_width);
  const std::size_t picture_bytes = entry_bytes(images);
  for (std::int64_t row = 0; row < now.batch; ++row) {
    const auto at = static_cast<std::size_t>(row);
    const auto* picture =
        static_cast<const unsigned char*>(now.addresses.at("images")) + at * picture_bytes;
    const auto logits = logits_of(network, picture, picture_bytes);
    std::copy(logits.begin(), logits.end(),
              static_cast<float*>(now.addresses.at("logits")) + at * classes);
    for (std::int64_t place = 0; place < places; ++place) {
      const auto entry = static_cast<std::size_t>(row * places + place);
      const std::int64_t id = explained_of(logits, ids == nullptr ? -1 : ids[entry], place);
      static_cast<std::int64_t*>(now.addresses.at("explained"))[entry] = id;
      const auto map = map_of(network, picture, picture_bytes, id);
      std::copy(map.begin(), map.end(),
                static_cast<float*>(now.addresses.at("maps")) + entry * pixels);
    }
  }
}

class Context final : public nvinfer1::IExecutionContext {
 public:
  Context(std::shared_ptr<const Plan> plan, ILogger& logger, int device)
      : plan_(std::move(plan)), logger_(logger), device_(device) {
    const std::lock_guard<std::recursive_mutex> hold(state().lock);
    state().contexts.insert(this);
  }

  ~Context() noexcept override {
    const std::lock_guard<std::recursive_mutex> hold(state().lock);
    state().contexts.erase(this);
  }

  void setDeviceMemoryV2(void* memory, std::int64_t size) noexcept override {
    const std::lock_guard<std::recursive_mutex> hold(state().lock);
    if (size < plan_->scratch || !state().holds(memory, static_cast<std::size_t>(size))) {
      state().complain("scratch memory is too small");
    }
    scratch_ = memory;
  }

  bool setOptimizationProfileAsync(std::int32_t profile, cudaStream_t stream) noexcept override {
    profile_ = profile;
    settled_on_ = stream;
    return profile >= 0 && static_cast<std::size_t>(profile) < plan_->profiles.size();
  }

  bool setInputShape(char const* name, Dims const& dims) noexcept override {
    const Tensor* tensor = find(*plan_, name);
    const auto& profile = plan_->profiles[static_cast<std::size_t>(profile_)];
    for (std::size_t axis = 0; axis < tensor->shape.size(); ++axis) {
      const std::int64_t size = dims.d[axis];
      const std::int64_t wanted = tensor->shape[axis];
      const std::size_t first = wanted == -2 ? 3 : 0;
      const bool fits =
          wanted > 0 ? size == wanted : profile[first] <= size && size <= profile[first + 2];
      if (!fits) return refuse("Error Code 3: API Usage Error (profile exceeded)");
      if (wanted == -1) now_.batch = size;
      if (wanted == -2) now_.explained = size;
    }
    return true;
  }

  Dims getTensorShape(char const* name) const noexcept override {
    auto shape = find(*plan_, name)->shape;
    std::replace(shape.begin(), shape.end(), std::int64_t{-1}, now_.batch);
    std::replace(shape.begin(), shape.end(), std::int64_t{-2}, now_.explained);
    return dims_of(shape);
  }

  bool setTensorAddress(char const* name, void* data) noexcept override {
    if (reinterpret_cast<std::uintptr_t>(data) % address_unit != 0) {
      return refuse("Error Code 3: misaligned address");
    }
    now_.addresses[name] = data;
    return true;
  }

  std::int32_t inferShapes(std::int32_t, char const**) noexcept override {
    return now_.batch > 0 ? 0 : -1;
  }

  bool enqueueV3(cudaStream_t stream) noexcept override;

 private:
  bool refuse(const char* why) const {
    logger_.log(ILogger::Severity::kERROR, why);
    return false;
  }

  Operation operation(bool captured);

  std::shared_ptr<const Plan> plan_;
  ILogger& logger_;
  int device_;
  void* scratch_ = nullptr;
  std::int32_t profile_ = -1;
  cudaStream_t settled_on_ = nullptr;
  bool ran_ = false;
  Bindings now_;
};

bool Context::enqueueV3(cudaStream_t stream) noexcept {
  State& gpu = state();
  const std::lock_guard<std::recursive_mutex> hold(gpu.lock);
  ++gpu.calls["enqueueV3"];
  const bool captured = gpu.capturing.count(stream) > 0;
  if (captured && !gpu.settings.capturable) return refuse("Error Code 1: not capturable");
  if (gpu.settings.failing_executions > 0) {
    --gpu.settings.failing_executions;
    return refuse("[executionContext.cpp::enqueueV3::42] Error Code 1: Cuda Runtime (went wrong)");
  }
  if (thread_device() != device_) gpu.complain("another GPU is current");
  if (last_error() != cudaSuccess) gpu.complain("an old error would be taken for TensorRT's");
  // The profile is set by work of one stream; another would have to wait for it.
  if (!captured && !ran_ && stream != settled_on_) gpu.complain("the profile may not be set yet");
  if (captured && !ran_) gpu.complain("captured before it ran once");
  ran_ = true;
  push(stream, operation(captured));
  return true;
}

Operation Context::operation(bool captured) {
  const Bindings bound = now_;
  return [this, bound, captured, plan = plan_, scratch = scratch_]() -> Work {
    const std::uint64_t ticket = ++state().scratches[scratch].issued;
    return [=] {
      State& gpu = state();
      if (gpu.contexts.count(this) == 0) {
        gpu.complain("the context of an execution is gone");
        return;
      }
      if (captured && !(bound == now_)) gpu.complain("the context of a graph was changed");
      if (!gpu.holds(scratch, 1)) gpu.complain("scratch memory is gone");
      Scratch& shared = gpu.scratches[scratch];
      if (shared.finished + 1 != ticket) gpu.complain("two executions share scratch memory");
      ++shared.finished;
      for (const auto& [name, address] : bound.addresses) {
        if (!gpu.holds(address, 1)) {
          gpu.complain("the memory of " + name + " is gone");
          return;
        }
      }
      compute(*plan, bound);
    };
  };
}

#ifdef TRT_MAJOR_RTX
class Cache final : public nvinfer1::IRuntimeCache {};

class Config final : public nvinfer1::IRuntimeConfig {
 public:
  void setExecutionContextAllocationStrategy(
      nvinfer1::ExecutionContextAllocationStrategy) noexcept override {}
  nvinfer1::IRuntimeCache* createRuntimeCache() const noexcept override { return new Cache; }
  bool setRuntimeCache(nvinfer1::IRuntimeCache const&) noexcept override { return true; }
  bool setCudaGraphStrategy(nvinfer1::CudaGraphStrategy) noexcept override { return true; }
};
#endif

class Engine final : public nvinfer1::ICudaEngine {
 public:
  Engine(Plan plan, ILogger& logger)
      : plan_(std::make_shared<const Plan>(std::move(plan))),
        logger_(logger),
        device_(thread_device()) {
    const std::lock_guard<std::recursive_mutex> hold(state().lock);
    state().engines.insert(this);
  }

  ~Engine() noexcept override {
    const std::lock_guard<std::recursive_mutex> hold(state().lock);
    if (!state().contexts.empty()) state().complain("contexts outlive their engine");
    state().engines.erase(this);
  }

  std::int32_t getNbIOTensors() const noexcept override {
    return static_cast<std::int32_t>(plan_->tensors.size());
  }
  char const* getIOTensorName(std::int32_t index) const noexcept override {
    return plan_->tensors[static_cast<std::size_t>(index)].name.c_str();
  }
  nvinfer1::TensorIOMode getTensorIOMode(char const* name) const noexcept override {
    return find(*plan_, name)->input ? nvinfer1::TensorIOMode::kINPUT
                                     : nvinfer1::TensorIOMode::kOUTPUT;
  }
  DataType getTensorDataType(char const* name) const noexcept override {
    return find(*plan_, name)->type;
  }
  Dims getTensorShape(char const* name) const noexcept override {
    auto shape = find(*plan_, name)->shape;
    std::replace(shape.begin(), shape.end(), std::int64_t{-2}, std::int64_t{-1});
    return dims_of(shape);
  }
  std::int32_t getNbOptimizationProfiles() const noexcept override {
    return static_cast<std::int32_t>(plan_->profiles.size());
  }
  Dims getProfileShape(char const* name, std::int32_t number,
                       nvinfer1::OptProfileSelector select) const noexcept override {
    const auto& profile = plan_->profiles[static_cast<std::size_t>(number)];
    const auto place = static_cast<std::size_t>(select);
    auto shape = find(*plan_, name)->shape;
    std::replace(shape.begin(), shape.end(), std::int64_t{-1}, profile[place]);
    std::replace(shape.begin(), shape.end(), std::int64_t{-2}, profile[3 + place]);
    return dims_of(shape);
  }
  std::int64_t getDeviceMemorySizeV2() const noexcept override { return plan_->scratch; }

  nvinfer1::IExecutionContext* createExecutionContext(
      nvinfer1::ExecutionContextAllocationStrategy) noexcept override {
    const std::lock_guard<std::recursive_mutex> hold(state().lock);
    if (static_cast<int>(state().contexts.size()) >= state().settings.most_contexts) {
      logger_.log(ILogger::Severity::kERROR, "Error Code 2: OutOfMemory (no room for a context)");
      return nullptr;
    }
    return new Context(plan_, logger_, device_);
  }
#ifdef TRT_MAJOR_RTX
  nvinfer1::IRuntimeConfig* createRuntimeConfig() noexcept override { return new Config; }
  nvinfer1::IExecutionContext* createExecutionContext(nvinfer1::IRuntimeConfig*) noexcept override {
    return createExecutionContext(nvinfer1::ExecutionContextAllocationStrategy::kUSER_MANAGED);
  }
#endif

 private:
  std::shared_ptr<const Plan> plan_;
  ILogger& logger_;
  int device_;  // where it was deserialised, and has its weights
};

class Runtime final : public nvinfer1::IRuntime {
 public:
  explicit Runtime(ILogger& logger) : logger_(logger) {}
  ~Runtime() noexcept override {
    const std::lock_guard<std::recursive_mutex> hold(state().lock);
    if (!state().engines.empty()) state().complain("engines outlive their runtime");
  }

  void setEngineHostCodeAllowed(bool allowed) noexcept override {
    const std::lock_guard<std::recursive_mutex> hold(state().lock);
    state().calls["setEngineHostCodeAllowed"] += allowed ? 1 : 0;
  }

  nvinfer1::ICudaEngine* deserializeCudaEngine(void const* blob,
                                               std::size_t size) noexcept override {
    Plan plan;
    if (!parse({static_cast<const char*>(blob), size}, plan)) {
      logger_.log(ILogger::Severity::kERROR,
                  "IRuntime::deserializeCudaEngine: Error Code 1: Serialization (Serialization "
                  "assertion magicTag failed. In load at plan.cpp:1)");
      return nullptr;
    }
    return new Engine(std::move(plan), logger_);
  }

 private:
  ILogger& logger_;
};

}  // namespace
}  // namespace tame_double

extern "C" TAME_DOUBLE_API std::int32_t getInferLibVersion() noexcept {
  const std::lock_guard<std::recursive_mutex> hold(tame_double::state().lock);
  return tame_double::state().settings.library;
}

extern "C" TAME_DOUBLE_API std::int32_t getInferLibBuildVersion() noexcept { return 6; }

extern "C" TAME_DOUBLE_API void* createInferRuntime_INTERNAL(void* logger, std::int32_t) noexcept {
  const std::lock_guard<std::recursive_mutex> hold(tame_double::state().lock);
  if (tame_double::state().settings.driver == 0) {
    tame_double::state().complain("a runtime without a driver is a crash");
  }
  return new tame_double::Runtime(*static_cast<nvinfer1::ILogger*>(logger));
}
