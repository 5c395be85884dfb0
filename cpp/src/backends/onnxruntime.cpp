// ONNX Runtime: the backend that runs everywhere.
#include <array>

#include "backend.hpp"
#include "cores.hpp"
#include "error.hpp"
#include "library.hpp"
#include "onnxruntime_api.hpp"

namespace libtame {
namespace {

/// A loaded library with its one environment, which outlives every session.
struct OnnxRuntime {
  ort::Api api;
  ort::Env* env;
  ort::MemoryInfo* memory;
  std::string version;
};

/// The first line of a failure; its status is freed.
std::string take_message(const ort::Api& api, ort::Status* status) {
  const std::string whole = api.call<ort::GetErrorMessage>(status);
  api.call<ort::ReleaseStatus>(status);
  return whole.substr(0, std::min<std::size_t>(whole.find('\n'), 300));
}

void check(const ort::Api& api, ort::Status* status, const std::string& what) {
  if (status) fail(TAME_BACKEND_ERROR, "onnxruntime ", what, ": ", take_message(api, status));
}

OnnxRuntime load_onnxruntime(const std::string& given) {
  const LibraryWanted wanted{"onnxruntime", "libonnxruntime.so", "TAME_ONNXRUNTIME_LIBRARY",
                             "onnxruntime/capi", "Install it (pip install onnxruntime)"};
  const Library library = Library::open(wanted, given);
  const auto* base = library.function<const ort::ApiBase*()>("OrtGetApiBase")();
  const void* table = base->get_api(ort::api_version);
  if (!table) {
    fail(TAME_INCOMPATIBLE_ERROR, library.path(), " is onnxruntime ", base->get_version(),
         "; expected 1.", ort::api_version, " or later");
  }
  OnnxRuntime runtime{ort::Api(table), nullptr, nullptr, base->get_version()};
  const ort::Api& api = runtime.api;
  check(api, api.call<ort::CreateEnv>(ort::error_severity, "tame", &runtime.env), "failed");
  // Some builds report what they are used for; who embeds this did not ask for that.
  check(api, api.call<ort::DisableTelemetryEvents>(runtime.env), "failed");
  check(api,
        api.call<ort::CreateCpuMemoryInfo>(ort::device_allocator, ort::default_memory,
                                           &runtime.memory),
        "failed");
  return runtime;
}

class OnnxRuntimeBackend final : public Backend {
 public:
  OnnxRuntimeBackend(const Artifact& artifact, const Options& options)
      : runtime_(loaded_once<OnnxRuntime>(options.library, load_onnxruntime)),
        manifest_(artifact.manifest) {
    const ort::Api& api = runtime_.api;
    ort::SessionOptions* settings = nullptr;
    check(api, api.call<ort::CreateSessionOptions>(&settings), "failed");
    const std::unique_ptr<ort::SessionOptions, FreeSettings> owned(settings, {&api});
    check(api, api.call<ort::SetSessionLogSeverityLevel>(settings, ort::error_severity), "failed");
    const int threads = threads_for(options.threads);
    if (threads > 0) {
      check(api, api.call<ort::SetIntraOpNumThreads>(settings, threads), "failed");
    }
    if (manifest_.precision.find("fp16") != std::string::npos) {
      // With layouts of the processor's own, ONNX Runtime 1.32 crashes on some float16 graphs.
      check(api, api.call<ort::SetSessionGraphOptimizationLevel>(settings, ort::extended),
            "failed");
    }
    const std::string model = artifact.model().string();
    check(api, api.call<ort::CreateSession>(runtime_.env, model.c_str(), settings, &session_),
          "cannot load " + model);
  }

  ~OnnxRuntimeBackend() override { runtime_.api.call<ort::ReleaseSession>(session_); }

  std::string name() const override { return "onnxruntime on CPU"; }
  std::string version() const override { return runtime_.version; }

  void run(const Call& call) override {
    const auto [height, width] = manifest_.map_size();
    const ImageSpec& image = manifest_.image;
    const std::array<std::int64_t, 4> pixels = image.input_shape(call.count);
    const std::array<std::int64_t, 2> chosen{call.count, call.explained};
    const std::array<std::int64_t, 2> scores{call.count, manifest_.classes};
    const std::array<std::int64_t, 4> maps{call.count, call.explained, height, width};
    // ONNX Runtime does not write to its inputs, whatever the type says.
    const Tensor images(runtime_, call.images, pixels, type_of(image.dtype));
    const Tensor class_ids(runtime_, call.class_ids, chosen, ort::int64);
    const Tensor logits(runtime_, call.logits, scores, ort::float32);
    const Tensor explained(runtime_, call.explained_ids, chosen, ort::int64);
    const Tensor heat(runtime_, call.maps, maps, ort::float32);
    run_session({images.value(), class_ids.value()},
                {logits.value(), explained.value(), heat.value()});
  }

 private:
  struct FreeSettings {
    const ort::Api* api;
    void operator()(ort::SessionOptions* settings) const {
      api->call<ort::ReleaseSessionOptions>(settings);
    }
  };

  static ort::ElementType type_of(InputType type) {
    return type == InputType::uint8    ? ort::uint8
           : type == InputType::uint16 ? ort::uint16
                                       : ort::float32;
  }

  static std::size_t bytes_of(ort::ElementType type) {
    return type == ort::uint8 ? 1 : type == ort::uint16 ? 2 : type == ort::float32 ? 4 : 8;
  }

  /// A view of the caller's memory for ONNX Runtime; none where there is no memory.
  class Tensor {
   public:
    template <std::size_t Rank>
    Tensor(const OnnxRuntime& runtime, const void* data,
           const std::array<std::int64_t, Rank>& shape, ort::ElementType type)
        : api_(runtime.api) {
      if (!data) return;
      std::size_t size = bytes_of(type);
      for (const std::int64_t extent : shape) size *= static_cast<std::size_t>(extent);
      check(api_,
            api_.call<ort::CreateTensorWithDataAsOrtValue>(runtime.memory, const_cast<void*>(data),
                                                           size, shape.data(), shape.size(),
                                                           static_cast<int>(type), &value_),
            "failed");
    }
    Tensor(const Tensor&) = delete;
    Tensor& operator=(const Tensor&) = delete;
    ~Tensor() {
      if (value_) api_.call<ort::ReleaseValue>(value_);
    }
    ort::Value* value() const { return value_; }

   private:
    const ort::Api& api_;
    ort::Value* value_ = nullptr;
  };

  void run_session(const std::array<const ort::Value*, 2>& inputs,
                   std::array<ort::Value*, 3> outputs) const {
    static constexpr std::array<const char*, 2> input_names{"images", "class_ids"};
    static constexpr std::array<const char*, 3> output_names{"logits", "explained", "maps"};
    const std::size_t given = inputs[1] ? 2 : 1;
    ort::Status* status = runtime_.api.call<ort::Run>(
        session_, static_cast<const ort::RunOptions*>(nullptr), input_names.data(), inputs.data(),
        given, output_names.data(), outputs.size(), outputs.data());
    check(runtime_.api, status, "failed");
  }

  const OnnxRuntime& runtime_;
  Manifest manifest_;
  ort::Session* session_ = nullptr;
};

}  // namespace

std::unique_ptr<Backend> open_onnxruntime(const Artifact& artifact, const Options& options) {
  return std::make_unique<OnnxRuntimeBackend>(artifact, options);
}

}  // namespace libtame
