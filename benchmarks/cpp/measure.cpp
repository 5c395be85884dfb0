// Times libtame's calls, and prints medians and quartiles as JSON.
//
//   measure overhead ARTIFACT CALLS      explaining prepared tensors, and what is not the backend's
//   measure prepare ARTIFACT FILE CALLS  resizing and cropping a picture that was decoded before
//   measure explain ARTIFACT FILE CALLS  from such pixels to an explanation
//   measure first ARTIFACT FILE          one explanation, for who times the process
//   measure files ARTIFACT THREADS FILE… explaining all files in one call, after one to warm up
#include <dlfcn.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <iostream>
#include <nlohmann/json.hpp>
#include <tame/tame.hpp>

namespace {

using nlohmann::json;

constexpr int warm_up = 20;

double now_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

json summary(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const auto at = [&](double share) {
    return values[static_cast<std::size_t>(share * static_cast<double>(values.size() - 1))];
  };
  return {{"median", at(0.5)}, {"quartiles", {at(0.25), at(0.75)}}};
}

template <typename Work>
json timed(int calls, Work&& work) {
  std::vector<double> seconds;
  for (int call = -std::min(warm_up, calls); call < calls; ++call) {
    const double start = now_s();
    work();
    if (call >= 0) seconds.push_back(now_s() - start);
  }
  return summary(seconds);
}

json overhead(const tame::Explainer& explainer, int calls) {
  const tame::Picture black{500, 375, std::vector<std::uint8_t>(500 * 375 * 3)};
  const std::vector<std::uint8_t> tensor = explainer.prepare(black);
  const tame::View<const std::uint8_t> view(tensor.data(), tensor.size());
  void* library = dlopen(std::getenv("TAME_ONNXRUNTIME_LIBRARY"), RTLD_NOW);
  const auto inside = reinterpret_cast<double (*)()>(dlsym(library, "seconds_inside"));
  std::vector<double> own;
  std::vector<double> shares;
  const json whole = timed(calls, [&] {
    const double before = inside();
    const double start = now_s();
    { const tame::Explanation found = explainer.explain_prepared(view, 1); }
    const double total = now_s() - start;
    const double backend = inside() - before;
    own.push_back(total - backend);
    shares.push_back((total - backend) / backend);
  });
  return {{"whole_s", whole}, {"own_s", summary(own)}, {"share", summary(shares)}};
}

/// Seconds from the bytes of all files to their explanations.
json files(const std::string& artifact, int threads, char** paths) {
  tame::Options options;
  options.threads = threads;
  const tame::Explainer explainer(artifact, options);
  std::vector<std::vector<std::uint8_t>> bytes;
  for (; *paths; ++paths) bytes.push_back(tame::read_file(*paths));
  std::vector<tame::Image> images;
  for (const std::vector<std::uint8_t>& file : bytes) images.push_back(tame::Image::encoded(file));
  return timed(1, [&] { (void)explainer.explain(images); });
}

json run(const std::string& what, const tame::Explainer& explainer, char** rest) {
  if (what == "overhead") return overhead(explainer, std::atoi(rest[0]));
  const tame::Picture picture = tame::read_picture(rest[0]);
  if (what == "first") return {{"class", explainer.explain(picture).top(0).front().class_id}};
  const int calls = std::atoi(rest[1]);
  if (what == "explain") return timed(calls, [&] { (void)explainer.explain(picture); });
  const tame_info info = explainer.info();
  std::vector<std::uint8_t> tensor(static_cast<std::size_t>(info.input_width) *
                                   static_cast<std::size_t>(info.input_height) * 3);
  const tame_image image = tame::Image(picture).get();
  return timed(calls, [&] {
    tame::check(tame_prepare(explainer.get(), &image, tensor.data(), tensor.size()));
  });
}

}  // namespace

int main(int count, char** given) {
  if (count < 4) return 2;
  if (given[1] == std::string("files") && count > 4) {
    std::cout << files(given[2], std::atoi(given[3]), given + 4).dump() << "\n";
    return 0;
  }
  const tame::Explainer explainer(given[2]);
  std::cout << run(given[1], explainer, given + 3).dump() << "\n";
}
