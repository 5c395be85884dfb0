#include "artifact/manifest.hpp"

#include <algorithm>
#include <limits>
#include <utility>

#include "artifact/manifest_schema.hpp"
#include "artifact/schema_1.hpp"
#include "artifact/sha256.hpp"
#include "artifact/text.hpp"
#include "artifact/value.hpp"
#include "error.hpp"

namespace libtame {

namespace {

const std::string& str(const Value& value) { return std::get<std::string>(value.it); }
const List& list(const Value& value) { return std::get<List>(value.it); }
const Dict& dict(const Value& value) { return std::get<Dict>(value.it); }
const Integer& integer(const Value& value) { return std::get<Integer>(value.it); }

bool is_negative(const Integer& number) { return number.digits.front() == '-'; }

/// The number, or the nearest that 64 bits hold: whoever uses it checks its range anyway.
std::int64_t clamped(const Value& value) {
  using Limits = std::numeric_limits<std::int64_t>;
  const Integer& number = integer(value);
  return to_int64(number).value_or(is_negative(number) ? Limits::min() : Limits::max());
}

/// The place of a text among the names of an enumeration, which the decoder knows to be there.
template <typename Enum>
Enum choice(const Value& value, std::initializer_list<const char*> names) {
  const auto found = std::find(names.begin(), names.end(), str(value));
  return static_cast<Enum>(found - names.begin());
}

void check_version(const Dict& raw) {
  const Value* version = find(raw, "schema_version");
  if (version == nullptr || version->as<Integer>() == nullptr) {
    return;  // the decoder says what it thinks of that
  }
  if (clamped(*version) > schema_version) {
    fail(TAME_INCOMPATIBLE_ERROR, "artifact has schema version ", integer(*version).digits,
         "; this tame-deploy reads up to ", schema_version,
         ". Upgrade: pip install -U tame-deploy");
  }
}

using Ranks = std::vector<std::pair<const char*, std::size_t>>;

void check_tensors(const Value& manifest, const char* field, const Ranks& expected) {
  const List& found = list(manifest[field]);
  const auto fits = [](const Value& tensor, const Ranks::value_type& rank) {
    return str(tensor["name"]) == rank.first && list(tensor["shape"]).size() == rank.second;
  };
  if (std::equal(found.begin(), found.end(), expected.begin(), expected.end(), fits)) {
    return;
  }
  std::vector<std::string> have;
  for (const Value& tensor : found) {
    have.push_back(words("(", repr(tensor["name"]), ", ", list(tensor["shape"]).size(), ")"));
  }
  std::vector<std::string> names;
  for (const auto& rank : expected) {
    names.emplace_back(rank.first);
  }
  fail(TAME_MANIFEST_ERROR, field, " is [", joined(have), "]; expected ", joined(names));
}

void check_weights(const Dict& weights) {
  std::vector<std::string> names;
  for (const Member& item : weights) {
    names.push_back(item.key);
  }
  std::sort(names.begin(), names.end());
  if (names != std::vector<std::string>{"backbone", "head"}) {
    fail(TAME_MANIFEST_ERROR, "weights names ", repr(names), "; expected backbone and head");
  }
}

/// _check_consistent of tame_deploy/artifact/manifest.py.
void check_consistent(const Value& manifest) {
  const std::size_t layers = list(manifest["feature_layers"]).size();
  const std::size_t channels = list(manifest["head"]["channels"]).size();
  if (layers != channels) {
    fail(TAME_MANIFEST_ERROR, layers, " feature layers but a head for ", channels);
  }
  const std::string& classes = integer(manifest["classes"]).digits;
  const std::string& of_head = integer(manifest["head"]["classes"]).digits;
  if (classes != of_head) {
    fail(TAME_MANIFEST_ERROR, "classes is ", classes, " but the head has ", of_head);
  }
  check_weights(dict(manifest["weights"]));
  const bool selectable = str(manifest["graph"]["explain"]) == "selectable";
  check_tensors(manifest, "inputs",
                selectable ? Ranks{{"images", 4}, {"class_ids", 2}} : Ranks{{"images", 4}});
  check_tensors(manifest, "outputs", {{"logits", 2}, {"explained", 2}, {"maps", 4}});
  for (const std::string& name : {std::string("model.onnx"), str(manifest["labels"])}) {
    if (find(dict(manifest["files"]), name) == nullptr) {
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
  Dict said = parse_object(text, where);
  const auto is_version = [](const Member& item) { return item.key == "schema_version"; };
  said.erase(std::remove_if(said.begin(), said.end(), is_version), said.end());  // of schema 1
  const Value meant = identity_decoder()(Value{std::move(said)}, where);
  std::vector<std::string> edited;
  for (const Member& item : dict(meant)) {
    if (!(item.value == manifest[item.key])) edited.push_back(item.key);
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
  spec.height = static_cast<int>(clamped(image["height"]));
  spec.width = static_cast<int>(clamped(image["width"]));
  spec.resize = static_cast<int>(clamped(image["resize"]));
  spec.crop = choice<Crop>(image["crop"], {"center", "none"});
  spec.interpolation =
      choice<Interpolation>(image["interpolation"], {"nearest", "bilinear", "bicubic", "lanczos"});
  for (std::size_t channel = 0; channel < 3; ++channel) {
    spec.mean[channel] = std::get<double>(list(image["mean"])[channel].it);
    spec.std[channel] = std::get<double>(list(image["std"])[channel].it);
  }
  spec.dtype = choice<InputType>(image["dtype"], {"uint8", "float32"});
  return spec;
}

std::vector<TensorSpec> tensors_of(const Value& tensors) {
  std::vector<TensorSpec> specs;
  for (const Value& tensor : list(tensors)) {
    TensorSpec spec{str(tensor["name"]), str(tensor["dtype"]), {}};
    for (const Value& size : list(tensor["shape"])) {
      if (const std::string* symbol = size.as<std::string>()) {
        spec.shape.emplace_back(*symbol);
      } else {
        spec.shape.emplace_back(clamped(size));
      }
    }
    specs.push_back(std::move(spec));
  }
  return specs;
}

Manifest manifest_of(const Value& from) {
  Manifest to;
  to.name = str(from["name"]);
  to.backbone = str(from["backbone"]);
  to.classes = clamped(from["classes"]);
  to.inputs = tensors_of(from["inputs"]);
  to.outputs = tensors_of(from["outputs"]);
  to.image = image_of(from["image"]);
  to.explain = choice<ExplainMode>(from["graph"]["explain"], {"selectable", "predicted", "all"});
  to.ranks = clamped(from["graph"]["ranks"]);
  to.maps = choice<MapKind>(from["graph"]["maps"], {"minmax", "sigmoid", "logits"});
  to.precision = str(from["precision"]);
  const std::string* target = from["target"].as<std::string>();
  to.target = target == nullptr ? "" : *target;
  to.labels = str(from["labels"]);
  for (const Member& file : dict(from["files"])) {
    to.files.emplace_back(file.key, str(file.value));
  }
  for (const Member& source : dict(from["weights"])) {
    to.speed_only = to.speed_only || std::get<bool>(source.value["random"].it);
  }
  return to;
}

}  // namespace

Manifest parse_manifest(const std::string& text) {
  Dict raw = parse_object(text, "manifest.json");
  check_version(raw);
  const Value manifest = manifest_decoder()(Value{raw}, "manifest");
  const std::int64_t version = clamped(manifest["schema_version"]);
  if (version < 1) {
    fail(TAME_MANIFEST_ERROR, "schema_version is ", integer(manifest["schema_version"]).digits,
         "; expected 1 to ", schema_version);
  }
  check_consistent(manifest);
  const std::string said =
      version == 1 ? identity_text_of_schema_1(std::move(raw)) : str(manifest["identity_text"]);
  check_identity(manifest, said);
  Manifest made = manifest_of(manifest);
  made.identity = sha256(said);
  made.recorded = recorded_errors(text);
  return made;
}

}  // namespace libtame
