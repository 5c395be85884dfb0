// Answers questions in one process: a line of JSON in, a line of JSON out.
//
//   {"open": "build/demo", "backend": "onnxruntime"}  -> {"status": "OK", "message": ""}
//   {"explain": "cat.jpg", "class_ids": [-1], "overlay": "out.ppm"}
//                                                     -> {"status": …, "logits": […], "maps": […]}
#include <fstream>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <tame/tame.hpp>

namespace {

using nlohmann::json;

json explain(const tame::Explainer& explainer, const json& asked) {
  const std::vector<std::uint8_t> file = tame::read_file(asked["explain"]);
  tame::Request request;
  request.class_ids = asked.value("class_ids", std::vector<std::int64_t>());
  const tame::Explanation found = explainer.explain(tame::Image::encoded(file), request);
  std::vector<float> maps;
  for (std::size_t place = 0; place < found.explained(); ++place) {
    maps.insert(maps.end(), found.map(0, place).begin(), found.map(0, place).end());
  }
  if (asked.contains("overlay")) {
    const tame::Picture shown = explainer.overlay(tame::Image::encoded(file), found);
    std::ofstream out(asked["overlay"].get<std::string>(), std::ios::binary);
    out << "P6 " << shown.width << " " << shown.height << " 255\n";
    out.write(reinterpret_cast<const char*>(shown.pixels.data()),
              static_cast<std::streamsize>(shown.pixels.size()));
  }
  std::vector<float> shares(found.classes());
  for (const tame::Score& score : found.top(0, found.classes())) {
    shares.at(static_cast<std::size_t>(score.class_id)) = score.probability;
  }
  return {{"task", explainer.info().task},
          {"probabilities", shares},
          {"logits", std::vector<float>(found.logits(0).begin(), found.logits(0).end())},
          {"class_ids",
           std::vector<std::int64_t>(found.class_ids(0).begin(), found.class_ids(0).end())},
          {"maps", maps}};
}

json answer(std::unique_ptr<tame::Explainer>& explainer, const json& asked) {
  json found = json::object();
  try {
    if (asked.contains("open")) {
      tame::Options options;
      options.backend = asked.value("backend", "");
      explainer = std::make_unique<tame::Explainer>(asked["open"], options);
    } else if (!explainer) {
      throw tame::Error(TAME_INPUT_ERROR, "nothing is open");
    } else {
      found = explain(*explainer, asked);
    }
    found["status"] = "OK";
    found["message"] = "";
  } catch (const tame::Error& error) {
    found["status"] = error.name();
    found["message"] = error.what();
  }
  return found;
}

}  // namespace

int main() {
  std::unique_ptr<tame::Explainer> explainer;
  for (std::string line; std::getline(std::cin, line);) {
    std::cout << answer(explainer, json::parse(line)).dump() << std::endl;
  }
}
