// OpenVINO: often the fastest on Intel and AMD CPUs.
#include <array>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <vector>

#include "backend.hpp"
#include "cores.hpp"
#include "error.hpp"
#include "library.hpp"
#include "openvino_api.hpp"

namespace libtame {
namespace {

constexpr const char* cpu = "CPU";
constexpr const char* precision_key = "INFERENCE_PRECISION_HINT";

/// A loaded library. Like its threads, it stays until the process ends.
struct OpenVino {
  ov::Api api;
  ov::Core* core;
  std::string version;
};

/// OpenVINO's messages begin with the places in its source where they were passed on.
std::string last_words(const std::string& whole) {
  std::istringstream lines(whole);
  std::string told;
  std::string any;
  for (std::string line; std::getline(lines, line);) {
    line.erase(0, std::min(line.find_first_not_of(" \t"), line.size()));
    if (line.empty()) continue;
    any = line;
    if (line.rfind("Exception from", 0) != 0 && line.rfind("Check '", 0) != 0) told = line;
  }
  return (told.empty() ? any : told).substr(0, 300);
}

void check(const ov::Api& api, ov::Status status, const std::string& what) {
  if (status == 0) return;
  const char* said = api.last_error();
  std::string reason = last_words(said ? said : "");
  if (said) api.free_text(said);
  if (reason.empty()) reason = api.error_info(status);
  fail(TAME_BACKEND_ERROR, "openvino ", what, ": ", reason);
}

OpenVino load_openvino(const std::string& given) {
  const LibraryWanted wanted{"openvino", "libopenvino_c.so", "TAME_OPENVINO_LIBRARY",
                             "openvino/libs", "Install it (pip install openvino)"};
  const Library library = Library::open(wanted, given);
  OpenVino runtime{ov::load_api(library), nullptr, ""};
  ov::Version version{};
  check(runtime.api, runtime.api.get_version(&version), "failed");
  runtime.version = version.build;
  runtime.api.version_free(&version);
  check(runtime.api, runtime.api.core_create(&runtime.core), "failed");
  return runtime;
}

class OpenVinoBackend final : public Backend {
 public:
  OpenVinoBackend(const Artifact& artifact, const Options& options)
      : runtime_(loaded_once<OpenVino>(options.library, load_openvino)),
        api_(runtime_.api),
        manifest_(artifact.manifest),
        precision_(options.precision.empty() ? "fp32" : options.precision) {
    check_precision();
    compile(artifact, options);
    for (const TensorSpec& spec : manifest_.inputs) types_.push_back(type_of(spec.name, true));
    for (const TensorSpec& spec : manifest_.outputs) types_.push_back(type_of(spec.name, false));
    for (int index = 0; index < options.streams; ++index) {
      ov::Request* request = nullptr;
      check(api_, api_.create_request(compiled_.get(), &request), "failed");
      requests_.emplace_back(request, api_.request_free);
      idle_.push_back(request);
    }
  }

  std::string name() const override { return "openvino on CPU in " + precision_; }
  std::string version() const override { return runtime_.version; }

  void run(const Call& call) override {
    const Lent request(*this);
    const auto [height, width] = manifest_.map_size();
    std::array<std::int64_t, 4> pixels = manifest_.image.input_shape(call.count);
    std::array<std::int64_t, 2> chosen{call.count, call.explained};
    set(request.get(), 0, {4, pixels.data()}, const_cast<void*>(call.images));
    if (call.class_ids) {
      set(request.get(), 1, {2, chosen.data()}, const_cast<std::int64_t*>(call.class_ids));
    }
    check(api_, api_.infer(request.get()), "failed");
    const auto maps = static_cast<std::size_t>(call.count * call.explained);
    copy(request.get(), "logits", call.logits,
         static_cast<std::size_t>(call.count * manifest_.classes) * sizeof(float));
    copy(request.get(), "explained", call.explained_ids, maps * sizeof(std::int64_t));
    copy(request.get(), "maps", call.maps,
         maps * static_cast<std::size_t>(height * width) * sizeof(float));
  }

 private:
  using Compiled = std::unique_ptr<ov::Compiled, void (*)(ov::Compiled*)>;
  using Request = std::unique_ptr<ov::Request, void (*)(ov::Request*)>;

