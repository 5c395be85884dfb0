// Threads follow the affinity mask and the container's quota, as in Python.
#include "backends/cores.hpp"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "warning.hpp"

#if defined(__linux__)
#include <sched.h>
#endif

namespace fs = std::filesystem;

namespace libtame {
namespace {

class Folder {
 public:
  Folder() {
    std::string name = (fs::temp_directory_path() / "tame-XXXXXX").string();
    path_ = mkdtemp(name.data());
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  ~Folder() { fs::remove_all(path_); }

  void write(const std::string& name, const std::string& text) const {
    fs::create_directories((path_ / name).parent_path());
    std::ofstream(path_ / name) << text;
  }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

std::string replaced(std::string text, const std::string& what, const std::string& by) {
  for (auto at = text.find(what); at != std::string::npos; at = text.find(what, at + by.size())) {
    text.replace(at, what.size(), by);
  }
  return text;
}

TEST(Cores, TheQuotaIsTheLeastOfTheCgroups) {
  std::ifstream file(std::string(TAME_GOLDEN) + "/cores.json");
  const auto cases = nlohmann::json::parse(file);
  ASSERT_FALSE(cases.empty());
  for (const auto& one : cases) {
    const Folder folder;
    for (const auto& [name, text] : one["files"].items()) folder.write(name, text);
    folder.write("self/cgroup", one["cgroup"]);
    folder.write("self/mountinfo", replaced(one["mountinfo"], "ROOT", folder.path().string()));
    const auto found = cpu_quota(folder.path() / "self");
    const auto& expected = one["quota"];
    EXPECT_EQ(found, expected.is_null() ? std::nullopt : std::optional<double>(expected))
        << one["name"];
  }
}

TEST(Cores, ASystemWithoutCgroupsHasNoQuota) { EXPECT_FALSE(cpu_quota("/nowhere").has_value()); }

TEST(Cores, MoreThreadsThanProcessorsAreWarnedOf) {
  warn("");
  EXPECT_EQ(threads_for(usable_processors()), usable_processors());
  EXPECT_STREQ(last_warning, "");
  EXPECT_EQ(threads_for(100000), 100000);
  EXPECT_EQ(std::string(last_warning).rfind("found threads 100000 where this process may use", 0),
            0);
}

#if defined(__linux__)
TEST(Cores, TheAffinityMaskCounts) {
  cpu_set_t before;
  ASSERT_EQ(sched_getaffinity(0, sizeof before, &before), 0);
  int first = 0;
  while (!CPU_ISSET(first, &before)) ++first;
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(first, &one);
  ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
  const int processors = usable_processors();
  const int cores = usable_cores();
  const int threads = threads_for(0);
  sched_setaffinity(0, sizeof before, &before);
  EXPECT_EQ(processors, 1);
  EXPECT_EQ(cores, 1);
  EXPECT_LE(threads, 1);  // 0 on a machine with one processor
}
#endif

}  // namespace
}  // namespace libtame
