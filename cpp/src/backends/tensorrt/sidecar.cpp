#include "sidecar.hpp"

#include <algorithm>

#include "artifact/decode.hpp"
#include "artifact/manifest_schema.hpp"
#include "artifact/text.hpp"
#include "artifact/value.hpp"
#include "error.hpp"

namespace libtame {
namespace {

constexpr std::int64_t sidecar_version = 1;
constexpr std::int64_t max_extent = 65536;  // more pictures or classes in a profile are a mistake

constexpr Capability portable{8, 0};  // the least of engines that are tied to none
// TensorRT-RTX leaves the data centre's Hopper and Blackwell, from here up to there, to TensorRT.
constexpr Capability not_rtx{9, 0};
constexpr Capability rtx_again{12, 0};

// ------------------------------------------------------------------ values that were checked

std::int64_t number(const Value& value) { return value.get<std::int64_t>(); }

std::string text(const Value& value) { return value.get<std::string>(); }

std::vector<std::string> texts(const Value& value) { return value.get<std::vector<std::string>>(); }

Extent extent(const Value& value) { return {number(value[0]), number(value[1]), number(value[2])}; }

bool absent(const Value& value) { return value.is_null(); }

std::optional<Capability> capability(const std::string& dotted) {
  const auto dot = dotted.find('.');
  if (dot == dotted.npos || dotted.size() > 5) return std::nullopt;
  const auto decimal = [](const std::string& part) {
    return !part.empty() && part.find_first_not_of("0123456789") == part.npos;
  };
  const std::string major = dotted.substr(0, dot);
  const std::string minor = dotted.substr(dot + 1);
  if (!decimal(major) || !decimal(minor)) return std::nullopt;
  return Capability{std::stoi(major), std::stoi(minor)};
}

// ------------------------------------------------------------------ checks across fields

std::string check_extent(const char* name, const Value& value) {
  if (absent(value)) return "";
  const auto [low, opt, high] = extent(value);
  if (1 <= low && low <= opt && opt <= high && high <= max_extent) return "";
  return words("profile ", name, " is ", low, ",", opt, ",", high,
               "; expected min, opt and max, rising, from 1 to ", max_extent);
}

std::string check_profile(const Value& profile) {
  const std::string problem = check_extent("batch", profile["batch"]);
  return problem.empty() ? check_extent("explained", profile["explained"]) : problem;
}

std::string check_capabilities(const Value& value) {
  std::vector<std::string> seen = texts(value);
  for (const std::string& one : seen) {
    if (!capability(one)) {
      return words("found compute capability ", in_quotes(one), "; expected MAJOR.MINOR as in 8.9");
    }
  }
  std::sort(seen.begin(), seen.end());
  if (std::adjacent_find(seen.begin(), seen.end()) == seen.end()) return "";
  return words("found ", joined(seen), "; one is there twice");
}

std::string check_options(const Value& options) {
  constexpr std::int64_t most_mib = std::int64_t{1} << 20;
  if (options["profiles"].empty()) {
    return "found no profile; expected at least one";
  }
  if (const Value& workspace = options["workspace_mib"]; !absent(workspace)) {
    if (number(workspace) < 1 || number(workspace) > most_mib) {
      return words("workspace is ", number(workspace), " MiB; expected 1 to ", most_mib);
    }
  }
  const Value& level = options["optimization_level"];
  if (number(level) < 0 || number(level) > 5) {
    return words("optimization level is ", number(level), "; expected 0 to 5");
  }
  return check_capabilities(options["compute_capabilities"]);
}

std::string check_sidecar(const Value& sidecar) {
  return check_capabilities(sidecar["compute_capabilities"]);
}

// ------------------------------------------------------------------ tables of fields

const Value none(nullptr);

/// What was measured on a device is for people: nothing here depends on it.
Decoder decode_unread() {
  return [](Value&, const std::string&) {};
}

Decoder decode_tensors() {
  return decode_list(decode_object({{"name", decode_str(), {}},
                                    {"dtype", decode_str(), {}},
                                    {"shape", decode_list(decode_int_or_str()), {}}}));
}

Decoder decode_options() {
  const Decoder extent_of = decode_array(decode_int(), 3);
  const Decoder profile = decode_object(
      {{"batch", extent_of, {}}, {"explained", decode_optional(extent_of), none}}, check_profile);
  std::vector<Field> fields{{"profiles", decode_list(profile), {}},
                            {"workspace_mib", decode_optional(decode_int()), none},
                            {"optimization_level", decode_int(), Value(std::int64_t{3})},
                            {"compute_capabilities", decode_list(decode_str()), Value::array()}};
  for (const char* flag : {"tf32", "version_compatible", "hardware_compatible", "refit", "strip"}) {
    fields.push_back({flag, decode_bool(), Value(false)});
  }
  return decode_object(std::move(fields), check_options);
}

Decoder decode_sidecar() {
  std::vector<Field> fields{
      {"flavour", decode_choice({"tensorrt", "tensorrt-rtx"}), {}},
      {"version", decode_str(), {}},
      {"precision", decode_choice({"fp32", "fp16", "int8", "int8+fp16"}), {}},
      {"compute_capabilities", decode_list(decode_str()), {}},
      {"device", decode_optional(decode_str()), {}},
      {"options", decode_options(), {}},
      {"inputs", decode_tensors(), {}},
      {"outputs", decode_tensors(), {}},
  };
  for (const char* name : {"manifest", "onnx_sha256", "plan", "plan_sha256", "key"}) {
    fields.push_back({name, decode_str(), {}});
  }
  fields.push_back({"plan_bytes", decode_int(), {}});
  fields.push_back({"build_s", decode_float(), {}});
  fields.push_back({"timing_cache", decode_bool(), Value(false)});
  fields.push_back({"calibration", decode_optional(decode_str()), none});
  fields.push_back({"parity", decode_dict(decode_unread()), Value::object()});
  fields.push_back({"fidelity", decode_dict(decode_unread()), Value::object()});
  fields.push_back({"verified_on", decode_optional(decode_str()), none});
  fields.push_back({"schema_version", decode_int(), Value(sidecar_version)});
  return decode_object(std::move(fields), check_sidecar);
}

// ------------------------------------------------------------------ values into structs

CompileOptions options_of(const Value& value) {
  CompileOptions options;
  for (const Value& item : value["profiles"]) {
    EngineProfile profile{extent(item["batch"]), {}};
    if (!absent(item["explained"])) profile.explained = extent(item["explained"]);
    options.profiles.push_back(profile);
  }
  if (!absent(value["workspace_mib"])) options.workspace_mib = number(value["workspace_mib"]);
  options.optimization_level = number(value["optimization_level"]);
  options.compute_capabilities = texts(value["compute_capabilities"]);
  std::sort(options.compute_capabilities.begin(), options.compute_capabilities.end(),
            [](const auto& one, const auto& other) { return capability(one) < capability(other); });
  options.tf32 = value["tf32"];
  options.version_compatible = value["version_compatible"];
  options.hardware_compatible = value["hardware_compatible"];
  options.refit = value["refit"];
  options.strip = value["strip"];
  return options;
}

void check_sidecar_version(const Value& raw) {
  const auto version = raw.find("schema_version");
  if (version == raw.end() || !version->is_number_integer()) return;
  if (number(*version) > sidecar_version) {
    fail(TAME_INCOMPATIBLE_ERROR, sidecar_name, " has schema version ", number(*version),
         "; this libtame reads up to ", sidecar_version, ". Upgrade libtame");
  }
}

void check_plan_name(const std::string& name) {
  const std::string marks("/\\:\0", 4);
  const auto edge = [](char one) { return one == '.' || one == ' '; };
  if (name.empty() || edge(name.front()) || edge(name.back()) ||
      name.find_first_of(marks) != name.npos) {
    fail(TAME_MANIFEST_ERROR, "engine.plan is ", in_quotes(name), "; expected a plain file name");
  }
}

}  // namespace

std::string Sidecar::shown_precision() const {
  return precision == "fp32" && options.tf32 ? "tf32" : precision;
}

bool Sidecar::runs_on(const Capability& found) const {
  if (!compute_capabilities.empty()) {
    return std::any_of(compute_capabilities.begin(), compute_capabilities.end(),
                       [&](const std::string& one) { return capability(one) == found; });
  }
  if (flavour == "tensorrt-rtx" && not_rtx <= found && found < rtx_again) return false;
  return found >= portable;
}

std::string Sidecar::runs_where() const {
  if (!compute_capabilities.empty()) {
    std::string listed;
    for (const std::string& one : compute_capabilities) {
      listed += (listed.empty() ? "" : " or ") + one;
    }
    return "compute capability " + listed;
  }
  return flavour == "tensorrt-rtx" ? "compute capability 8.x, and 12.0 and later"
                                   : "compute capability 8.0 and later";
}

Sidecar parse_sidecar(const std::string& written) {
  Value value = parse_object(written, sidecar_name);
  check_sidecar_version(value);
  decode_sidecar()(value, "engine");
  if (number(value["schema_version"]) != sidecar_version) {
    fail(TAME_MANIFEST_ERROR, "schema_version is ", number(value["schema_version"]), "; expected ",
         sidecar_version);
  }
  check_plan_name(text(value["plan"]));
  Sidecar sidecar;
  sidecar.flavour = text(value["flavour"]);
  sidecar.version = text(value["version"]);
  sidecar.precision = text(value["precision"]);
  sidecar.compute_capabilities = texts(value["compute_capabilities"]);
  sidecar.options = options_of(value["options"]);
  sidecar.inputs = tensor_specs(value["inputs"]);
  sidecar.outputs = tensor_specs(value["outputs"]);
  sidecar.manifest = text(value["manifest"]);
  sidecar.onnx_sha256 = text(value["onnx_sha256"]);
  sidecar.plan = text(value["plan"]);
  sidecar.plan_sha256 = text(value["plan_sha256"]);
  sidecar.plan_bytes = number(value["plan_bytes"]);
  return sidecar;
}

}  // namespace libtame
