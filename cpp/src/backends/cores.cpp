#include "cores.hpp"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "error.hpp"
#include "warning.hpp"

#if defined(__linux__)
#include <sched.h>
#endif

namespace fs = std::filesystem;

namespace libtame {
namespace {

std::vector<std::string> split(const std::string& text, char at) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, at);) parts.push_back(part);
  return parts;
}

bool holds(const std::vector<std::string>& all, const std::string& one) {
  return std::find(all.begin(), all.end(), one) != all.end();
}

/// A path of mountinfo, which writes spaces and the like as octal numbers.
std::string unescaped(const std::string& text) {
  const auto is_octal = [](char letter) { return letter >= '0' && letter <= '7'; };
  std::string found;
  for (std::size_t at = 0; at < text.size(); ++at) {
    const bool escape = text[at] == '\\' && at + 3 < text.size() && is_octal(text[at + 1]) &&
                        is_octal(text[at + 2]) && is_octal(text[at + 3]);
    if (escape) {
      found += static_cast<char>(std::stoi(text.substr(at + 1, 3), nullptr, 8));
      at += 3;
    } else {
      found += text[at];
    }
  }
  return found;
}

/// A whole number, as a file of a cgroup has it.
std::optional<long long> number(const std::string& text) {
  char* end = nullptr;
  errno = 0;
  const long long found = std::strtoll(text.c_str(), &end, 10);
  const bool rest = std::string(end).find_first_not_of(" \n") != std::string::npos;
  if (end == text.c_str() || rest || errno != 0) return {};
  return found;
}

std::string word(const fs::path& path) {
  std::string found;
  std::ifstream(path) >> found;
  return found;
}

/// A cgroup's own limit, in processors.
std::optional<double> limit_of(const fs::path& folder) {
  std::string quota;
  std::string period;
  std::error_code missing;
  if (fs::is_regular_file(folder / "cpu.max", missing)) {
    std::ifstream(folder / "cpu.max") >> quota >> period;
  } else {
    quota = word(folder / "cpu.cfs_quota_us");
    period = word(folder / "cpu.cfs_period_us");
  }
  const auto first = number(quota);  // "max" is no number
  const auto second = number(period);
  if (!first || !second || *second == 0) return {};
  const double limit = static_cast<double>(*first) / static_cast<double>(*second);
  return limit > 0 ? std::optional(limit) : std::nullopt;
}

/// The least limit of a cgroup and those above it, as far as a mount of `root` shows them.
std::optional<double> least_limit(const fs::path& mount, const fs::path& root,
                                  const fs::path& inner) {
  // Where the path is told from outside the container, the mount is all that can be seen of it.
  const fs::path within = inner.lexically_relative(root);
  const bool seen =
      !within.empty() &&
      std::none_of(inner.begin(), inner.end(), [](const fs::path& p) { return p == ".."; }) &&
      *within.begin() != "..";
  fs::path folder = mount;
  std::optional<double> least = limit_of(folder);
  if (!seen) return least;
  for (const fs::path& part : within) {
    folder /= part;
    const std::optional<double> limit = limit_of(folder);
    if (limit) least = least ? std::min(*least, *limit) : *limit;
  }
  return least;
}

/// The process's cgroups, by the kind of their file system.
std::map<std::string, std::string> memberships(const fs::path& process) {
  std::map<std::string, std::string> paths;
  std::ifstream file(process / "cgroup");
  for (std::string line; std::getline(file, line);) {
    const auto first = line.find(':');
    const auto second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    if (controllers.empty()) paths["cgroup2"] = line.substr(second + 1);
    if (holds(split(controllers, ','), "cpu")) paths["cgroup"] = line.substr(second + 1);
  }
  return paths;
}

#if defined(__linux__)
/// The numbers of the processors that the process may run on; none where the system does not say.
std::set<int> affinity() {
  for (int most = CPU_SETSIZE; most <= 1 << 16; most *= 4) {
    cpu_set_t* found = CPU_ALLOC(static_cast<std::size_t>(most));
    if (!found) return {};
    const std::size_t size = CPU_ALLOC_SIZE(static_cast<std::size_t>(most));
    const bool told = sched_getaffinity(0, size, found) == 0;
    std::set<int> numbers;
    for (int one = 0; told && one < most; ++one) {
      if (CPU_ISSET_S(static_cast<std::size_t>(one), size, found)) numbers.insert(one);
    }
    CPU_FREE(found);
    if (told) return numbers;
  }
  return {};
}
#else
std::set<int> affinity() { return {}; }
#endif

int machine_processors() {
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

/// How many processors the machine has, the mask aside: hardware_concurrency follows the mask.
int online_processors() {
  std::ifstream file("/sys/devices/system/cpu/online");
  std::string ranges;
  file >> ranges;
  int count = 0;
  for (const std::string& range : split(ranges, ',')) {
    const std::vector<std::string> ends = split(range, '-');
    const auto low = ends.empty() ? std::nullopt : number(ends.front());
    const auto high = ends.empty() ? std::nullopt : number(ends.back());
    if (low && high) count += static_cast<int>(*high - *low) + 1;
  }
  return count > 0 ? count : machine_processors();
}

int within_quota(int count) {
  const std::optional<double> quota = cpu_quota();
  if (!quota || *quota >= count) return std::max(1, count);
  return std::max(1, static_cast<int>(std::ceil(*quota)));
}

}  // namespace

std::optional<double> cpu_quota(const fs::path& process) {
  const auto paths = memberships(process);
  std::optional<double> least;
  std::ifstream file(process / "mountinfo");
  for (std::string line; std::getline(file, line);) {
    const auto middle = line.find(" - ");
    if (middle == std::string::npos) continue;
    const std::vector<std::string> fields = split(line.substr(0, middle), ' ');
    const std::vector<std::string> described = split(line.substr(middle + 3), ' ');
    if (fields.size() < 5 || described.empty()) continue;
    const auto path = paths.find(described.front());
    const bool is_cpu = described.front() != "cgroup" || holds(split(described.back(), ','), "cpu");
    if (path == paths.end() || !is_cpu) continue;
    const auto limit = least_limit(unescaped(fields[4]), unescaped(fields[3]), path->second);
    if (limit) least = least ? std::min(*least, *limit) : *limit;
  }
  return least;
}

int usable_processors() {
  const std::set<int> numbers = affinity();
  return within_quota(numbers.empty() ? machine_processors() : static_cast<int>(numbers.size()));
}

int usable_cores() {
  std::set<std::string> cores;
  for (const int one : affinity()) {
    const std::string name = std::to_string(one);
    const std::string siblings =
        word("/sys/devices/system/cpu/cpu" + name + "/topology/thread_siblings_list");
    cores.insert(siblings.empty() ? name : siblings);
  }
  return within_quota(cores.empty() ? machine_processors() : static_cast<int>(cores.size()));
}

int threads_for(int asked) {
  const int usable = usable_processors();
  if (asked <= 0) return usable < online_processors() ? usable_cores() : 0;
  if (asked > usable) {
    warn(
        words("found threads ", asked, " where this process may use ", usable, " processor",
              usable == 1 ? "" : "s",
              "; the others wait for each other, at many times the time: leave threads out, or ask "
              "for at most ",
              usable));
  }
  return asked;
}

}  // namespace libtame
