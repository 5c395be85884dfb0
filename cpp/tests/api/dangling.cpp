// Lines that would read freed memory, or take something else for pixels, which tame.hpp does not let
// compile; beside each, the line that says the same and does. CMakeLists.txt compiles this file once for each TAME_DANGLING, which must
// fail with the compiler's words for it, and once without, which must not fail.
#include <string>
#include <tame/tame.hpp>
#include <utility>
#include <vector>

#ifndef TAME_DANGLING
#define TAME_DANGLING 0
#endif

void batches(const tame::Explainer& explainer, const std::string& path) {
  const tame::Picture picture = tame::read_picture(path);
  std::vector<tame::Image> batch;
#if TAME_DANGLING == 1
  batch.push_back(tame::read_picture(path));
#else
  batch.push_back(picture);
#endif
  explainer.explain(batch);
  explainer.explain({picture, picture});
  std::vector<tame::Picture> pictures;
  pictures.push_back(tame::read_picture(path));
  explainer.explain(pictures);
}

void images(const tame::Explainer& explainer, const std::string& path) {
  const tame::Picture picture = tame::read_picture(path);
  const std::vector<std::uint8_t> file = tame::read_file(path);
#if TAME_DANGLING == 2
  const tame::Image seen = tame::read_picture(path);
#else
  const tame::Image seen = picture;
#endif
#if TAME_DANGLING == 3
  const tame::Image encoded = tame::Image::encoded(tame::read_file(path));
#else
  const tame::Image encoded = tame::Image::encoded(file);
#endif
#if TAME_DANGLING == 4
  const tame::Image gray = tame::Image::gray(std::vector<std::uint8_t>(6), 3, 2);
#else
  const tame::Image gray = tame::Image::gray(picture.pixels, 3, 2);
#endif
  explainer.explain({seen, encoded, gray});
  // What ends with its line may be used within it.
  const tame::Explanation found = explainer.explain(tame::read_picture(path));
  explainer.overlay(tame::read_picture(path), found);
  explainer.prepare(tame::read_picture(path));
}

void views(const tame::Explainer& explainer, const tame::Picture& picture) {
  const tame::Explanation found = explainer.explain(picture);
#if TAME_DANGLING == 5
  for (const float value : explainer.explain(picture).logits(0)) (void)value;
#else
  for (const float value : found.logits(0)) (void)value;
#endif
#if TAME_DANGLING == 6
  for (const std::int64_t id : explainer.explain(picture).class_ids(0)) (void)id;
#else
  for (const std::int64_t id : found.class_ids(0)) (void)id;
#endif
#if TAME_DANGLING == 7
  for (const float value : explainer.explain(picture).map(0)) (void)value;
#else
  for (const float value : found.map(0)) (void)value;
#endif
  (void)explainer.explain(picture).top(0);
}

void streams(const tame::Explainer& explainer, const std::string& path) {
#if TAME_DANGLING == 8
  tame::Stream stream{tame::Explainer(path)};
#else
  tame::Stream stream{explainer};
#endif
  stream.push(tame::read_picture(path));
#if TAME_DANGLING == 9
  for (const float value : stream.pop()->explanation.logits(0)) (void)value;
#else
  const auto popped = stream.pop();
  for (const float value : popped->explanation.logits(0)) (void)value;
#endif
}

void texts_and_requests(const tame::Explainer& explainer, const std::string& path) {
#if TAME_DANGLING == 10
  const char* name = tame::Explainer(path).info().name;
#else
  const char* name = explainer.info().name;
#endif
#if TAME_DANGLING == 11
  const tame_request asked = tame::Request{{1, 2}}.get();
#else
  const tame::Request request{{1, 2}};
  const tame_request asked = request.get();
#endif
  (void)name;
  (void)path;
  (void)asked;
}

tame::Image returned(const std::vector<std::uint8_t>& pixels) {
#if TAME_DANGLING == 12
  const std::vector<std::uint8_t> local = pixels;
  return tame::Image::rgb(local, 2, 1);
#else
  return tame::Image::rgb(pixels, 2, 1);
#endif
}

void pixels(const std::vector<std::uint8_t>& bytes, const std::vector<float>& floats) {
  (void)floats;
#if TAME_DANGLING == 13
  (void)tame::Image::gray(&bytes, 3, 2);
#else
  (void)tame::Image::gray(bytes, 3, 2);
#endif
#if TAME_DANGLING == 14
  (void)tame::Image::gray({&bytes, 6}, 3, 2);
#else
  (void)tame::Image::gray({bytes.data(), 6}, 3, 2);
#endif
#if TAME_DANGLING == 15
  (void)tame::Image::gray(floats, 3, 2);
#else
  const std::vector<std::uint16_t> deep(6);
  (void)tame::Image::gray16(deep, 3, 2);
#endif
  const float some[6] = {};
  (void)some;
#if TAME_DANGLING == 16
  (void)tame::Image::gray(some, 3, 2);
#else
  const std::uint8_t levels[6] = {};
  (void)tame::Image::gray(levels, 3, 2);
#endif
#if TAME_DANGLING == 17
  (void)tame::Image::encoded(floats.data(), floats.size());
#else
  (void)tame::Image::encoded(bytes.data(), bytes.size());
#endif
#if TAME_DANGLING == 18
  (void)tame::Image::encoded(&bytes, bytes.size());
#else
  const void* const address = bytes.data();
  (void)tame::Image::encoded(address, bytes.size());
  (void)tame::Image::rgb(address, 2, 1);
#endif
}
