#include "engines.hpp"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <system_error>
#include <tuple>

#include "artifact/sha256.hpp"
#include "artifact/text.hpp"
#include "error.hpp"

namespace libtame {
namespace {

namespace fs = std::filesystem;

constexpr const char* engines_folder = "engines";
constexpr std::size_t shown_digits = 16;

fs::path resolved(const fs::path& path) {
  std::error_code failed;
  fs::path found = fs::weakly_canonical(path, failed);
  if (failed) fail(TAME_MANIFEST_ERROR, path.string(), " cannot be read: ", failed.message());
  return found;
}

bool is_inside(const fs::path& path, const fs::path& parent) {
  const auto [rest, unused] = std::mismatch(parent.begin(), parent.end(), path.begin(), path.end());
  return rest == parent.end();
}

/// The folders of an artifact's engines, by name. Throws Failure: TAME_MANIFEST_ERROR for a link
/// that leads out of the artifact.
std::vector<fs::path> engine_folders(const Artifact& artifact) {
  const fs::path parent = artifact.path / engines_folder;
  std::error_code failed;
  std::vector<fs::path> folders;
  if (!fs::is_directory(parent, failed)) return folders;
  for (fs::directory_iterator entry(parent, failed), end; !failed && entry != end;
       entry.increment(failed)) {
    std::error_code broken;
    const bool hidden = entry->path().filename().string().front() == '.';
    if (!hidden && fs::is_directory(entry->path(), broken)) folders.push_back(entry->path());
  }
  if (failed) fail(TAME_ARTIFACT_ERROR, parent.string(), " cannot be read: ", failed.message());
  std::sort(folders.begin(), folders.end());
  const fs::path inside = resolved(artifact.path);
  for (const fs::path& folder : folders) {
    if (const fs::path target = resolved(folder); !is_inside(target, inside)) {
      fail(TAME_MANIFEST_ERROR, folder.string(), " is a link to ", target.string(),
           ", outside the artifact");
    }
  }
  return folders;
}

std::string sidecar_text(const fs::path& path) {
  std::error_code failed;
  const fs::file_status status = fs::status(path, failed);
  if (status.type() == fs::file_type::not_found) {
    fail(TAME_MANIFEST_ERROR, path.parent_path().string(), " is not an engine: it has no ",
         sidecar_name);
  }
  if (status.type() != fs::file_type::regular) {
    fail(TAME_MANIFEST_ERROR, path.string(), " cannot be read: it is no file");
  }
  std::ifstream file(path, std::ios::binary);
  std::string text(max_sidecar_bytes + 1, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<std::size_t>(file.gcount()));
  if (file.bad() || (file.fail() && !file.eof())) {
    fail(TAME_MANIFEST_ERROR, path.string(), " cannot be read");
  }
  if (text.size() > max_sidecar_bytes) {
    fail(TAME_MANIFEST_ERROR, path.string(), " is over ", max_sidecar_bytes >> 20U,
         " MiB; no sidecar is");
  }
  if (!is_utf8(text)) {
    fail(TAME_MANIFEST_ERROR, path.string(), " cannot be read: it is not UTF-8");
  }
  return text;
}

std::string shortened(const std::string& sha256) { return sha256.substr(0, shown_digits) + "…"; }

void check_graph(const Artifact& artifact, const StoredEngine& engine) {
  std::string expected;
  for (const auto& [name, sha256] : artifact.manifest.files) {
    if (name == "model.onnx") expected = sha256;
  }
  const Sidecar& sidecar = engine.sidecar;
  if (sidecar.onnx_sha256 == expected && sidecar.manifest == artifact.manifest.identity) return;
  fail(TAME_INCOMPATIBLE_ERROR, engine.folder.string(), " was built from graph ",
       shortened(sidecar.onnx_sha256), "; this artifact's is ", shortened(expected),
       ". Rebuild: ", compile_command(artifact, sidecar));
}

std::vector<std::int64_t> numbers(const std::string& version) {
  std::vector<std::int64_t> found;
  std::istringstream parts(version);
  for (std::string part; std::getline(parts, part, '.');) {
    const bool decimal = part.find_first_not_of("0123456789") == part.npos && !part.empty();
    found.push_back(decimal && part.size() < 10 ? std::stoll(part) : 0);
  }
  return found;
}

/// Whether the library is the engine's own version. Python packages of TensorRT that were built
/// from source call themselves by three of the library's four numbers.
bool same_version(const std::string& engine, const std::string& library) {
  const auto parts = 1 + std::count(engine.begin(), engine.end(), '.');
  return engine == library || (parts == 3 && library.rfind(engine + ".", 0) == 0);
}

/// Whether a later version of the library takes an earlier one's engine.
bool loads_later(const Sidecar& sidecar, const std::string& version) {
  return sidecar.options.version_compatible && numbers(version) >= numbers(sidecar.version);
}

void check_machine(const Artifact& artifact, const StoredEngine& engine, const Machine& machine) {
  check_graph(artifact, engine);
  const Sidecar& sidecar = engine.sidecar;
  const std::string rebuild = ". Rebuild: " + compile_command(artifact, sidecar, &machine);
  if (!sidecar.runs_on(machine.capability) ||
      (!same_version(sidecar.version, machine.version) && !loads_later(sidecar, machine.version))) {
    fail(TAME_INCOMPATIBLE_ERROR, engine.folder.string(), ": engine built for ",
         sidecar.runs_where(), " with ", sidecar.version, "; this machine is ",
         machine.capability.first, ".", machine.capability.second, " with ", machine.version,
         rebuild);
  }
  if (sidecar.options.strip) {
    fail(TAME_INCOMPATIBLE_ERROR, engine.folder.string(),
         ": the engine was stripped of its weights, which only Python puts back; expected one that "
         "was compiled without --strip",
         rebuild);
  }
}

using Preference = std::tuple<bool, bool, std::string>;

Preference preference(const StoredEngine& engine) {
  return {engine.sidecar.compute_capabilities.empty(), engine.sidecar.options.tf32,
          engine.folder.filename().string()};
}

/// Read an engine and keep it if it runs here; say why not in `refused`, if it was meant for here.
void consider(const Artifact& artifact, const Machine& machine, const fs::path& folder, bool named,
              std::vector<StoredEngine>& usable, std::vector<Failure>& refused) {
  try {
    StoredEngine engine = read_engine(folder);
    if (engine.sidecar.flavour == machine.flavour) {
      check_machine(artifact, engine, machine);
      usable.push_back(std::move(engine));
    } else if (named) {
      fail(TAME_INCOMPATIBLE_ERROR, folder.string(), " is for ", engine.sidecar.flavour,
           "; expected one for ", machine.flavour);
    }
  } catch (const Failure& failure) {
    if (named) throw;
    const bool meant = folder.filename().string().rfind(machine.flavour + "-", 0) == 0;
    if (failure.status() == TAME_INCOMPATIBLE_ERROR || meant) refused.push_back(failure);
  }
}

[[noreturn]] void refuse(const Artifact& artifact, const Machine& machine, const std::string& name,
                         const std::vector<fs::path>& folders,
                         const std::vector<Failure>& refused) {
  if (refused.size() == 1) throw refused.front();
  std::string all;
  for (const Failure& failure : refused)
    all += (all.empty() ? "" : "; ") + std::string(failure.what());
  if (!all.empty()) fail(TAME_INCOMPATIBLE_ERROR, all);
  std::string known;
  for (const fs::path& folder : folders) {
    known += (known.empty() ? "" : ", ") + folder.filename().string();
  }
  fail(TAME_INCOMPATIBLE_ERROR, artifact.path.string(), " has no ", machine.flavour, " engine",
       name.empty() ? "" : " ", name, " (found: ", known.empty() ? "none" : known,
       "). Make one: tame-deploy compile ", quoted(artifact.path.string()), " --target ",
       machine.flavour);
}

}  // namespace

StoredEngine read_engine(const fs::path& folder) {
  const fs::path path = folder / sidecar_name;
  StoredEngine engine{folder, {}};
  try {
    engine.sidecar = parse_sidecar(sidecar_text(path));
  } catch (const Failure& failure) {
    const std::string message = failure.what();
    const bool says_where = message.find(folder.string()) != message.npos;
    throw Failure(failure.status(), says_where ? message : path.string() + ": " + message);
  }
  const fs::path plan = engine.plan();
  std::error_code failed;
  if (fs::is_symlink(plan, failed) && resolved(plan).parent_path() != resolved(folder)) {
    fail(TAME_MANIFEST_ERROR, plan.string(), " is a link to ", resolved(plan).string(),
         ", outside");
  }
  return engine;
}

StoredEngine choose_engine(const Artifact& artifact, const Machine& machine,
                           const std::string& name) {
  const std::vector<fs::path> folders = engine_folders(artifact);
  std::vector<StoredEngine> usable;
  std::vector<Failure> refused;
  for (const fs::path& folder : folders) {
    if (name.empty() || folder.filename() == name) {
      consider(artifact, machine, folder, !name.empty(), usable, refused);
    }
  }
  if (usable.empty()) refuse(artifact, machine, name, folders, refused);
  return *std::min_element(usable.begin(), usable.end(),
                           [](const StoredEngine& one, const StoredEngine& other) {
                             return preference(one) < preference(other);
                           });
}

std::vector<char> read_plan(const Artifact& artifact, const StoredEngine& engine) {
  const Sidecar& sidecar = engine.sidecar;
  const fs::path path = engine.plan();
  const std::string rebuild = ". Rebuild: " + compile_command(artifact, sidecar);
  std::error_code failed;
  if (!fs::is_regular_file(path, failed)) {
    fail(TAME_CHECKSUM_ERROR, path.string(), " is missing", rebuild);
  }
  const auto size = fs::file_size(path, failed);
  if (failed || sidecar.plan_bytes < 0 || size != static_cast<std::uintmax_t>(sidecar.plan_bytes)) {
    fail(TAME_CHECKSUM_ERROR, path.string(), " has ", size, " bytes; expected ", sidecar.plan_bytes,
         rebuild);
  }
  // Read once: what is hashed is what TensorRT gets, whoever writes the file meanwhile.
  std::vector<char> bytes(size);
  std::ifstream file(path, std::ios::binary);
  file.read(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  if (static_cast<std::uintmax_t>(file.gcount()) != size) {
    fail(TAME_CHECKSUM_ERROR, path.string(), " cannot be read to its end", rebuild);
  }
  const std::string found = sha256({bytes.data(), bytes.size()});
  if (found != sidecar.plan_sha256) {
    fail(TAME_CHECKSUM_ERROR, path.string(), " was altered: its sha256 is ", shortened(found), ", ",
         sidecar_name, " says ", shortened(sidecar.plan_sha256), rebuild);
  }
  return bytes;
}

}  // namespace libtame
