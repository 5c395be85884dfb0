// libtame for C++17: tame.h with owners, views and exceptions. Header only.
//
//     #include <iostream>
//     #include <tame/tame.hpp>
//
//     int main() {
//       tame::Explainer explainer("build/demo");
//       tame::Picture picture = tame::read_picture("ring.png");
//       tame::Explanation explanation = explainer.explain(picture);
//       const tame::Score best = explanation.top(0).front();
//       std::cout << explainer.label(best.class_id) << " " << best.probability << "\n";
//       tame::Picture shown = explainer.overlay(picture, explanation); // where it saw it
//     }
//
// What tame.h says of threads, lifetimes and shapes holds here; errors are thrown as tame::Error.
// Objects can be moved, not copied; what was moved from holds nothing. Images and views look into
// what somebody else owns, and are valid as long as that is; of what ends with its line they cannot
// be made.
#ifndef TAME_TAME_HPP
#define TAME_TAME_HPP

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "error.hpp"
#include "picture.hpp"
#include "tame.h"

namespace tame {

/// How an artifact is run (tame_options).
struct Options {
  std::string backend;    ///< "onnxruntime" by default
  std::string library;    ///< path of the backend's library; looked for by default
  std::string precision;  ///< OpenVINO: "fp32" or "bf16"
  std::string engine;     ///< TensorRT: name of the engine in engines/
  int threads = 0;        ///< of one operation; 0 is one a core
  int streams = 0;        ///< TensorRT, OpenVINO: calls that run at a time; 0 is 2
  int device = 0;         ///< number of the GPU
  bool cuda_graphs = true;
  std::int64_t max_pixels = 0;  ///< of a picture; 0 is 89 million
  int window_low = 0;           ///< levels of 16-bit grey that become 0 and 255;
  int window_high = 0;          ///< 0 and 0 is 0 to 65535
};

/// What to explain (tame_request); as it is made, the likeliest class of each picture.
struct Request {
  std::vector<std::int64_t> class_ids;  ///< K classes, or `rows` rows of K
  std::size_t rows = 1;                 ///< 1: the same classes of every picture
  int top = 0;                          ///< instead: how many of the likeliest
  int map_width = 0;                    ///< 0: as the network gives them
  int map_height = 0;
  int batch_size = 0;                       ///< 0 is 8
  std::optional<std::int64_t> versus = {};  ///< why each of them, and not this class

  tame_request get() const&& = delete;  // it would point into what is gone: give the request a name
  tame_request get() const& {
    tame_request request{};
    request.struct_size = sizeof request;
    request.class_ids = class_ids.empty() ? nullptr : class_ids.data();
    request.class_count = rows == 0 ? 0 : class_ids.size() / rows;
    request.class_rows = rows;
    request.top = top;
    request.map_width = map_width;
    request.map_height = map_height;
    request.batch_size = batch_size;
    request.versus = versus ? &*versus : nullptr;
    if (rows == 0 || class_ids.size() % rows != 0) {
      throw Error(TAME_INPUT_ERROR, "found " + std::to_string(class_ids.size()) + " class ids in " +
                                        std::to_string(rows) + " rows");
    }
    return request;
  }
};

using Score = tame_score;

/// The answer for N pictures. Its arrays stay where they are until it ends.
class Explanation {
 public:
  /// Takes the handle, and frees it even if this throws.
  explicit Explanation(tame_explanation* handle) : handle_(handle) {
    view_.struct_size = sizeof view_;
    check(tame_explanation_view(handle, &view_));
  }
  Explanation(Explanation&& other) noexcept
      : handle_(std::move(other.handle_)), view_(std::exchange(other.view_, {})) {}
  Explanation& operator=(Explanation&& other) noexcept {
    handle_ = std::move(other.handle_);
    view_ = std::exchange(other.view_, {});
    return *this;
  }
  ~Explanation() = default;

