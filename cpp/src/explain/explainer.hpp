// Pictures in, explained predictions out.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "artifact/artifact.hpp"
#include "backends/backend.hpp"
#include "classes.hpp"
#include "picture/picture.hpp"
#include "preparing.hpp"

namespace libtame {

/// The answer for N pictures: which class, how sure, and where the network looked.
struct Explanation {
  std::size_t count = 0;      // N
  std::size_t classes = 0;    // C
  std::size_t explained = 0;  // K
  std::size_t map_height = 0;
  std::size_t map_width = 0;
  MapKind map_kind = MapKind::minmax;
  Task task = Task::multiclass;
  std::vector<float> logits;             // (N, C)
  std::vector<std::int64_t> class_ids;   // (N, K)
  std::vector<float> maps;               // (N, K, h, w)
  std::vector<std::int64_t> versus_ids;  // (N, K), what each is contrasted with; -1: nothing

  /// The explanation of one picture alone.
  Explanation one(std::size_t index) const;

  /// Whether a map is a difference of two.
  bool is_contrast(std::size_t index, std::size_t place) const;

  /// The map of one explained class of one picture. Throws Failure: TAME_INPUT_ERROR for none.
  const float* map(std::size_t index, std::size_t place) const;

  /// The likeliest classes of one picture with their probabilities, likeliest first.
  /// Throws Failure: TAME_INPUT_ERROR unless 1 <= count <= C.
  void top(std::size_t index, std::size_t count, tame_score* out) const;
};

/// Runs one artifact on one backend; safe for threads.
class Explainer {
 public:
  /// Throws Failure: any artifact or backend error.
  Explainer(const std::string& path, const Options& options, const Reading& reading = {});

  const Artifact& artifact() const { return artifact_; }
  const Manifest& manifest() const { return artifact_.manifest; }
  const std::string& backend_name() const { return backend_name_; }
  const std::string& backend_version() const { return backend_version_; }
  Backend& backend() const { return *backend_; }

  /// Explain `count` pictures of the caller, batch by batch; prepared by several threads, and while
  /// the batch before is explained.
  Explanation explain(const tame_image* images, std::size_t count, const Asked& asked) const;

  /// Explain tensors that are ready: `count` pictures of the network's own input.
  Explanation explain_prepared(const void* tensor, std::size_t count, const Asked& asked) const;

  /// Write one picture of the caller as the network's input.
  void prepare(const tame_image& image, void* tensor) const;

  /// Lay a map over its picture, RGB.
  void overlay(const tame_image& image, const Explanation& explanation, std::size_t index,
               std::size_t place, double strength, std::uint8_t* rgb, std::size_t size,
               std::size_t stride) const;

  /// Name of a class. Throws Failure: TAME_INPUT_ERROR for none.
  const std::string& label(std::int64_t class_id) const;

  /// Class with a name. Throws Failure: TAME_INPUT_ERROR for none, or several.
  std::int64_t class_id(const std::string& label) const;

 private:
  /// Gives the tensor of `pictures` pictures from `first` on.
  using Batch = std::function<const void*(std::size_t first, std::size_t pictures)>;

  Explanation run(std::size_t count, const Asked& asked, const Batch& batch) const;
  Explanation shaped(std::size_t count, std::size_t explained) const;

  Artifact artifact_;
  Reading reading_;
  std::unique_ptr<Backend> backend_;
  std::string backend_name_;
  std::string backend_version_;
  mutable Preparers preparers_;  // has its own lock
};

}  // namespace libtame
