#include "artifact/artifact.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <memory>
#include <system_error>

#include "artifact/onnx_metadata.hpp"
#include "artifact/sha256.hpp"
#include "artifact/text.hpp"
#include "error.hpp"

namespace fs = std::filesystem;

namespace libtame {

namespace {

constexpr const char* manifest_name = "manifest.json";
constexpr std::size_t mib = std::size_t{1} << 20;
constexpr std::size_t max_manifest_bytes = 16 * mib;
constexpr std::size_t max_labels_bytes = 64 * mib;  // names of a million classes

struct CloseFile {
  void operator()(std::FILE* file) const { std::fclose(file); }
};

/// Give a file's bytes away block by block. Returns errno, or 0.
template <typename Take>
int read_blocks(const std::string& path, const Take& take) {
  errno = 0;
  const std::unique_ptr<std::FILE, CloseFile> file(std::fopen(path.c_str(), "rbe"));
  if (file == nullptr) {
    return errno;
  }
  std::setvbuf(file.get(), nullptr, _IONBF, 0);  // the blocks are large enough
  std::string block(mib, '\0');
  while (const std::size_t count = std::fread(block.data(), 1, block.size(), file.get())) {
    if (!take(std::string_view(block).substr(0, count))) {
      return 0;
    }
  }
  return std::ferror(file.get()) != 0 ? errno : 0;
}

std::string error_words(int code) { return std::generic_category().message(code); }

/// Read a file that is no longer than `most`. Returns errno, or 0; more bytes are not read.
int read_file(const std::string& path, std::size_t most, std::string& bytes) {
  return read_blocks(path, [&](std::string_view block) {
    bytes.append(block);
    return bytes.size() <= most;
  });
}

void check_directory(const std::string& root) {
  std::error_code error;
  const fs::file_status status = fs::status(root, error);
  if (status.type() == fs::file_type::directory) {
    return;
  }
  const int code = error.value();
  if (code != 0 && code != ENOENT && code != ENOTDIR && code != ELOOP) {
    fail(TAME_ARTIFACT_ERROR, root, " cannot be read: ", error_words(code));
  }
  fail(TAME_ARTIFACT_ERROR, root, ": expected an artifact directory, found ",
       code == 0 ? "a file" : "nothing", ". Make one: tame-deploy export --backbone NAME -o DIR");
}

/// The text of manifest.json.
std::string read_manifest(const std::string& root, const std::string& path) {
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  int code = error.value();
  std::string text;
  if (code == 0 && status.type() == fs::file_type::directory) {
    code = EISDIR;
  } else if (code == 0 && status.type() != fs::file_type::regular) {
    fail(TAME_MANIFEST_ERROR, path, " cannot be read: it is no regular file");
  }
  if (code == 0) {
    code = read_file(path, max_manifest_bytes, text);
  }
  if (code == ENOENT) {
    fail(TAME_MANIFEST_ERROR, root, " is not an artifact: it has no ", manifest_name);
  }
  if (code != 0) {
    fail(TAME_MANIFEST_ERROR, path, " cannot be read: ", error_words(code));
  }
  if (text.size() > max_manifest_bytes) {
    fail(TAME_MANIFEST_ERROR, path, " is over ", max_manifest_bytes / mib, " MiB; no manifest is");
  }
  if (!is_utf8(text)) {
    fail(TAME_MANIFEST_ERROR, path, " cannot be read: it is not UTF-8");
  }
  return text;
}

/// Check a listed name, refusing every way out of the artifact. Returns the path to open.
std::string contained(const std::string& root, const std::string& name) {
  const fs::path parts(name);
  const bool inside = !name.empty() && name.front() != '/' &&
                      std::find(parts.begin(), parts.end(), "..") == parts.end();
  if (!inside || name.find_first_of(std::string_view("\\:\0", 3)) != std::string::npos) {
    fail(TAME_MANIFEST_ERROR, root, ": the manifest names ", in_quotes(name),
         ", outside the artifact");
  }
  std::string path = root + "/" + name.substr(0, name.find_last_not_of('/') + 1);
  std::error_code error;
  const fs::path resolved = fs::canonical(path, error);
  if (error) {
    fail(TAME_CHECKSUM_ERROR, in_quotes(path), " is missing. Export the artifact again");
  }
  const fs::path home = fs::canonical(root, error);
  if (std::mismatch(home.begin(), home.end(), resolved.begin(), resolved.end()).first !=
      home.end()) {
    fail(TAME_MANIFEST_ERROR, path, " is a link to ", resolved.string(), ", outside the artifact");
  }
  if (!fs::is_regular_file(resolved, error)) {
    fail(TAME_CHECKSUM_ERROR, path, " is not a file. Export the artifact again");
  }
  return path;
}

void check_file(const std::string& root, const std::string& name, const std::string& expected) {
  const std::string path = contained(root, name);
  const std::string found = file_sha256(path);
  if (found != expected) {
    fail(TAME_CHECKSUM_ERROR, path, " was altered: its sha256 is ", found.substr(0, 16),
         "…, the manifest says ", in_quotes(expected.substr(0, 16)),
         "…. Export the artifact again");
  }
}

/// Whether the graph can be asked which manifest it was exported with; if so, it has to be this.
bool check_identity(const Artifact& artifact) {
  const std::string path = artifact.model().string();
  std::error_code error;
  const std::uintmax_t size = fs::file_size(path, error);
  std::ifstream stream(path, std::ios::binary);
  const std::string& identity = artifact.manifest.identity;
  const OnnxMetadata found =
      find_onnx_metadata(stream, error ? 0 : size, "tame.manifest", identity.size());
  if (found.is_model && found.value != identity) {
    fail_foreign_graph(artifact);
  }
  return found.is_model;
}

/// Text with the line ends that Python makes of others.
std::string with_plain_line_ends(const std::string& text) {
  std::string out;
  for (std::size_t at = 0; at < text.size(); ++at) {
    if (text[at] != '\r') {
      out += text[at];
    } else if (at + 1 == text.size() || text[at + 1] != '\n') {
      out += '\n';
    }
  }
  return out;
}

std::vector<std::string> split_lines(std::string text) {
  if (!text.empty() && text.back() == '\n') {
    text.pop_back();
  }
  std::vector<std::string> lines(1);
  for (const char letter : text) {
    if (letter == '\n') {
      lines.emplace_back();
    } else {
      lines.back() += letter;
    }
  }
  return lines;
}

std::vector<std::string> read_labels(const std::string& root, const Manifest& manifest) {
  const std::string path = root + "/" + manifest.labels;
  std::string text;
  if (const int code = read_file(path, max_labels_bytes, text)) {
    fail(TAME_MANIFEST_ERROR, manifest.labels, " cannot be read: ", error_words(code));
  }
  if (text.size() > max_labels_bytes) {
    fail(TAME_MANIFEST_ERROR, manifest.labels, " is over ", max_labels_bytes / mib,
         " MiB; no list of classes is");
  }
  if (!is_utf8(text)) {
    fail(TAME_MANIFEST_ERROR, manifest.labels, " cannot be read: it is not UTF-8");
  }
  std::vector<std::string> labels = split_lines(with_plain_line_ends(text));
  if (labels.size() != static_cast<std::size_t>(manifest.classes)) {
    fail(TAME_MANIFEST_ERROR, manifest.labels, " has ", labels.size(),
         " lines; expected one for each of the ", manifest.classes, " classes");
  }
  return labels;
}

/// Do something, and name the manifest in the errors that it throws.
template <typename Work>
auto naming(const std::string& path, const Work& work) {
  try {
    return work();
  } catch (const Failure& failure) {
    fail(failure.status(), path, ": ", failure.what());
  }
}

}  // namespace

void fail_foreign_graph(const Artifact& artifact) {
  fail(TAME_INCOMPATIBLE_ERROR, artifact.path.string(),
       ": model.onnx was not exported with this manifest.json "
       "(one of them was replaced or edited). Export the artifact again");
}

Artifact open_artifact(const fs::path& path) {
  if (path.empty()) {  // which would be the working directory
    fail(TAME_ARTIFACT_ERROR, "found an empty path; expected the directory of an artifact");
  }
  const std::string root = path.string();
  check_directory(root);
  const std::string manifest_path = root + "/" + manifest_name;
  const std::string text = read_manifest(root, manifest_path);
  Artifact artifact;
  artifact.path = root;
  artifact.manifest = naming(manifest_path, [&] { return parse_manifest(text); });
  for (const auto& [name, sha256] : artifact.manifest.files) {
    check_file(root, name, sha256);
  }
  artifact.graph_is_checked = check_identity(artifact);
  artifact.labels = read_labels(root, artifact.manifest);
  naming(manifest_path, [&] { check_runnable(artifact.manifest); });
  return artifact;
}

std::string file_sha256(const fs::path& path) {
  Sha256 hash;
  const int code = read_blocks(path.string(), [&](std::string_view block) {
    hash.add(block.data(), block.size());
    return true;
  });
  if (code != 0) {
    fail(TAME_ARTIFACT_ERROR, path.string(), " cannot be read: ", error_words(code));
  }
  return hash.hex();
}

}  // namespace libtame