  std::size_t size() const { return view_.count; }           ///< N
  std::size_t classes() const { return view_.classes; }      ///< C
  std::size_t explained() const { return view_.explained; }  ///< K
  std::size_t map_width() const { return view_.map_width; }
  std::size_t map_height() const { return view_.map_height; }

  /// Of one picture: C values.
  View<const float> logits(std::size_t index) const& TAME_LIFETIMEBOUND {
    return part(view_.logits, index, view_.classes);
  }
  /// Of one picture: the K classes that its maps explain.
  View<const std::int64_t> class_ids(std::size_t index) const& TAME_LIFETIMEBOUND {
    return part(view_.class_ids, index, view_.explained);
  }
  /// Of one picture: what these classes are contrasted with, -1 for none.
  View<const std::int64_t> versus_ids(std::size_t index) const& TAME_LIFETIMEBOUND {
    if (view_.versus_ids == nullptr) return {};  // a library older than this header
    return part(view_.versus_ids, index, view_.explained);
  }
  /// Of one picture and the class in a place: map_height() rows of map_width() values.
  View<const float> map(std::size_t index, std::size_t place = 0) const& TAME_LIFETIMEBOUND {
    if (place >= view_.explained) throw_range(index, place);
    return part(view_.maps, index * view_.explained + place, view_.map_height * view_.map_width,
                view_.count * view_.explained);
  }
  // They would look into what is gone at the end of the line: give the explanation a name.
  View<const float> logits(std::size_t index) const&& = delete;
  View<const std::int64_t> class_ids(std::size_t index) const&& = delete;
  View<const std::int64_t> versus_ids(std::size_t index) const&& = delete;
  View<const float> map(std::size_t index, std::size_t place = 0) const&& = delete;

  /// Of one picture: its likeliest classes, likeliest first.
  std::vector<Score> top(std::size_t index, std::size_t count = 1) const {
    if (index >= view_.count || count < 1 || count > view_.classes) {
      throw Error(TAME_INPUT_ERROR, "found picture " + std::to_string(index) + " and " +
                                        std::to_string(count) + " classes; expected one of " +
                                        std::to_string(view_.count) + " pictures, and 1 to " +
                                        std::to_string(view_.classes) + " classes");
    }
    std::vector<Score> scores(count);
    check(tame_explanation_top(get(), index, count, scores.data()));
    return scores;
  }

  tame_explanation* get() const { return handle_.get(); }

 private:
  struct Free {
    void operator()(tame_explanation* handle) const { tame_explanation_free(handle); }
  };

  template <typename T>
  View<const T> part(const T* values, std::size_t row, std::size_t width) const {
    return part(values, row, width, view_.count);
  }
  template <typename T>
  View<const T> part(const T* values, std::size_t row, std::size_t width, std::size_t rows) const {
    if (row >= rows) throw_range(row, 0);
    return {values + row * width, width};
  }
  [[noreturn]] void throw_range(std::size_t index, std::size_t place) const {
    throw Error(TAME_INPUT_ERROR, "found picture " + std::to_string(index) + ", place " +
                                      std::to_string(place) + "; there are " +
                                      std::to_string(view_.count) + " pictures with " +
                                      std::to_string(view_.explained) + " maps and " +
                                      std::to_string(view_.classes) + " classes each");
  }

  std::unique_ptr<tame_explanation, Free> handle_;
  tame_view view_{};
};

/// Runs one artifact; `explain` may be called from any number of threads.
class Explainer {
 public:
  explicit Explainer(const std::string& path, const Options& options = {}) {
    tame_options given{};
    given.struct_size = sizeof given;
    given.backend = text(options.backend);
    given.library = text(options.library);
    given.precision = text(options.precision);
    given.engine = text(options.engine);
    given.threads = options.threads;
    given.streams = options.streams;
    given.device = options.device;
    given.no_cuda_graphs = options.cuda_graphs ? 0 : 1;
    given.max_pixels = options.max_pixels;
    given.window_low = options.window_low;
    given.window_high = options.window_high;
    tame_explainer* opened = nullptr;
    check(tame_open(path.c_str(), &given, &opened));
    handle_.reset(opened);
  }

