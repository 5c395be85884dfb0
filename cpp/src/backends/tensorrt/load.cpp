// TensorRT through the plugin: libtame itself knows no header and links no library of NVIDIA's.
#include "load.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include "backends/library.hpp"
#include "engines.hpp"
#include "error.hpp"
#include "verify/trust.hpp"

namespace libtame {
namespace {

[[noreturn]] void raise(tame_status status, const tame_plugin_error& error) {
  throw Failure(status, error.message);
}

void check(tame_status status, const tame_plugin_error& error) {
  if (status != TAME_OK) raise(status, error);
}

/// A backend that lives in the plugin. The plugin stays loaded: TensorRT's threads outlive it.
class PluginBackend final : public Backend {
 public:
  PluginBackend(const tame_plugin& plugin, void* backend, std::string name, std::string version)
      : plugin_(plugin), backend_(backend), name_(std::move(name)), version_(std::move(version)) {}
  ~PluginBackend() override { plugin_.close(backend_); }

  std::string name() const override { return name_; }
  std::string version() const override { return version_; }

  void run(const Call& call) override {
    const tame_plugin_call passed{call.count,  call.explained,     call.images, call.class_ids,
                                  call.logits, call.explained_ids, call.maps};
    tame_plugin_error error{};
    check(plugin_.run(backend_, &passed, &error), error);
  }

  void run_on_device(const tame_device_call& call) override {
    tame_plugin_error error{};
    check(plugin_.run_on_device(backend_, &call, &error), error);
  }

 private:
  const tame_plugin& plugin_;
  void* backend_;
  std::string name_;
  std::string version_;
};

tame_plugin_device probe(const tame_plugin& plugin, int index) {
  tame_plugin_device device{};
  tame_plugin_error error{};
  const tame_status status = plugin.probe(index, &device, &error);
  if (status == TAME_DEVICE_ERROR) {
    fail(status, error.message,
         ". An engine runs on its GPU alone; backend onnxruntime runs the graph here");
  }
  check(status, error);
  return device;
}

Machine machine_of(const tame_plugin& plugin, const tame_plugin_device& device) {
  char version[64] = "";
  tame_plugin_error error{};
  check(plugin.version(version, sizeof version, &error), error);
  return {plugin.flavour, version, device.index, {device.major, device.minor}, device.name};
}

/// What an engine's answers depend on, in the words of tame_deploy/runtime/backends/tensorrt/cuda.py.
Computed computed_by(const Machine& machine, const tame_plugin_device& device,
                     const StoredEngine& engine) {
  Computed computed;
  computed.graph = engine.sidecar.plan_sha256;
  computed.library = machine.flavour + " " + machine.version;
  computed.device = words(device.name, " (compute capability ", device.major, ".", device.minor,
                          ", ", device.memory_bytes >> 30U, " GiB)");
  computed.kernels = words(computed.device, ", driver for CUDA ", device.driver / 1000, ".",
                           device.driver % 1000 / 10);
  computed.others = "onnxruntime or openvino";
  return computed;
}

/// Names of the graph's free sizes.
struct Symbols {
  std::string batch;
  std::string explained;
};

Symbols symbols_of(const Manifest& manifest) {
  const auto symbol = [&](std::size_t input, std::size_t place) -> std::string {
    if (manifest.inputs.size() <= input || manifest.inputs[input].shape.size() <= place) return "";
    const auto* name = std::get_if<std::string>(&manifest.inputs[input].shape[place]);
    return name == nullptr ? "" : *name;
  };
  return {symbol(0, 0), symbol(1, 1)};
}

bool same(const std::vector<TensorSpec>& some, const std::vector<TensorSpec>& others) {
  return std::equal(some.begin(), some.end(), others.begin(), others.end(),
                    [](const TensorSpec& one, const TensorSpec& other) {
                      return one.name == other.name && one.dtype == other.dtype &&
                             one.shape == other.shape;
                    });
}

/// Tensors for the plugin; their names lie in the manifest.
class Tensors {
 public:
  Tensors(const std::vector<TensorSpec>& specs, const Symbols& symbols) : shapes_(specs.size()) {
    for (std::size_t place = 0; place < specs.size(); ++place) {
      for (const auto& size : specs[place].shape) {
        shapes_[place].push_back(number(specs[place], size, symbols));
      }
      tensors_.push_back({specs[place].name.c_str(), specs[place].dtype.c_str(),
                          shapes_[place].size(), shapes_[place].data()});
    }
  }

