// Shared libraries that are found and loaded while the program runs.
#pragma once

#include <filesystem>
#include <map>
#include <mutex>
#include <string>
#include <vector>

namespace libtame {

/// What is looked for, and what to say where it is missing.
struct LibraryWanted {
  std::string backend;      // "onnxruntime"
  std::string file;         // "libonnxruntime.so"; versions of it may follow
  std::string environment;  // variable that names the file or its directory
  std::string wheel;        // where a Python package has it: "onnxruntime/capi"
  std::string how;          // how to get it
};

/// A loaded library. It is never unloaded: its threads and atexit functions may outlive us.
class Library {
 public:
  /// The library that `given` (a file or directory; "" for none) or the environment names, or else
  /// the first that is found. Throws Failure: TAME_NOT_INSTALLED_ERROR with every place looked at.
  static Library open(const LibraryWanted& wanted, const std::string& given);

  const std::string& path() const { return path_; }

  /// A function of the library. Throws Failure: TAME_INCOMPATIBLE_ERROR if it has none.
  template <typename Function>
  Function* function(const char* name) const {
    return reinterpret_cast<Function*>(symbol(name));
  }

 private:
  Library(void* handle, std::string path) : handle_(handle), path_(std::move(path)) {}
  void* symbol(const char* name) const;

  void* handle_;
  std::string path_;
};

/// What `load` made of a library, once for each that was named: sessions share it, and nobody can say
/// when the last of its threads has ended, so it is never freed.
template <typename Runtime>
const Runtime& loaded_once(const std::string& given, Runtime (*load)(const std::string&)) {
  static std::mutex lock;
  static auto& loaded = *new std::map<std::string, Runtime>;
  const std::lock_guard guard(lock);
  const auto found = loaded.find(given);
  return found != loaded.end() ? found->second : loaded.emplace(given, load(given)).first->second;
}

/// The directory that libtame itself lies in; empty where that cannot be told.
std::filesystem::path own_directory();

}  // namespace libtame