  /// Free the backend now; whoever explains after that is told so. Again does nothing.
  void close() {
    if (!handle_.get_deleter().closed) check(tame_close(get()));
    handle_.get_deleter().closed = true;
  }

  Explanation explain(const Picture& picture, const Request& request = {}) const {
    return explain(Image(picture), request);
  }
  Explanation explain(const Image& image, const Request& request = {}) const {
    return explain(&image.get(), 1, request);
  }
  Explanation explain(const std::vector<Picture>& pictures, const Request& request = {}) const {
    return explain_all(pictures, request);
  }
  Explanation explain(const std::vector<Image>& images, const Request& request = {}) const {
    return explain_all(images, request);
  }
  Explanation explain(std::initializer_list<Image> images, const Request& request = {}) const {
    return explain_all(images, request);
  }

  /// From the network's own input, as tame_explain_prepared.
  Explanation explain_prepared(View<const std::uint8_t> tensor, std::size_t count,
                               const Request& request = {}) const {
    return explain_prepared(tensor.data(), tensor.size(), count, request);
  }
  Explanation explain_prepared(View<const float> tensor, std::size_t count,
                               const Request& request = {}) const {
    return explain_prepared(tensor.data(), tensor.size() * sizeof(float), count, request);
  }

  /// One picture as the network's input: h * w * 3 bytes, or 3 * h * w floats as bytes.
  std::vector<std::uint8_t> prepare(const Picture& picture) const {
    return prepare(Image(picture));
  }
  std::vector<std::uint8_t> prepare(const Image& image) const {
    const tame_info found = info();
    const bool floats = std::string(found.input_type) == "float32";
    const auto values = static_cast<std::size_t>(found.input_width) *
                        static_cast<std::size_t>(found.input_height) * 3;
    std::vector<std::uint8_t> tensor(floats ? values * sizeof(float) : values);
    check(tame_prepare(get(), &image.get(), tensor.data(), tensor.size()));
    return tensor;
  }

  /// A picture with one of its maps over it; what the network did not see is dimmed.
  Picture overlay(const Picture& picture, const Explanation& explanation, std::size_t index = 0,
                  std::size_t place = 0, float strength = 0.75F) const {
    return overlay(Image(picture), explanation, index, place, strength);
  }
  Picture overlay(const Image& image, const Explanation& explanation, std::size_t index = 0,
                  std::size_t place = 0, float strength = 0.75F) const {
    Picture shown;
    std::int32_t width = 0;
    std::int32_t height = 0;
    check(tame_image_size(&image.get(), &width, &height));
    shown.width = width;
    shown.height = height;
    shown.pixels.resize(std::size_t{3} * static_cast<std::size_t>(width) *
                        static_cast<std::size_t>(height));
    check(tame_overlay(get(), &image.get(), explanation.get(), index, place, strength,
                       shown.pixels.data(), shown.pixels.size(), 0));
    return shown;
  }

  /// What the artifact is; its strings are valid until the explainer is closed.
  tame_info info() const&& = delete;  // its strings would be gone: give the explainer a name
  tame_info info() const& TAME_LIFETIMEBOUND {
    tame_info found{};
    found.struct_size = sizeof found;
    check(tame_get_info(get(), &found));
    return found;
  }
  std::string label(std::int64_t class_id) const {
    const char* found = nullptr;
    check(tame_label(get(), class_id, &found));
    return found;
  }
  std::int64_t class_id(const std::string& label) const {
    std::int64_t found = 0;
    check(tame_class_id(get(), label.c_str(), &found));
    return found;
  }

  /// Queue one explanation on a CUDA stream, as tame_run_on_device.
  void run_on_device(tame_device_call call) const {
    call.struct_size = sizeof call;
    check(tame_run_on_device(get(), &call));
  }

  tame_explainer* get() const { return handle_.get(); }

 private:
  struct Close {
    Close() : closed(false) {}
    void operator()(tame_explainer* handle) const {
      if (!closed) tame_close(handle);
    }
    bool closed;  // by hand; the handle is kept, so that who uses it is told why it fails
  };

