#include "artifact/manifest.hpp"

#include <algorithm>
#include <utility>

#include "artifact/manifest_schema.hpp"
#include "artifact/schema_1.hpp"
#include "artifact/sha256.hpp"
#include "artifact/text.hpp"
#include "artifact/value.hpp"
#include "error.hpp"

namespace libtame {

namespace {

std::string str(const Value& value) { return value.get<std::string>(); }

/// The place of a text among the names of an enumeration, which the decoder knows to be there.
template <typename Enum>
Enum choice(const Value& value, std::initializer_list<const char*> names) {
  const auto found = std::find(names.begin(), names.end(), str(value));
  return static_cast<Enum>(found - names.begin());
}

void check_version(const Value& raw) {
  const auto version = raw.find("schema_version");
  if (version == raw.end() || !version->is_number_integer()) {
    return;  // the decoder says what it thinks of that
  }
  if (version->get<std::int64_t>() > schema_version) {
    fail(TAME_INCOMPATIBLE_ERROR, "artifact has schema version ", shown(*version),
         "; this tame-deploy reads up to ", schema_version,
         ". Upgrade: pip install -U tame-deploy");
  }
  if (*version == 1 && raw.contains("identity_text")) {
    fail(TAME_MANIFEST_ERROR,
         "schema_version is 1 beside an identity_text, which schema 1 did not have; expected ",
         schema_version, ". Undo the edit, or export the artifact again");
  }
}

using Ranks = std::vector<std::pair<const char*, std::size_t>>;

void check_tensors(const Value& manifest, const char* field, const Ranks& expected) {
  const Value& found = manifest[field];
  const auto fits = [](const Value& tensor, const Ranks::value_type& rank) {
    return tensor["name"] == rank.first && tensor["shape"].size() == rank.second;
  };
  if (std::equal(found.begin(), found.end(), expected.begin(), expected.end(), fits)) {
    return;
  }
  std::vector<std::string> have;
  for (const Value& tensor : found) {
    have.push_back(words("(", shown(tensor["name"]), ", ", tensor["shape"].size(), ")"));
  }
  std::vector<std::string> names;
  for (const auto& rank : expected) {
    names.emplace_back(rank.first);
  }
  fail(TAME_MANIFEST_ERROR, field, " is [", joined(have), "]; expected ", joined(names));
}

void check_weights(const Value& weights, bool with_auxiliary) {
  const bool fits = weights.size() == (with_auxiliary ? 3 : 2) && weights.contains("backbone") &&
                    weights.contains("head") && weights.contains("auxiliary") == with_auxiliary;
  if (!fits) {
    std::vector<std::string> names;
    for (const auto& item : weights.items()) {
      names.push_back(in_quotes(item.key()));
    }
    fail(TAME_MANIFEST_ERROR, "weights names [", joined(names), "]; expected ",
         with_auxiliary ? "auxiliary, " : "", "backbone and head");
  }
}

/// _check_consistent of tame_deploy/artifact/manifest.py.
void check_consistent(const Value& manifest) {
  const std::size_t layers = manifest["feature_layers"].size();
  const std::size_t channels = manifest["head"]["channels"].size();
  if (layers != channels) {
    fail(TAME_MANIFEST_ERROR, layers, " feature layers but a head for ", channels);
  }
  const Value& classes = manifest["classes"];
  const Value& of_head = manifest["head"]["classes"];
  if (classes != of_head) {
    fail(TAME_MANIFEST_ERROR, "classes is ", shown(classes), " but the head has ", shown(of_head));
  }
  if (manifest["task"] == "binary" && classes != 2) {
    fail(TAME_MANIFEST_ERROR, "task is binary but there are ", shown(classes),
         " classes; expected 2");
  }
  check_weights(manifest["weights"], !manifest["auxiliary"].is_null());
  const bool selectable = manifest["graph"]["explain"] == "selectable";
  check_tensors(manifest, "inputs",
                selectable ? Ranks{{"images", 4}, {"class_ids", 2}} : Ranks{{"images", 4}});
  check_tensors(manifest, "outputs", {{"logits", 2}, {"explained", 2}, {"maps", 4}});
  for (const std::string& name : {std::string("model.onnx"), str(manifest["labels"])}) {
    if (!manifest["files"].contains(name)) {
      fail(TAME_MANIFEST_ERROR, "files does not list ", name);
    }
  }
}

/// Check that the manifest says what its identity text says.
void check_identity(const Value& manifest, const std::string& text) {
  const std::string where = "manifest.identity_text";
  if (text.empty()) {
    fail(TAME_MANIFEST_ERROR, where, " is missing or empty");
  }
  Value meant = parse_object(text, where);
  meant.erase("schema_version");  // of schema 1
  identity_decoder()(meant, where);
  std::vector<std::string> edited;
  for (const auto& item : meant.items()) {
    // The order of an object's members says nothing.
    if (nlohmann::json(item.value()) != nlohmann::json(manifest[item.key()])) {
      edited.push_back(item.key());
    }
  }
  std::sort(edited.begin(), edited.end());
  if (!edited.empty()) {
    fail(TAME_INCOMPATIBLE_ERROR,
         "model.onnx was not exported with this manifest.json: ", joined(edited),
         edited.size() == 1 ? " is" : " are",
         " not what identity_text says. Undo the edit, or export the artifact again");
  }
}

ImageSpec image_of(const Value& image) {
  ImageSpec spec;
  spec.height = image["height"];
  spec.width = image["width"];
  spec.resize = image["resize"];
  spec.crop = choice<Crop>(image["crop"], {"center", "none", "pad"});
  spec.interpolation =
      choice<Interpolation>(image["interpolation"], {"nearest", "bilinear", "bicubic", "lanczos"});
  spec.mean = image["mean"].get<std::vector<double>>();
  spec.std = image["std"].get<std::vector<double>>();
  spec.dtype = choice<InputType>(image["dtype"], {"uint8", "uint16", "float32"});
  spec.pad_level = image["pad_level"];
  const Value& window = image["window"];
  spec.window.reset();
  if (!window.is_null()) spec.window = {window[0].get<int>(), window[1].get<int>()};
  return spec;
}

Manifest manifest_of(const Value& from) {
  Manifest to;
  to.name = str(from["name"]);
  to.backbone = str(from["backbone"]);
  to.classes = from["classes"];
  to.inputs = tensor_specs(from["inputs"]);
  to.outputs = tensor_specs(from["outputs"]);
  to.image = image_of(from["image"]);
  to.explain = choice<ExplainMode>(from["graph"]["explain"], {"selectable", "predicted", "all"});
  to.ranks = from["graph"]["ranks"];
  to.contrast = from["graph"]["contrast"];
  to.maps = choice<MapKind>(from["graph"]["maps"], {"minmax", "sigmoid", "logits"});
  to.task = choice<Task>(from["task"], {"multiclass", "multilabel", "binary"});
  to.precision = str(from["precision"]);
  to.target = from["target"].is_null() ? "" : str(from["target"]);
  to.labels = str(from["labels"]);
  for (const auto& file : from["files"].items()) {
    to.files.emplace_back(file.key(), str(file.value()));
  }
  for (const Value& source : from["weights"]) {
    to.speed_only = to.speed_only || source["random"].get<bool>();
  }
  return to;
}

}  // namespace

std::vector<TensorSpec> tensor_specs(const Value& tensors) {
  std::vector<TensorSpec> specs;
  for (const Value& tensor : tensors) {
    TensorSpec spec{str(tensor["name"]), str(tensor["dtype"]), {}};
    for (const Value& size : tensor["shape"]) {
      if (size.is_string()) {
        spec.shape.emplace_back(str(size));
      } else {
        spec.shape.emplace_back(size.get<std::int64_t>());
      }
    }
    specs.push_back(std::move(spec));
  }
  return specs;
}

Manifest parse_manifest(const std::string& text) {
  const Value raw = parse_object(text, "manifest.json");
  check_version(raw);
  Value manifest = raw;
  manifest_decoder()(manifest, "manifest");
  const auto version = manifest["schema_version"].get<std::int64_t>();
  if (version < 1) {
    fail(TAME_MANIFEST_ERROR, "schema_version is ", version, "; expected 1 to ", schema_version);
  }
  check_consistent(manifest);
  const std::string said =
      version == 1 ? identity_text_of_schema_1(raw) : str(manifest["identity_text"]);
  check_identity(manifest, said);
  Manifest made = manifest_of(manifest);
  made.identity = sha256(said);
  made.recorded = recorded_errors(text);
  return made;
}

}  // namespace libtame
