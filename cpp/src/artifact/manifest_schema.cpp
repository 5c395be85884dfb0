#include "artifact/manifest_schema.hpp"

#include <algorithm>
#include <cstdint>

#include "artifact/manifest.hpp"
#include "artifact/text.hpp"
#include "error.hpp"

namespace libtame {

namespace {

constexpr std::int64_t max_count = 1'000'000;

Value text(const char* value) { return Value{std::string(value)}; }
Value whole(int value) { return Value{Integer{std::to_string(value)}}; }
Value nothing() { return Value{nullptr}; }

const std::string& digits(const Value& value) { return std::get<Integer>(value.it).digits; }
const std::string& str(const Value& value) { return std::get<std::string>(value.it); }

bool lies_within(const Value& value, std::int64_t low, std::int64_t high) {
  const std::optional<std::int64_t> number = to_int64(std::get<Integer>(value.it));
  return number && low <= *number && *number <= high;
}

/// ImageSpec.__post_init__. JSON has only finite numbers: the means need no look.
std::string check_image(const Value& image) {
  for (const char* name : {"height", "width", "resize"}) {
    if (!lies_within(image[name], 1, max_side)) {
      return words("image ", name, " is ", digits(image[name]), "; expected 1 to ", max_side,
                   " pixels");
    }
  }
  const List& deviations = std::get<List>(image["std"].it);
  std::vector<std::string> each;
  bool positive = true;
  for (const Value& value : deviations) {
    positive = positive && std::get<double>(value.it) > 0;
    each.push_back(repr(value));
  }
  if (!positive) {
    return words("image std is (", joined(each), "); expected three positive numbers");
  }
  const std::string& dtype = str(image["dtype"]);
  const std::string layout = dtype == "uint8" ? "NHWC" : "NCHW";
  const std::string normalise = dtype == "uint8" ? "graph" : "caller";
  if (str(image["layout"]) != layout || str(image["normalise"]) != normalise) {
    return words("image input is ", dtype, " ", str(image["layout"]), " normalised by the ",
                 str(image["normalise"]), "; expected ", layout, " normalised by the ", normalise,
                 " for ", dtype);
  }
  return "";
}

/// HeadConfig.__post_init__.
std::string check_head(const Value& head) {
  const List& channels = std::get<List>(head["channels"].it);
  const bool counted = !channels.empty() && lies_within(head["classes"], 1, max_count) &&
                       std::all_of(channels.begin(), channels.end(), [](const Value& value) {
                         return lies_within(value, 1, max_count);
                       });
  if (!counted) {
    return words("head has channels ", repr(head["channels"]), " and ", digits(head["classes"]),
                 " classes; expected at least one layer, and 1 to ", max_count, " of each");
  }
  if (std::get<bool>(head["skip"].it) && str(head["width"]) == "classes") {
    return "a head whose branches are one channel a class has no skip connection";
  }
  return "";
}

Value triple(double first, double second, double third) {
  return Value{List{Value{first}, Value{second}, Value{third}}};
}

Decoder image_decoder() {
  return decode_object(
      {{"height", decode_int(), whole(224)},
       {"width", decode_int(), whole(224)},
       {"resize", decode_int(), whole(256)},
       {"crop", decode_choice({"center", "none"}), text("center")},
       {"interpolation", decode_choice({"nearest", "bilinear", "bicubic", "lanczos"}),
        text("bilinear")},
       {"mean", decode_array(decode_float(), 3), triple(0.485, 0.456, 0.406)},
       {"std", decode_array(decode_float(), 3), triple(0.229, 0.224, 0.225)},
       {"layout", decode_choice({"NHWC", "NCHW"}), text("NHWC")},
       {"dtype", decode_choice({"uint8", "float32"}), text("uint8")},
       {"normalise", decode_choice({"graph", "caller"}), text("graph")}},
      check_image);
}

Decoder head_decoder() {
  return decode_object({{"channels", decode_list(decode_int()), {}},
                        {"classes", decode_int(), {}},
                        {"width", decode_choice({"channels", "classes"}), text("channels")},
                        {"batch_norm", decode_bool(), Value{true}},
                        {"skip", decode_bool(), Value{true}},
                        {"activation", decode_choice({"relu", "sigmoid"}), text("relu")},
                        {"tokens", decode_choice({"patch", "patch-times-class"}), text("patch")}},
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
                        {"opset", decode_int(), {}}});
}

Decoder source_decoder() {
  return decode_object({{"source", decode_str(), {}},
                        {"random", decode_bool(), Value{false}},
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
    fields.push_back({name, decode_dict(decode_float()), Value{Dict()}});
  }
  fields.push_back({"allowed_below", decode_bool(), Value{false}});
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
          {"parents", decode_list(decode_str()), Value{List()}}};
}

std::vector<Field> manifest_fields() {
  std::vector<Field> fields = identity_fields();
  for (Field& field :
       std::vector<Field>{{"name", decode_str(), {}},
                          {"files", decode_dict(decode_str()), {}},
                          {"calibration", decode_optional(calibration_decoder()), nothing()},
                          {"fidelity", decode_optional(fidelity_decoder()), nothing()},
                          {"parity", decode_optional(parity_decoder()), nothing()},
                          {"tool_versions", decode_dict(decode_str()), Value{Dict()}},
                          {"schema_version", decode_int(), whole(schema_version)},
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
