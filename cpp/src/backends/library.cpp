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

/// The numbers of "libx.so.1.20.1" behind "libx.so"; empty if something else follows.
std::vector<int> version_of(const std::string& name, const std::string& file) {
  if (name.rfind(file + ".", 0) != 0) return {};
  std::vector<int> numbers;
  std::istringstream parts(name.substr(file.size() + 1));
  for (std::string part; std::getline(parts, part, '.');) {
    const bool digits = part.find_first_not_of("0123456789") == std::string::npos;
    if (part.empty() || !digits || part.size() > 8) return {};
    numbers.push_back(std::stoi(part));
  }
  return numbers;
}

/// The library in a directory: the plain name, or the last of its versions.
std::optional<fs::path> find_in(const fs::path& directory, const std::string& file) {
  std::error_code ignored;
  if (fs::is_regular_file(directory / file, ignored)) return directory / file;
  std::pair<std::vector<int>, fs::path> last;
  for (fs::directory_iterator entry(directory, ignored), end; !ignored && entry != end;
       entry.increment(ignored)) {
    std::vector<int> version = version_of(entry->path().filename().string(), file);
    if (version > last.first) last = {std::move(version), entry->path()};
  }
  if (last.first.empty()) return std::nullopt;
  return last.second;
}

/// The folders below a prefix that Python installs packages into.
void add_site_packages(const fs::path& prefix, std::vector<fs::path>& places) {
  std::error_code ignored;
  for (const char* lib : {"lib", "lib64"}) {
    for (fs::directory_iterator entry(prefix / lib, ignored), end; !ignored && entry != end;
         entry.increment(ignored)) {
      if (entry->path().filename().string().rfind("python3", 0) != 0) continue;
      for (const char* name : {"site-packages", "dist-packages"}) {
        if (fs::is_directory(entry->path() / name, ignored)) {
          places.push_back(entry->path() / name);
        }
      }
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
  add_site_packages("/usr/local", places);  // where Debian's python3 of /usr/bin has pip install to
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
    // Absolute, for a bare name would be looked for where the system looks.
    const fs::path place = fs::absolute(named, ignored);
    const auto file = fs::is_directory(place, ignored) ? find_in(place, wanted.file) : place;
    if (!file || !fs::exists(*file, ignored)) {
      fail(TAME_NOT_INSTALLED_ERROR, "backend ", wanted.backend, ": found no ", wanted.file, " at ",
           told, ", which ", given.empty() ? wanted.environment : "the option library", " names");
    }
    if (void* handle = load(file->string())) return Library(handle, file->string());
    fail(TAME_BACKEND_ERROR, "backend ", wanted.backend, " cannot be loaded: ", reason(),
         ". Name another in ", wanted.environment, ", or none, to have it looked for");
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
       wanted.file, " in ", looked, "nor where the system looks. ", wanted.how,
       ", activate the environment that has it, or name it in ", wanted.environment,
       " (tame-deploy cpp tells)");
}

void* Library::symbol(const char* name) const {
  if (void* found = dlsym(handle_, name)) return found;
  fail(TAME_INCOMPATIBLE_ERROR, path_, " has no function ", name,
       "; it is another library, or another version of it");
}

std::filesystem::path own_directory() {
  Dl_info info{};
  if (dladdr(reinterpret_cast<const void*>(&own_directory), &info) == 0 || !info.dli_fname) {
    return {};
  }
  std::error_code failed;
  // Within a program, the loader tells what the program was called, which is no place.
  const bool placed = fs::path(info.dli_fname).is_absolute();
  const fs::path self =
      placed ? fs::canonical(info.dli_fname, failed) : fs::read_symlink("/proc/self/exe", failed);
  return failed ? fs::path() : self.parent_path();
}

}  // namespace libtame
