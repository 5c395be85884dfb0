#include "verify/trust.hpp"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iomanip>
#include <nlohmann/json.hpp>
#include <optional>
#include <random>

#include "artifact/sha256.hpp"
#include "backends/processor.hpp"
#include "error.hpp"
#include "verify/deviation.hpp"
#include "verify/reference.hpp"
#include "warning.hpp"

namespace fs = std::filesystem;

namespace libtame {
namespace {

using Json = nlohmann::json;

/// As in tame_deploy/runtime/verify/parity.py and comparison.py.
constexpr double recorded_factor = 1.5;
constexpr double logit_tolerance = 1e-3;
constexpr double map_tolerance = 5e-3;
constexpr double rough_logits = 0.2;
constexpr double rough_maps = 0.8;

constexpr std::size_t most_verdict_bytes = 1 << 16;

/// What a file of the cache says: how far from PyTorch, or what was wrong at all.
struct Verdict {
  std::optional<Deviation> deviation;
  std::string fault;
};

std::string library_of(const Backend& backend, const Options& options) {
  const std::string version = backend.version();
  // OpenVINO adds the number of its build, and of its commit.
  if (options.backend == "openvino") return "openvino " + version.substr(0, version.find('-'));
  return "onnxruntime (CPU) " + version;
}

std::string kernels() {
  std::string text = machine_name();
  const std::vector<std::string> found = instructions();
  for (const std::string& name : found) text += " " + name;
  return found.empty() ? text + " " + processor_name() : text;
}

/// All that the answer depends on.
std::vector<std::string> question(const Artifact& artifact, const Computed& computed) {
  return {"graph " + computed.graph,
          "reference " + listed_sha256(artifact.manifest, reference_name),
          "library " + computed.library, "arithmetic " + computed.arithmetic,
          "kernels " + computed.kernels};
}

/// The file that has the answer, once it is known; "" where nothing can be kept.
fs::path place_of(const std::vector<std::string>& about) {
  const fs::path cache = cache_directory();
  if (cache.empty()) return {};
  std::string text;
  for (const std::string& line : about) text += (text.empty() ? "" : "\n") + line;
  return cache / "verdicts" / (sha256(text) + ".json");
}

/// The answer that an earlier opening found, by libtame or in Python.
std::optional<Verdict> known_verdict(const fs::path& path, const std::vector<std::string>& about) {
  std::string text(most_verdict_bytes, '\0');
  std::ifstream file(path, std::ios::binary);
  if (path.empty() || !file) return {};
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<std::size_t>(file.gcount()));
  try {
    const Json found = Json::parse(text);
    if (found.at("about") != Json(about)) return {};
    if (found.at("deviation").is_null()) return Verdict{{}, found.at("fault").get<std::string>()};
    const Json& errors = found.at("deviation");
    return Verdict{
        Deviation{errors.at("logit_error"), errors.at("map_error"), errors.at("map_correlation")},
        ""};
  } catch (const Json::exception&) {
    return {};
  }
}

/// Keep an answer; where that cannot be, it is found again at the next opening.
void keep(const fs::path& path, const std::vector<std::string>& about, const Verdict& verdict) {
  Json found{{"about", about}, {"deviation", nullptr}, {"fault", nullptr}};
  if (verdict.deviation) {
    found["deviation"] = {{"logit_error", verdict.deviation->logit_error},
                          {"map_error", verdict.deviation->map_error},
                          {"map_correlation", verdict.deviation->map_correlation}};
  } else {
    found["fault"] = verdict.fault;
  }
  std::error_code error;
  fs::create_directories(path.parent_path(), error);
  const fs::path partial = path.parent_path() / words(".", path.filename().string(), ".",
                                                      std::random_device()(), ".partial");
  {
    std::ofstream file(partial, std::ios::binary);
    file << found.dump(1);
    if (!file.flush()) error = std::make_error_code(std::errc::io_error);
  }
  // A reader sees the old file or the new one, never a part.
  if (!error) fs::rename(partial, path, error);
  if (!error) return;
  std::error_code ignored;
  fs::remove(partial, ignored);
  warn("the verdict is not kept, and will be measured again: " + path.parent_path().string() +
       " cannot be written");
}

Verdict measure(Backend& backend, const Artifact& artifact) {
  const Reference reference = read_reference(artifact);
  try {
    return {measure_deviation(backend, artifact.manifest, reference), ""};
  } catch (const Fault& fault) {
    return {{}, fault.what()};
  }
}

std::string percent(double share) {
  return words(std::fixed, std::setprecision(2), 100 * share, "%");
}

/// What speaks against an answer; "" for nothing.
std::string objection(const Verdict& verdict, const Artifact& artifact, const Computed& computed) {
  if (!verdict.deviation) return verdict.fault + ". Run the float32 artifact, or quantize here";
  const Deviation& found = *verdict.deviation;
  const auto& recorded = artifact.manifest.recorded;
  if (computed.arithmetic == "bf16" || !recorded) {
    if (found.logit_error <= rough_logits && found.map_correlation >= rough_maps) return "";
    return words("logits are off by ", percent(found.logit_error),
                 " of their range and maps correlate by ", std::fixed, std::setprecision(2),
                 found.map_correlation, " with PyTorch's");
  }
  if (found.logit_error <= recorded_factor * recorded->logit_error + logit_tolerance &&
      found.map_error <= recorded_factor * recorded->map_error + map_tolerance) {
    return "";
  }
  return words(
      "logits are off by ", percent(found.logit_error), " and maps by ", percent(found.map_error),
      " of their range here; where this artifact was made it was ", percent(recorded->logit_error),
      " and ", percent(recorded->map_error), ". Run the float32 artifact, or quantize here");
}

}  // namespace

