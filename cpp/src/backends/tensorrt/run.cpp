#include "run.hpp"

#include <algorithm>

#include "artifact/contrast.hpp"
#include "error.hpp"

namespace libtame::trt {
namespace {

const Tensor& named(const std::vector<Tensor>& tensors, const std::string& name) {
  const auto found = std::find_if(tensors.begin(), tensors.end(),
                                  [&](const Tensor& one) { return one.name == name; });
  if (found == tensors.end()) fail(TAME_INCOMPATIBLE_ERROR, "the engine has no tensor ", name);
  return *found;
}

std::int64_t places_of(const Engine& engine) {
  const Tensor& explained = named(engine.outputs(), "explained");
  return explained.shape.size() > 1 ? explained.shape[1] : 1;
}

}  // namespace

Runner::Runner(const tame_plugin_engine& wanted, const Device& device)
    : device_(device.index),
      engine_(wanted, device),
      largest_(largest(engine_.profiles())),
      takes_ids_(engine_.inputs().size() > 1),
      classes_(named(engine_.outputs(), "logits").shape.back()),
      places_(places_of(engine_)),
      lanes_(engine_, largest_, wanted.cuda_graphs != 0,
             static_cast<std::size_t>(std::max(wanted.streams, 1))) {}

Sizes Runner::sizes_of(std::int64_t count, std::int64_t explained, const std::int64_t* ids) const {
  if (count < 1 || explained < 1) {
    fail(TAME_INPUT_ERROR, "found ", count, " pictures with ", explained,
         " classes each; expected at least one");
  }
  if (takes_ids_ != (ids != nullptr)) {
    fail(TAME_INPUT_ERROR, "class_ids is ", ids == nullptr ? "missing" : "given", "; this graph ",
         takes_ids_ ? "takes them" : "takes none");
  }
  if (takes_ids_) return {count, explained};
  if (explained != places_) {
    fail(TAME_INPUT_ERROR, "found ", explained, " classes to explain; this graph explains ",
         places_);
  }
  return {count, 1};
}

/// -1 in place j means a rank, which a split at another place would change.
void Runner::check_places(const tame_plugin_call& call) const {
  if (!takes_ids_) return;
  for (std::int64_t row = 0; row < call.count; ++row) {
    for (std::int64_t place = largest_.explained; place < call.explained; ++place) {
      const std::int64_t asked = call.class_ids[row * call.explained + place];
      if (decode_contrast(asked, classes_).own != likeliest_id) continue;
      fail(TAME_INPUT_ERROR, "-1 stands in place ", largest_.explained + 1,
           " or later; this engine ranks ", largest_.explained,
           " classes at a time (compile with a larger --explained)");
    }
  }
}

void Runner::run(const tame_plugin_call& call) {
  const Sizes sizes = sizes_of(call.count, call.explained, call.class_ids);
  check_places(call);
  const CurrentDevice current(device_);
  const Lanes::Lent lane(lanes_);
  for (std::int64_t row = 0; row < sizes.batch; row += largest_.batch) {
    for (std::int64_t place = 0; place < sizes.explained; place += largest_.explained) {
      const Sizes window{std::min(largest_.batch, sizes.batch - row),
                         std::min(largest_.explained, sizes.explained - place)};
      lane->run(fit(engine_.profiles(), window), {&call, row, place, window});
    }
  }
}

void Runner::run_on_device(const tame_device_call& call) {
  const Sizes sizes = sizes_of(static_cast<std::int64_t>(call.count),
                               static_cast<std::int64_t>(call.explained), call.class_ids);
  const Fit fitting = fit(engine_.profiles(), sizes);
  if (!(fitting.sizes == sizes)) {
    fail(TAME_INPUT_ERROR, "found ", sizes.batch, " pictures with ", call.explained,
         " classes each; no profile holds it (", described(engine_.profiles()), ")");
  }
  const CurrentDevice current(device_);
  const Addresses addresses = addresses_of(call);
  auto* const stream = static_cast<cudaStream_t>(call.cuda_stream);
  cudaStreamCaptureStatus capturing = cudaStreamCaptureStatusNone;
  check(cudaStreamIsCapturing(stream, &capturing), "cudaStreamIsCapturing");
  if (capturing != cudaStreamCaptureStatusNone) {
    // A replay would use a lane that somebody else has by then.
    fail(TAME_INPUT_ERROR, "cuda_stream is being captured; expected a stream that runs");
  }
  const Lanes::Lent lane(lanes_, &stream);
  lane->run_on(stream, fitting, addresses);
}

Addresses Runner::addresses_of(const tame_device_call& call) const {
  Addresses found;
  const auto add = [&](const char* name, const void* address) {
    check_address(name, address);
    found.push_back(const_cast<void*>(address));  // TensorRT takes inputs and outputs alike
  };
  for (const Tensor& tensor : engine_.inputs()) {
    const bool images = tensor.name == "images";
    add(images ? "images" : "class_ids", images ? call.images : call.class_ids);
  }
  for (const Tensor& tensor : engine_.outputs()) {
    if (tensor.name == "logits") add("logits", call.logits);
    if (tensor.name == "explained") add("explained_ids", call.explained_ids);
    if (tensor.name == "maps") add("maps", call.maps);
  }
  return found;
}

void Runner::check_address(const char* name, const void* address) const {
  if (address == nullptr) fail(TAME_INPUT_ERROR, name, " is NULL; expected memory on the GPU");
  if (reinterpret_cast<std::uintptr_t>(address) % alignment != 0) {
    fail(TAME_INPUT_ERROR, name, " is at ", address, "; expected an address that is a multiple of ",
         alignment, ", as that of a whole allocation");
  }
  cudaPointerAttributes found{};
  check(cudaPointerGetAttributes(&found, address), "cudaPointerGetAttributes");
  if (found.type != cudaMemoryTypeDevice && found.type != cudaMemoryTypeManaged) {
    fail(TAME_INPUT_ERROR, name, " is on no GPU; expected memory on GPU ", device_);
  }
  if (found.device != device_) {
    fail(TAME_INPUT_ERROR, name, " is on GPU ", found.device, "; expected GPU ", device_);
  }
}

}  // namespace libtame::trt