  const tame_plugin_tensor* data() const { return tensors_.data(); }
  std::size_t size() const { return tensors_.size(); }
  const std::vector<std::vector<std::int64_t>>& shapes() const { return shapes_; }

 private:
  static std::int64_t number(const TensorSpec& spec,
                             const std::variant<std::int64_t, std::string>& size,
                             const Symbols& symbols) {
    if (const auto* fixed = std::get_if<std::int64_t>(&size); fixed != nullptr && *fixed > 0) {
      return *fixed;
    }
    const auto* symbol = std::get_if<std::string>(&size);
    if (symbol != nullptr && !symbol->empty()) {
      if (*symbol == symbols.batch) return TAME_PLUGIN_BATCH;
      if (*symbol == symbols.explained) return TAME_PLUGIN_EXPLAINED;
    }
    fail(TAME_INCOMPATIBLE_ERROR, "the size of ", spec.name,
         " is neither a number nor one of the inputs'");
  }

  std::vector<std::vector<std::int64_t>> shapes_;
  std::vector<tame_plugin_tensor> tensors_;
};

/// Hold the tensors to what callers have memory for: they trust the manifest's other fields.
void check_shapes(const Manifest& manifest, const Tensors& inputs, const Tensors& outputs) {
  const ImageSpec& image = manifest.image;
  using Shape = std::vector<std::int64_t>;
  const bool takes_ids = manifest.explain == ExplainMode::selectable;
  const std::array<std::int64_t, 4> sizes = image.input_shape(TAME_PLUGIN_BATCH);
  const Shape pictures(sizes.begin(), sizes.end());
  const auto [height, width] = manifest.map_size();
  const auto is = [](const Tensors& tensors, std::size_t place, const char* name, const char* dtype,
                     const Shape& shape) {
    const tame_plugin_tensor& one = tensors.data()[place];
    return std::strcmp(one.name, name) == 0 && std::strcmp(one.dtype, dtype) == 0 &&
           tensors.shapes()[place] == shape;
  };
  bool fits = inputs.size() == (takes_ids ? 2U : 1U) && outputs.size() == 3 &&
              outputs.shapes()[1].size() == 2;
  const std::int64_t places = fits ? outputs.shapes()[1][1] : 0;
  fits = fits && is(inputs, 0, "images", image.type_name(), pictures) &&
         is(outputs, 0, "logits", "float32", {TAME_PLUGIN_BATCH, manifest.classes}) &&
         is(outputs, 1, "explained", "int64", {TAME_PLUGIN_BATCH, places}) &&
         is(outputs, 2, "maps", "float32", {TAME_PLUGIN_BATCH, places, height, width}) &&
         takes_ids == (places == TAME_PLUGIN_EXPLAINED) &&
         (!takes_ids || is(inputs, 1, "class_ids", "int64", {TAME_PLUGIN_BATCH, places}));
  if (!fits) {
    fail(TAME_INCOMPATIBLE_ERROR, "the tensors of ", manifest.name,
         " are not those of its pictures, classes and maps");
  }
}

std::vector<tame_plugin_profile> profiles_of(const StoredEngine& engine, bool takes_ids) {
  std::vector<tame_plugin_profile> result;
  for (const EngineProfile& profile : engine.sidecar.options.profiles) {
    if (profile.explained.has_value() != takes_ids) {
      fail(TAME_INCOMPATIBLE_ERROR, engine.folder.string(), " has profiles ",
           takes_ids ? "without" : "with", " classes; this graph takes ",
           takes_ids ? "them" : "none");
    }
    tame_plugin_profile one{};
    std::copy(profile.batch.begin(), profile.batch.end(), one.batch);
    if (takes_ids) std::copy(profile.explained->begin(), profile.explained->end(), one.explained);
    result.push_back(one);
  }
  return result;
}

void* open_engine(const tame_plugin& plugin, const Artifact& artifact, const StoredEngine& engine,
                  const Options& options) {
  const Manifest& manifest = artifact.manifest;
  if (!same(engine.sidecar.inputs, manifest.inputs) ||
      !same(engine.sidecar.outputs, manifest.outputs)) {
    fail(TAME_INCOMPATIBLE_ERROR, engine.folder.string(),
         " lists other tensors than the manifest. Rebuild: ",
         compile_command(artifact, engine.sidecar));
  }
  const Symbols symbols = symbols_of(manifest);
  const Tensors inputs(manifest.inputs, symbols);
  const Tensors outputs(manifest.outputs, symbols);
  check_shapes(manifest, inputs, outputs);
  const auto profiles = profiles_of(engine, manifest.explain == ExplainMode::selectable);
  const std::vector<char> plan = read_plan(artifact, engine);
  const std::string folder = engine.folder.string();
  const std::string rebuild = compile_command(artifact, engine.sidecar);
  tame_plugin_engine passed{};
  passed.plan = plan.data();
  passed.plan_bytes = plan.size();
  passed.host_code = engine.sidecar.options.version_compatible ? 1 : 0;
  passed.folder = folder.c_str();
  passed.rebuild = rebuild.c_str();
  passed.inputs = inputs.data();
  passed.input_count = inputs.size();
  passed.outputs = outputs.data();
  passed.output_count = outputs.size();
  passed.profiles = profiles.data();
  passed.profile_count = profiles.size();
  passed.device = options.device;
  passed.streams = options.streams;
  passed.cuda_graphs = options.cuda_graphs ? 1 : 0;
  void* backend = nullptr;
  tame_plugin_error error{};
  check(plugin.open(&passed, &backend, &error), error);
  return backend;
}

}  // namespace

const tame_plugin& load_plugin(const Options& options) {
  const bool rtx = options.backend == "tensorrt-rtx";
  const std::string flavour = rtx ? "tensorrt-rtx" : "tensorrt";
  LibraryWanted wanted;
  wanted.backend = flavour;
  wanted.file = rtx ? "libtame_tensorrt_rtx.so" : "libtame_tensorrt.so";
  wanted.environment = "TAME_PLUGIN_PATH";
  wanted.wheel = "tame_deploy";
  wanted.how = "Build libtame with -DTAME_WITH_TENSORRT=ON -DTensorRT_ROOT=...";
  const Library library = Library::open(wanted, options.library);
  const tame_plugin* plugin = library.function<const tame_plugin*()>(TAME_PLUGIN_SYMBOL)();
  if (plugin == nullptr || std::strcmp(plugin->abi, TAME_PLUGIN_ABI) != 0) {
    fail(TAME_INCOMPATIBLE_ERROR, library.path(), " was built for ",
         plugin == nullptr ? "nothing" : plugin->abi, "; expected ", TAME_PLUGIN_ABI,
         ". Install the one that came with this libtame");
  }
  if (plugin->flavour != flavour) {
    fail(TAME_INCOMPATIBLE_ERROR, library.path(), " was built for ", plugin->flavour,
         "; expected one for ", flavour);
  }
  return *plugin;
}

std::unique_ptr<Backend> open_tensorrt(const Artifact& artifact, const Options& options) {
  const tame_plugin& plugin = load_plugin(options);
  const tame_plugin_device device = probe(plugin, options.device);
  const Machine machine = machine_of(plugin, device);
  const StoredEngine engine = choose_engine(artifact, machine, options.engine);
  std::string name =
      words(machine.flavour, " ", engine.sidecar.shown_precision(), " on ", machine.name);
  void* backend = open_engine(plugin, artifact, engine, options);
  auto opened = std::make_unique<PluginBackend>(plugin, backend, std::move(name), machine.version);
  hold_to_reference(*opened, artifact, [&] { return computed_by(machine, device, engine); });
  return opened;
}

}  // namespace libtame