fs::path cache_directory() {
  const auto variable = [](const char* name) -> fs::path {
    const char* found = std::getenv(name);
    return found == nullptr ? "" : found;
  };
  if (fs::path chosen = variable("TAME_DEPLOY_CACHE"); !chosen.empty()) return chosen;
#if defined(_WIN32)
  const fs::path home = variable("LOCALAPPDATA");
  return home.empty() ? home : home / "tame-deploy" / "Cache";
#elif defined(__APPLE__)
  const fs::path home = variable("HOME");
  return home.empty() ? home : home / "Library" / "Caches" / "tame-deploy";
#else
  const fs::path cache = variable("XDG_CACHE_HOME");
  const fs::path home = variable("HOME");
  if (!cache.empty()) return cache / "tame-deploy";
  return home.empty() ? home : home / ".cache" / "tame-deploy";
#endif
}

Computed computed_by_processor(const Backend& backend, const Artifact& artifact,
                               const Options& options) {
  Computed computed;
  computed.graph = listed_sha256(artifact.manifest, "model.onnx");
  computed.library = library_of(backend, options);
  if (options.precision == "bf16") computed.arithmetic = "bf16";
  computed.device = processor_and_sets();
  computed.kernels = kernels();
  computed.others = options.backend == "openvino" ? "onnxruntime" : "openvino";
  return computed;
}

void hold_to_reference(Backend& backend, const Artifact& artifact,
                       const std::function<Computed()>& computed) {
  const Manifest& manifest = artifact.manifest;
  if (manifest.precision == "fp32") return;
  if (listed_sha256(manifest, reference_name).empty()) {
    warn(words(artifact.path.string(), ": found no ", reference_name,
               "; whether this processor computes the ", manifest.precision,
               " graph as it was made cannot be checked: quantize again"));
    return;
  }
  const Computed by = computed();
  const std::vector<std::string> about = question(artifact, by);
  const fs::path path = place_of(about);
  std::optional<Verdict> verdict = known_verdict(path, about);
  if (!verdict) {
    verdict = measure(backend, artifact);
    if (!path.empty()) keep(path, about, *verdict);
  }
  const std::string against = objection(*verdict, artifact, by);
  if (against.empty()) return;
  fail(TAME_PARITY_ERROR, artifact.path.string(), ": ", by.library, " computes this ",
       manifest.precision, " graph otherwise than it was made, on ", by.device, ": ", against,
       ", or use backend ", by.others);
}

}  // namespace libtame
