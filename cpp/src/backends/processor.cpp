#include "processor.hpp"

#include <algorithm>
#include <array>
#include <fstream>
#include <map>
#include <sstream>
#include <utility>

#if defined(__unix__) || defined(__APPLE__)
#include <sys/utsname.h>
#endif

namespace libtame {
namespace {

/// What kernels are chosen by, as /proc/cpuinfo spells it, and the usual word for it; none for what
/// is too common to be worth one.
constexpr std::array<std::pair<const char*, const char*>, 26> known_sets{{
    {"avx", ""},
    {"avx2", "avx2"},
    {"fma", ""},
    {"f16c", ""},
    {"avx512f", "avx512"},
    {"avx512bw", "avx512"},
    {"avx512vl", "avx512"},
    {"avx512dq", "avx512"},
    {"avx512_vnni", "vnni"},
    {"avx_vnni", "vnni"},
    {"avx_vnni_int8", "vnni"},
    {"avx512_bf16", "bf16"},
    {"avx512_fp16", "fp16"},
    {"amx_tile", "amx"},
    {"amx_int8", "amx"},
    {"amx_bf16", "amx"},
    {"amx_fp16", "amx"},
    {"neon", "neon"},
    {"asimd", "neon"},
    {"asimdhp", "fp16"},
    {"asimddp", "dotprod"},
    {"i8mm", "i8mm"},
    {"bf16", "bf16"},
    {"sve", "sve"},
    {"sve2", "sve2"},
    {"sme", "sme"},
}};

std::string stripped(const std::string& text) {
  const auto first = text.find_first_not_of(" \t");
  const auto last = text.find_last_not_of(" \t");
  return first == std::string::npos ? "" : text.substr(first, last - first + 1);
}

/// What the system says of the first processor.
std::map<std::string, std::string> fields() {
  std::map<std::string, std::string> found;
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line) && !line.empty();) {
    const auto colon = line.find(':');
    if (colon == std::string::npos) continue;
    found[stripped(line.substr(0, colon))] = stripped(line.substr(colon + 1));
  }
  return found;
}

/// The first of some fields that says anything.
std::string field(const std::vector<std::string>& names) {
  const auto all = fields();
  for (const std::string& name : names) {
    const auto found = all.find(name);
    if (found != all.end() && !found->second.empty()) return found->second;
  }
  return "";
}

}  // namespace

std::string machine_name() {
#if defined(__unix__) || defined(__APPLE__)
  utsname told{};
  if (uname(&told) == 0) return told.machine;
#endif
  return "unknown";
}

std::string processor_name() {
  const std::string name = field({"model name"});
  return name.empty() ? machine_name() : name;
}

std::vector<std::string> instructions() {
  std::istringstream flags(field({"flags", "Features"}));
  std::vector<std::string> have;
  for (std::string flag; flags >> flag;) have.push_back(flag);
  std::vector<std::string> found;
  for (const auto& one : known_sets) {
    if (std::find(have.begin(), have.end(), one.first) != have.end()) found.emplace_back(one.first);
  }
  return found;
}

std::string processor_and_sets() {
  std::vector<std::string> sets;
  for (const std::string& name : instructions()) {
    const auto one = std::find_if(known_sets.begin(), known_sets.end(),
                                  [&](const auto& entry) { return name == entry.first; });
    const std::string word = one->second;
    if (!word.empty() && std::find(sets.begin(), sets.end(), word) == sets.end()) {
      sets.push_back(word);
    }
  }
  std::string all;
  for (const std::string& word : sets) all += (all.empty() ? "" : " ") + word;
  if (all.empty()) all = machine_name() + ", instruction sets unknown";
  return processor_name() + " (" + all + ")";
}

}  // namespace libtame
