// tame.h: opening, describing and closing explainers.
#include "boundary.hpp"

namespace libtame {
namespace {

constexpr int most_threads = 4096;
constexpr int most_streams = 64;

std::string text(const char* given) { return given ? given : ""; }

Options checked_options(const tame_options* options) {
  const tame_options given = checked_struct(options, "tame_options");
  Options checked;
  if (given.backend) checked.backend = given.backend;
  checked.library = text(given.library);
  checked.precision = text(given.precision);
  checked.engine = text(given.engine);
  checked.threads = checked_number(given.threads, checked.threads, most_threads, "threads");
  checked.streams = checked_number(given.streams, checked.streams, most_streams, "streams");
  if (given.device < 0) fail(TAME_INPUT_ERROR, "device is ", given.device, "; expected 0 or more");
  checked.device = given.device;
  if (given.no_cuda_graphs != 0 && given.no_cuda_graphs != 1) {
    fail(TAME_INPUT_ERROR, "no_cuda_graphs is ", given.no_cuda_graphs, "; expected 0 or 1");
  }
  checked.cuda_graphs = given.no_cuda_graphs == 0;
  return checked;
}

Reading checked_reading(const tame_options* options) {
  const tame_options given = checked_struct(options, "tame_options");
  Reading reading;
  if (given.max_pixels < 0 || given.max_pixels > most_pixels) {
    fail(TAME_INPUT_ERROR, "max_pixels is ", given.max_pixels,
         "; expected 0 (the default) or 1 to ", most_pixels);
  }
  if (given.max_pixels > 0) reading.max_pixels = given.max_pixels;
  if (given.window_low == 0 && given.window_high == 0) return reading;
  if (given.window_low >= given.window_high) {
    fail(TAME_INPUT_ERROR, "found window (", given.window_low, ", ", given.window_high,
         "); expected its first level below its second");
  }
  reading.windowed = true;
  reading.low = given.window_low;
  reading.high = given.window_high;
  return reading;
}

const char* name_of(ExplainMode mode) {
  return mode == ExplainMode::selectable ? "selectable"
         : mode == ExplainMode::all      ? "all"
                                         : "predicted";
}

const char* name_of(MapKind kind) {
  return kind == MapKind::minmax ? "minmax" : kind == MapKind::sigmoid ? "sigmoid" : "logits";
}

const char* name_of(Task task) {
  return task == Task::multiclass ? "multiclass" : task == Task::binary ? "binary" : "multilabel";
}

tame_info described(const Explainer& explainer) {
  const Manifest& manifest = explainer.manifest();
  const auto [height, width] = manifest.map_size();
  tame_info info{};
  info.name = manifest.name.c_str();
  info.backbone = manifest.backbone.c_str();
  info.backend = explainer.backend_name().c_str();
  info.backend_version = explainer.backend_version().c_str();
  info.precision = manifest.precision.c_str();
  info.explain = name_of(manifest.explain);
  info.map_kind = name_of(manifest.maps);
  info.input_type = manifest.image.type_name();
  info.classes = manifest.classes;
  info.ranks = manifest.ranks;
  info.input_width = manifest.image.width;
  info.input_height = manifest.image.height;
  info.map_width = static_cast<int32_t>(width);
  info.map_height = static_cast<int32_t>(height);
  info.input_channels = manifest.image.channels();
  info.speed_only = manifest.speed_only ? 1 : 0;
  info.task = name_of(manifest.task);
  return info;
}

}  // namespace
}  // namespace libtame

extern "C" {

using namespace libtame;

tame_status tame_open(const char* path, const tame_options* options, tame_explainer** explainer) {
  return guarded([&] {
    *checked_pointer(explainer, "explainer") = nullptr;
    const Options checked = checked_options(options);
    const Reading reading = checked_reading(options);
    const std::string place = checked_pointer(path, "path");
    *explainer = explainers().add(std::make_shared<const Explainer>(place, checked, reading));
  });
}

tame_status tame_close(tame_explainer* explainer) {
  return keeping_warning([&] {
    if (!explainer) return;
    const auto closed = explainers().take(explainer);
    if (!closed) return;  // it is of the process before fork(), and so are its streams
    const auto with_it = streams().take_all(
        [&](const Stream& stream) { return stream.explainer() == closed.get(); });
    for (const auto& stream : with_it) stream->close();
  });
}

tame_status tame_get_info(tame_explainer* explainer, tame_info* info) {
  return keeping_warning(
      [&] { write_struct(info, described(*explainers().get(explainer)), "tame_info"); });
}

tame_status tame_label(tame_explainer* explainer, int64_t class_id, const char** label) {
  return keeping_warning([&] {
    *checked_pointer(label, "label") = nullptr;
    *label = explainers().get(explainer)->label(class_id).c_str();
  });
}

tame_status tame_class_id(tame_explainer* explainer, const char* label, int64_t* class_id) {
  return keeping_warning([&] {
    const std::string wanted = checked_pointer(label, "label");
    *checked_pointer(class_id, "class_id") = explainers().get(explainer)->class_id(wanted);
  });
}

}  // extern "C"