  /// A request of the pool, for one call.
  class Lent {
   public:
    explicit Lent(OpenVinoBackend& backend) : backend_(backend) {
      std::unique_lock guard(backend_.lock_);
      backend_.returned_.wait(guard, [&] { return !backend_.idle_.empty(); });
      request_ = backend_.idle_.back();
      backend_.idle_.pop_back();
    }
    Lent(const Lent&) = delete;
    Lent& operator=(const Lent&) = delete;
    ~Lent() {
      const std::lock_guard guard(backend_.lock_);
      backend_.idle_.push_back(request_);
      backend_.returned_.notify_one();
    }
    ov::Request* get() const { return request_; }

   private:
    OpenVinoBackend& backend_;
    ov::Request* request_;
  };

  /// OpenVINO picks bfloat16 by itself where the CPU has it; here only who asks for it gets it.
  void check_precision() const {
    if (precision_ != "fp32" && precision_ != "bf16") {
      fail(TAME_INPUT_ERROR, "precision is '", precision_, "'; expected fp32 or bf16");
    }
    if (precision_ != "bf16") return;
    char* found = nullptr;
    check(api_, api_.core_get_property(runtime_.core, cpu, "OPTIMIZATION_CAPABILITIES", &found),
          "failed");
    const std::string capabilities = found;
    api_.free_text(found);
    if (capabilities.find("BF16") == std::string::npos) {
      fail(TAME_DEVICE_ERROR, "this CPU computes no bfloat16; leave precision out");
    }
  }

  void compile(const Artifact& artifact, const Options& options) {
    ov::Model* read = nullptr;
    const std::string path = artifact.model().string();
    check(api_, api_.read_model(runtime_.core, path.c_str(), nullptr, &read),
          "cannot read " + path);
    const std::unique_ptr<ov::Model, void (*)(ov::Model*)> model(read, api_.model_free);
    const int count = threads_for(options.threads);
    const std::string threads = std::to_string(count);
    const char* precision = precision_ == "bf16" ? "bf16" : "f32";
    ov::Compiled* compiled = nullptr;
    // Arguments are counted with their names; the last pair is left out where nobody chose it.
    const std::size_t arguments = count > 0 ? 6 : 4;
    check(api_,
          api_.compile(runtime_.core, model.get(), cpu, arguments, &compiled, precision_key,
                       precision, "PERFORMANCE_HINT", "LATENCY", "INFERENCE_NUM_THREADS",
                       threads.c_str()),
          "cannot compile the graph");
    compiled_.reset(compiled);
  }

  ov::ElementType type_of(const std::string& tensor, bool is_input) const {
    ov::Port* found = nullptr;
    const auto look = is_input ? api_.input : api_.output;
    check(api_, look(compiled_.get(), tensor.c_str(), &found), "has no tensor " + tensor);
    const std::unique_ptr<ov::Port, void (*)(ov::Port*)> port(found, api_.port_free);
    ov::ElementType type = 0;
    check(api_, api_.element_type(port.get(), &type), "failed");
    return type;
  }

  void set(ov::Request* request, std::size_t input, ov::Shape shape, void* data) const {
    ov::Tensor* wrapped = nullptr;
    check(api_, api_.wrap(types_[input], shape, data, &wrapped), "failed");
    const std::unique_ptr<ov::Tensor, void (*)(ov::Tensor*)> tensor(wrapped, api_.tensor_free);
    const std::string& name = manifest_.inputs[input].name;
    check(api_, api_.set_tensor(request, name.c_str(), tensor.get()), "failed");
  }

  void copy(const ov::Request* request, const char* name, void* out, std::size_t size) const {
    ov::Tensor* found = nullptr;
    check(api_, api_.get_tensor(request, name, &found), "failed");
    const std::unique_ptr<ov::Tensor, void (*)(ov::Tensor*)> tensor(found, api_.tensor_free);
    void* data = nullptr;
    std::size_t given = 0;
    check(api_, api_.tensor_bytes(tensor.get(), &given), "failed");
    check(api_, api_.tensor_data(tensor.get(), &data), "failed");
    if (given != size) {
      fail(TAME_BACKEND_ERROR, "openvino gave ", given, " bytes of ", name, "; expected ", size);
    }
    std::memcpy(out, data, size);
  }

  const OpenVino& runtime_;
  const ov::Api& api_;
  Manifest manifest_;
  std::string precision_;
  Compiled compiled_{nullptr, api_.compiled_free};
  std::vector<ov::ElementType> types_;  // of the inputs, then of the outputs
  std::vector<Request> requests_;
  std::mutex lock_;
  std::condition_variable returned_;
  std::vector<ov::Request*> idle_;
};

}  // namespace

std::unique_ptr<Backend> open_openvino(const Artifact& artifact, const Options& options) {
  return std::make_unique<OpenVinoBackend>(artifact, options);
}

}  // namespace libtame
