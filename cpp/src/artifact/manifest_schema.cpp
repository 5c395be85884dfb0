#include "artifact/manifest_schema.hpp"

#include <algorithm>
#include <cstdint>

#include "artifact/manifest.hpp"
#include "error.hpp"

namespace libtame {

namespace {

constexpr std::int64_t max_count = 1'000'000;
constexpr std::size_t max_image_channels = 1024;

Value text(const char* value) { return Value(value); }
Value whole(int value) { return Value(std::int64_t{value}); }
Value nothing() { return Value(nullptr); }

bool lies_within(const Value& value, std::int64_t low, std::int64_t high) {
  const auto number = value.get<std::int64_t>();
  return low <= number && number <= high;
}

/// ImageSpec._check_channels. JSON has only finite numbers: the means need no look.
std::string check_channels(const Value& image) {
  const std::size_t means = image["mean"].size();
  const Value& deviations = image["std"];
  if (means < 1 || means > max_image_channels || deviations.size() != means) {
    return words("image has ", means, " means and ", deviations.size(),
                 " standard deviations; expected one of each a channel, and 1 to ",
                 max_image_channels, " channels");
  }
  const auto is_positive = [](const Value& value) { return value.get<double>() > 0; };
  if (!std::all_of(deviations.begin(), deviations.end(), is_positive)) {
    return words("image std is ", shown(deviations), "; expected positive numbers");
  }
  return "";
}

std::string check_levels(const Value& image) {
  if (!lies_within(image["pad_level"], 0, 255)) {
    return words("image pad_level is ", shown(image["pad_level"]), "; expected a level, 0 to 255");
  }
  const Value& window = image["window"];
  if (window.is_null()) return "";
  const auto low = window[0].get<std::int64_t>();
  const auto high = window[1].get<std::int64_t>();
  if (low < 0 || low >= high || high > 65535) {
    return words("image window is ", low, " to ", high,
                 "; expected two levels of 16 bits, the lower first");
  }
  return "";
}

/// ImageSpec.__post_init__.
std::string check_image(const Value& image) {
  for (const char* name : {"height", "width", "resize"}) {
    if (!lies_within(image[name], 1, max_side)) {
      return words("image ", name, " is ", shown(image[name]), "; expected 1 to ", max_side,
                   " pixels");
    }
  }
  if (std::string fault = check_channels(image); !fault.empty()) return fault;
  const std::string dtype = image["dtype"];
  const std::string layout = dtype == "float32" ? "NCHW" : "NHWC";
  const std::string normalise = dtype == "float32" ? "caller" : "graph";
  if (image["layout"] != layout || image["normalise"] != normalise) {
    return words("image input is ", dtype, " ", image["layout"].get<std::string>(),
                 " normalised by the ", image["normalise"].get<std::string>(), "; expected ",
                 layout, " normalised by the ", normalise, " for ", dtype);
  }
  return check_levels(image);
}

/// HeadConfig._check_width.
std::string check_width(const Value& width, const Value& channels) {
  if (width.is_string()) return "";
  bool fits = width.size() == channels.size();
  for (std::size_t layer = 0; fits && layer < width.size(); ++layer) {
    fits = lies_within(width[layer], 1, channels[layer].get<std::int64_t>());
  }
  if (fits) return "";
  return words("head width is ", shown(width), " for layers of ", shown(channels),
               " channels; expected one number a layer, from 1 to the layer's channels");
}

/// HeadConfig.__post_init__.
std::string check_head(const Value& head) {
  const Value& channels = head["channels"];
  const bool counted = !channels.empty() && lies_within(head["classes"], 1, max_count) &&
                       std::all_of(channels.begin(), channels.end(), [](const Value& value) {
                         return lies_within(value, 1, max_count);
                       });
  if (!counted) {
    return words("head has channels ", shown(channels), " and ", shown(head["classes"]),
                 " classes; expected at least one layer, and 1 to ", max_count, " of each");
  }
  if (std::string fault = check_width(head["width"], channels); !fault.empty()) return fault;
  if (head["skip"].get<bool>() && head["width"] == "classes") {
    return "a head whose branches are one channel a class has no skip connection";
  }
  const bool has_switches =
      head["width"] != "channels" || head["batch_norm"].get<bool>() || head["skip"].get<bool>();
  if (head["branch"] != "attention" && has_switches) {
    return "a head without branches has channels width, no batch norm and no skip";
  }
  if (head["branch"] == "recipro-cam" && channels.size() != 1) {
    return words("ReciproCAM reads one layer; found ", channels.size());
  }
  return "";
}

Value triple(double first, double second, double third) {
  return Value::array({first, second, third});
}

Decoder image_decoder() {
  return decode_object(
      {{"height", decode_int(), whole(224)},
       {"width", decode_int(), whole(224)},
       {"resize", decode_int(), whole(256)},
       {"crop", decode_choice({"center", "none", "pad"}), text("center")},
       {"interpolation", decode_choice({"nearest", "bilinear", "bicubic", "lanczos"}),
        text("bilinear")},
       {"mean", decode_list(decode_float()), triple(0.485, 0.456, 0.406)},
       {"std", decode_list(decode_float()), triple(0.229, 0.224, 0.225)},
       {"layout", decode_choice({"NHWC", "NCHW"}), text("NHWC")},
       {"dtype", decode_choice({"uint8", "uint16", "float32"}), text("uint8")},
       {"normalise", decode_choice({"graph", "caller"}), text("graph")},
       {"pad_level", decode_int(), whole(0)},
       {"window", decode_optional(decode_array(decode_int(), 2)), Value::array({0, 65535})}},
      check_image);
}

Decoder head_decoder() {
  return decode_object(
      {{"channels", decode_list(decode_int()), {}},
       {"classes", decode_int(), {}},
       {"width", decode_list_or(decode_int(), decode_choice({"channels", "classes"})),
        text("channels")},
       {"batch_norm", decode_bool(), Value(true)},
       {"skip", decode_bool(), Value(true)},
       {"activation", decode_choice({"relu", "sigmoid"}), text("relu")},
       {"tokens", decode_choice({"patch", "patch-times-class"}), text("patch")},
       {"branch", decode_choice({"attention", "identity", "recipro-cam"}), text("attention")}},
      check_head);
}

Decoder tensors_decoder() {
  return decode_list(decode_object({{"name", decode_str(), {}},
                                    {"dtype", decode_str(), {}},
                                    {"shape", decode_list(decode_int_or_str()), {}}}));
}

Decoder graph_decoder() {
  return decode_object({{"explain", decode_choice({"selectable", "predicted", "all"}), {}},
                        {"ranks", decode_int(), {}},
                        {"maps", decode_choice({"minmax", "sigmoid", "logits"}), {}},
                        {"opset", decode_int(), {}},
                        {"contrast", decode_bool(), Value(false)}});
}

Decoder source_decoder() {
  return decode_object({{"source", decode_str(), {}},
                        {"random", decode_bool(), Value(false)},
                        {"sha256", decode_optional(decode_str()), nothing()},
                        {"licence", decode_optional(decode_str()), nothing()}});
}

Decoder calibration_decoder() {
  return decode_object({{"key", decode_str(), {}},
                        {"source", decode_str(), {}},
                        {"pictures", decode_int(), {}},
                        {"seed", decode_int(), {}}});
}

Decoder parity_decoder() {
  std::vector<Field> fields;
  for (const char* name : {"pictures", "flat_maps", "same_for_pictures", "same_for_classes"}) {
    fields.push_back({name, decode_int(), {}});
  }
  for (const char* name : {"top1_agreement", "logit_error", "map_error", "map_correlation"}) {
    fields.push_back({name, decode_float(), {}});
  }
  return decode_object(std::move(fields));
}

Decoder fidelity_decoder() {
  std::vector<Field> fields;
  for (const char* name : {"pictures", "maps", "flat_maps", "flat_maps_fp32"}) {
    fields.push_back({name, decode_int(), {}});
  }
  for (const char* name : {"top1_agreement", "top5_agreement", "logit_cosine", "pearson_mean",
                           "pearson_5th", "pearson_worst", "spearman_mean", "spearman_5th",
                           "spearman_worst", "iou_15", "iou_50", "peak_shift"}) {
    fields.push_back({name, decode_float(), {}});
  }
  for (const char* name : {"top1", "top1_fp32"}) {
    fields.push_back({name, decode_optional(decode_float()), {}});
  }
  for (const char* name : {"pearson_worst_picture", "spearman_worst_picture"}) {
    fields.push_back({name, decode_str(), {}});
  }
  for (const char* name : {"average_drop", "increase", "floor"}) {
    fields.push_back({name, decode_dict(decode_float()), {}});
  }
  fields.push_back({"allowed_below", decode_bool(), {}});
  return decode_object(std::move(fields));
}

std::vector<Field> identity_fields() {
  return {{"backbone", decode_str(), {}},
          {"feature_layers", decode_list(decode_str()), {}},
          {"head", head_decoder(), {}},
          {"classes", decode_int(), {}},
          {"inputs", tensors_decoder(), {}},
          {"outputs", tensors_decoder(), {}},
          {"image", image_decoder(), {}},
          {"graph", graph_decoder(), {}},
          {"weights", decode_dict(source_decoder()), {}},
          {"labels", decode_str(), text("labels.txt")},
          {"kind", decode_choice({"explainer"}), text("explainer")},
          {"precision", decode_choice({"fp32", "fp16", "int8", "int8+fp16"}), text("fp32")},
          {"target", decode_optional(decode_choice({"cpu", "cpu-vnni", "tensorrt"})), nothing()},
          {"parents", decode_list(decode_str()), Value::array()},
          {"task", decode_choice({"multiclass", "multilabel", "binary"}), text("multiclass")},
          {"auxiliary", decode_optional(decode_str()), nothing()}};
}

/// Those without a fallback stand nowhere else: who deletes one is told.
std::vector<Field> manifest_fields() {
  std::vector<Field> fields = identity_fields();
  for (Field& field :
       std::vector<Field>{{"name", decode_str(), {}},
                          {"files", decode_dict(decode_str()), {}},
                          {"calibration", decode_optional(calibration_decoder()), {}},
                          {"fidelity", decode_optional(fidelity_decoder()), {}},
                          {"parity", decode_optional(parity_decoder()), {}},
                          {"tool_versions", decode_dict(decode_str()), {}},
                          {"schema_version", decode_int(), {}},
                          {"identity_text", decode_str(), text("")}}) {
    fields.push_back(std::move(field));
  }
  return fields;
}

}  // namespace

const Decoder& identity_decoder() {
  static const Decoder& decoder = *new Decoder(decode_object(identity_fields()));
  return decoder;
}

const Decoder& manifest_decoder() {
  static const Decoder& decoder = *new Decoder(decode_object(manifest_fields()));
  return decoder;
}

}  // namespace libtame
