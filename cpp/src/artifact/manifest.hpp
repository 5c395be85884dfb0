// manifest.json: everything that a user of an artifact must know, checked when it is read.
// The counterpart of tame_deploy/artifact/manifest.py and types.py: the same fields and checks.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "artifact/recorded.hpp"

namespace libtame {

enum class Crop { center, none, pad };
enum class Interpolation { nearest, bilinear, bicubic, lanczos };
enum class ExplainMode { selectable, predicted, all };
enum class MapKind { minmax, sigmoid, logits };
enum class InputType { uint8, uint16, float32 };
enum class Task { multiclass, multilabel, binary };

inline constexpr int max_side = 8192;

/// How a picture becomes the network's input (tame_deploy.artifact.types.ImageSpec).
struct ImageSpec {
  int height = 224;
  int width = 224;
  int resize = 256;  // the short side, where the crop is central
  Crop crop = Crop::center;
  Interpolation interpolation = Interpolation::bilinear;
  std::vector<double> mean{0.485, 0.456, 0.406};  // one a channel
  std::vector<double> std{0.229, 0.224, 0.225};
  InputType dtype = InputType::uint8;  // float32 is NCHW and normalised here
  int pad_level = 0;                   // what is filled in, where the crop is pad
  std::optional<std::array<int, 2>> window = {{0, 65535}};  // of uint16; none: the picture's own

  int channels() const { return static_cast<int>(mean.size()); }

  /// Shape of the `images` tensor.
  std::array<std::int64_t, 4> input_shape(std::int64_t batch) const {
    if (dtype == InputType::float32) return {batch, channels(), height, width};
    return {batch, height, width, channels()};
  }

  /// Type of the `images` tensor, as the manifest and sidecars spell it.
  const char* type_name() const {
    return dtype == InputType::uint8 ? "uint8" : dtype == InputType::uint16 ? "uint16" : "float32";
  }

  /// Bytes of one picture of the `images` tensor.
  std::size_t input_bytes() const {
    const std::size_t values = mean.size() * height * width;
    if (dtype == InputType::uint8) return values;
    return values * (dtype == InputType::uint16 ? sizeof(std::uint16_t) : sizeof(float));
  }
};

/// One input or output of a graph; a string is a symbolic dimension.
struct TensorSpec {
  std::string name;
  std::string dtype;
  std::vector<std::variant<std::int64_t, std::string>> shape;
};

struct Manifest {
  std::string name;
  std::string backbone;
  std::int64_t classes = 0;
  std::vector<TensorSpec> inputs;
  std::vector<TensorSpec> outputs;
  ImageSpec image;
  ExplainMode explain = ExplainMode::selectable;
  std::int64_t ranks = 0;  // how many of the likeliest classes -1 may stand for
  bool contrast = false;   // whether the graph knows one class and not another
  MapKind maps = MapKind::minmax;
  Task task = Task::multiclass;
  std::string precision;
  std::string target;                                      // "" where it is for all
  std::string labels;                                      // file name
  std::vector<std::pair<std::string, std::string>> files;  // name and sha256, in their order
  bool speed_only = false;                                 // some weights are random
  std::string identity;  // sha256 of the identity text, which fixes the graph's meaning
  std::optional<RecordedErrors> recorded;  // where the artifact was made

  /// Height and width of a map. Throws Failure: TAME_INCOMPATIBLE_ERROR where they are not fixed.
  std::array<std::int64_t, 2> map_size() const;
};

/// Read a manifest and check every field.
///
/// Throws Failure: TAME_MANIFEST_ERROR for malformed JSON, a missing, unknown or ill-typed field or
/// counts that contradict each other; TAME_INCOMPATIBLE_ERROR if a newer tame-deploy wrote it, or it was
/// edited in what fixes the graph's meaning.
Manifest parse_manifest(const std::string& text);

/// Check that buffers can be sized by the manifest, which Python does not need.
///
/// Throws Failure: TAME_INCOMPATIBLE_ERROR for tensors that the other fields contradict.
void check_runnable(const Manifest& manifest);

}  // namespace libtame
