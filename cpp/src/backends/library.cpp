#include "library.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <system_error>

#include "error.hpp"

namespace libtame {
namespace {

namespace fs = std::filesystem;

std::string environment(const char* name) {
  const char* found = std::getenv(name);
  return found ? found : "";
}

/// The library in a directory: the plain name, or the last of its versions.
std::optional<fs::path> find_in(const fs::path& directory, const std::string& file) {
  std::error_code ignored;
  if (fs::is_regular_file(directory / file, ignored)) return directory / file;
  std::vector<fs::path> versions;
  for (fs::directory_iterator entry(directory, ignored), end; !ignored && entry != end;
       entry.increment(ignored)) {
    if (entry->path().filename().string().rfind(file + ".", 0) == 0) versions.push_back(*entry);
  }
  if (versions.empty()) return std::nullopt;
  return *std::max_element(versions.begin(), versions.end());
}

/// The folders below a prefix that Python installs packages into.
void add_site_packages(const fs::path& prefix, std::vector<fs::path>& places) {
  std::error_code ignored;
  for (fs::directory_iterator entry(prefix / "lib", ignored), end; !ignored && entry != end;
       entry.increment(ignored)) {
    if (entry->path().filename().string().rfind("python3", 0) != 0) continue;
    for (const char* name : {"site-packages", "dist-packages"}) {
      if (fs::is_directory(entry->path() / name, ignored)) places.push_back(entry->path() / name);
    }
  }
}

/// Where Python packages lie: of the environment that is active, of each python3 on the PATH, and
/// of the user.
std::vector<fs::path> site_packages() {
  std::vector<fs::path> places;
  for (const char* name : {"VIRTUAL_ENV", "CONDA_PREFIX"}) {
    if (const std::string prefix = environment(name); !prefix.empty()) {
      add_site_packages(prefix, places);
    }
  }
  std::istringstream path(environment("PATH"));
  std::error_code ignored;
  for (std::string directory; std::getline(path, directory, ':');) {
    const fs::path bin(directory);
    if (bin.is_absolute() && fs::exists(bin / "python3", ignored)) {
      add_site_packages(bin.parent_path(), places);
    }
  }
  if (const std::string home = environment("HOME"); !home.empty()) {
    add_site_packages(fs::path(home) / ".local", places);
  }
  return places;
}

std::vector<fs::path> directories(const LibraryWanted& wanted) {
  std::vector<fs::path> places;
  if (const fs::path own = own_directory(); !own.empty()) places.push_back(own);
  for (const fs::path& packages : site_packages()) places.push_back(packages / wanted.wheel);
  std::vector<fs::path> once;
  for (const fs::path& place : places) {
    if (std::find(once.begin(), once.end(), place) == once.end()) once.push_back(place);
  }
  return once;
}

void* load(const std::string& path) { return dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL); }

std::string reason() {
  const char* said = dlerror();
  return said ? said : "no reason was given";
}

}  // namespace

Library Library::open(const LibraryWanted& wanted, const std::string& given) {
  const std::string told = given.empty() ? environment(wanted.environment.c_str()) : given;
  if (!told.empty()) {
    std::error_code ignored;
    const fs::path named(told);
    const auto file = fs::is_directory(named, ignored) ? find_in(named, wanted.file) : named;
    if (!file || !fs::exists(*file, ignored)) {
      fail(TAME_NOT_INSTALLED_ERROR, "backend ", wanted.backend, ": found no ", wanted.file, " at ",
           told, ", which ", given.empty() ? wanted.environment : "the option library", " names");
    }
    if (void* handle = load(file->string())) return Library(handle, file->string());
    fail(TAME_BACKEND_ERROR, "backend ", wanted.backend, " cannot be loaded: ", reason());
  }
  std::string looked;
  for (const fs::path& place : directories(wanted)) {
    looked += place.string() + ", ";
    const auto file = find_in(place, wanted.file);
    if (!file) continue;
    if (void* handle = load(file->string())) return Library(handle, file->string());
    looked.resize(looked.size() - 2);
    looked += " (" + reason() + "), ";
  }
  for (const std::string& name : {wanted.file, wanted.file + ".1"}) {
    if (void* handle = load(name)) return Library(handle, name);
  }
  fail(TAME_NOT_INSTALLED_ERROR, "backend ", wanted.backend, " is not installed: found no ",
       wanted.file, " in ", looked, "nor where the system looks. ", wanted.how, ", or name it in ",
       wanted.environment);
}

void* Library::symbol(const char* name) const {
  if (void* found = dlsym(handle_, name)) return found;
  fail(TAME_INCOMPATIBLE_ERROR, path_, " has no function ", name, "; it is another version");
}

std::filesystem::path own_directory() {
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void*>(&own_directory), &info) == 0 || !info.dli_fname) {
    return {};
  }
  std::error_code failed;
  const fs::path self = fs::canonical(info.dli_fname, failed);
  return failed ? fs::path() : self.parent_path();
}

}  // namespace libtame