  static const char* text(const std::string& given) {
    return given.empty() ? nullptr : given.c_str();
  }
  template <typename Pictures>
  Explanation explain_all(const Pictures& pictures, const Request& request) const {
    std::vector<tame_image> given;
    given.reserve(pictures.size());
    for (const auto& picture : pictures) given.push_back(Image(picture).get());
    return explain(given.data(), given.size(), request);
  }
  Explanation explain(const tame_image* images, std::size_t count, const Request& request) const {
    const tame_request given = request.get();
    tame_explanation* found = nullptr;
    check(tame_explain(get(), images, count, &given, &found));
    return Explanation(found);
  }
  Explanation explain_prepared(const void* tensor, std::size_t size, std::size_t count,
                               const Request& request) const {
    const tame_request given = request.get();
    tame_explanation* found = nullptr;
    check(tame_explain_prepared(get(), tensor, size, count, &given, &found));
    return Explanation(found);
  }

  std::unique_ptr<tame_explainer, Close> handle_;
};

/// One picture of a stream.
struct Streamed {
  std::uint64_t index;
  Explanation explanation;
};

/// What a stream gives: a Streamed, or none. It is given a name before anybody looks into it.
class Popped : public std::optional<Streamed> {
 public:
  using std::optional<Streamed>::optional;
  Streamed* operator->() & { return &value(); }
  const Streamed* operator->() const& { return &value(); }
  const Streamed* operator->() const&& = delete;
  Streamed& operator*() & { return value(); }
  const Streamed& operator*() const& { return value(); }
  Streamed operator*() && { return std::move(*this).value(); }  // by value: a reference keeps it
  Streamed& value() & { return std::optional<Streamed>::value(); }
  const Streamed& value() const& { return std::optional<Streamed>::value(); }
  Streamed value() && { return std::move(std::optional<Streamed>::value()); }
};

/// Pictures in, explanations out, in order and in bounded memory (tame_stream_open).
class Stream {
 public:
  /// The stream ends with its explainer, which therefore has a name.
  explicit Stream(const Explainer&& explainer, const Request& request = {}, int capacity = 0,
                  int batch_size = 0) = delete;
  explicit Stream(const Explainer& explainer, const Request& request = {}, int capacity = 0,
                  int batch_size = 0) {
    const tame_request given = request.get();
    tame_stream_options options{};
    options.struct_size = sizeof options;
    options.capacity = capacity;
    options.batch_size = batch_size;
    tame_stream* opened = nullptr;
    check(tame_stream_open(explainer.get(), &given, &options, &opened));
    handle_.reset(opened);
  }

  /// Put a picture in; its number, or none if the time was over or the stream was closed meanwhile.
  std::optional<std::uint64_t> push(const Picture& picture, std::int64_t timeout_ms = -1) {
    return push(Image(picture), timeout_ms);
  }
  std::optional<std::uint64_t> push(const Image& image, std::int64_t timeout_ms = -1) {
    std::uint64_t index = 0;
    const tame_status status =
        check(tame_stream_push(handle_.get(), &image.get(), timeout_ms, &index));
    return status == TAME_OK ? std::optional<std::uint64_t>(index) : std::nullopt;
  }

  /// No more pictures will come.
  void finish() { check(tame_stream_finish(handle_.get())); }

  /// The next explanation, or none if the time was over or the stream has ended.
  Popped pop(std::int64_t timeout_ms = -1) {
    std::uint64_t index = 0;
    tame_explanation* found = nullptr;
    const tame_status status = check(tame_stream_pop(handle_.get(), timeout_ms, &index, &found));
    if (status != TAME_OK) return std::nullopt;
    return Streamed{index, Explanation(found)};
  }

 private:
  struct Close {
    void operator()(tame_stream* handle) const { tame_stream_close(handle); }
  };

  std::unique_ptr<tame_stream, Close> handle_;
};

}  // namespace tame

#endif  // TAME_TAME_HPP
