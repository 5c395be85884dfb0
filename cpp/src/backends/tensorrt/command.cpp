// The command that makes an engine again.
#include <cctype>
#include <cstring>

#include "engines.hpp"
#include "error.hpp"

namespace libtame {
namespace {

std::string extent(const Extent& values) {
  return words(values[0], ",", values[1], ",", values[2]);
}

void add_flags(const CompileOptions& options, std::vector<std::string>& parts) {
  const std::pair<bool, const char*> flags[] = {
      {options.tf32, "--tf32"},
      {options.version_compatible, "--version-compatible"},
      {options.hardware_compatible, "--hardware-compatible"},
      {options.refit, "--refit"},
      {options.strip, "--strip"}};
  for (const auto& [given, flag] : flags) {
    if (given) parts.emplace_back(flag);
  }
}

void add_options(const CompileOptions& options, std::vector<std::string>& parts) {
  const auto add = [&](const char* option, const std::string& value) {
    parts.emplace_back(option);
    parts.push_back(value);
  };
  for (const EngineProfile& profile : options.profiles) add("--batch", extent(profile.batch));
  // All profiles share it: it is one option of the command.
  if (const auto& explained = options.profiles.front().explained) {
    add("--explained", extent(*explained));
  }
  if (options.workspace_mib) add("--workspace", std::to_string(*options.workspace_mib));
  if (options.optimization_level != 3) {
    add("--optimization-level", std::to_string(options.optimization_level));
  }
  for (const std::string& one : options.compute_capabilities) add("--compute-capability", one);
  add_flags(options, parts);
}

}  // namespace

// As Python's shlex.quote writes it.
std::string quoted(const std::string& word) {
  const auto safe = [](char one) {
    const auto byte = static_cast<unsigned char>(one);
    return byte < 128 && (std::isalnum(byte) != 0 || std::strchr("_@%+=:,./-", one) != nullptr);
  };
  bool plain = !word.empty();
  std::string text = "'";
  for (const char one : word) {
    plain = plain && one != '\0' && safe(one);
    if (one == '\'') {
      text += "'\"'\"'";
    } else {
      text += one;
    }
  }
  return plain ? word : text + "'";
}

std::string compile_command(const Artifact& artifact, const Sidecar& sidecar,
                            const Machine* machine) {
  Sidecar wanted = sidecar;
  if (machine != nullptr && !sidecar.runs_on(machine->capability)) {
    wanted.options.compute_capabilities.clear();
    wanted.compute_capabilities.clear();
    // TensorRT builds for any GPU that it finds.
    if (!wanted.runs_on(machine->capability)) wanted.flavour = "tensorrt";
  }
  // A stripped engine needs its graph's weights put back, which only Python does.
  wanted.options.strip = false;
  std::vector<std::string> parts{"tame-deploy", "compile", artifact.path.string(), "--target",
                                 wanted.flavour};
  if (machine != nullptr && machine->device != 0 && wanted.flavour == "tensorrt") {
    parts.emplace_back("--device");
    parts.push_back(std::to_string(machine->device));
  }
  add_options(wanted.options, parts);
  parts.emplace_back("--rebuild");
  std::string text;
  for (const std::string& part : parts) text += (text.empty() ? "" : " ") + quoted(part);
  return text;
}

}  // namespace libtame
