// Explain pictures from the command line.
//
//   tame-explain build/demo ring.png star.jpg        classes, and PICTURE-explained.ppm beside you
//   tame-explain build/demo --class ring ring.png    where it sees a ring
//   tame-explain build/demo --versus star ring.png   why a ring and not a star, in two colours
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <string>
#include <tame/tame.hpp>
#include <vector>

namespace {

struct Arguments {
  std::string artifact;
  std::vector<std::string> pictures;
  std::string label;   // "" explains the likeliest class
  std::string versus;  // "" explains it alone
  tame::Options options;
};

constexpr const char* usage =
    "usage: tame-explain ARTIFACT [--class NAME] [--versus NAME] [--backend NAME]\n"
    "                    [--library PATH] PICTURE...\n"
    "Writes PICTURE-explained.ppm for each picture, into the working directory.\n";

bool parse(int count, char** given, Arguments& out) {
  for (int place = 1; place < count; ++place) {
    const std::string word = given[place];
    std::string* value = word == "--class"     ? &out.label
                         : word == "--versus"  ? &out.versus
                         : word == "--backend" ? &out.options.backend
                         : word == "--library" ? &out.options.library
                                               : nullptr;
    if (value) {
      if (++place == count) return false;
      *value = given[place];
    } else if (word.rfind("--", 0) == 0) {
      return false;
    } else if (out.artifact.empty()) {
      out.artifact = word;
    } else {
      out.pictures.push_back(word);
    }
  }
  return !out.pictures.empty();
}

void write_ppm(const tame::Picture& picture, const std::string& path) {
  std::ofstream stream(path, std::ios::binary);
  stream << "P6\n" << picture.width << " " << picture.height << "\n255\n";
  stream.write(reinterpret_cast<const char*>(picture.pixels.data()),
               static_cast<std::streamsize>(picture.pixels.size()));
  if (!stream.flush()) throw tame::Error(TAME_INPUT_ERROR, path + " cannot be written");
}

std::string stem(const std::string& path) {
  const std::string name = path.substr(path.find_last_of('/') + 1);
  return name.substr(0, name.find_last_of('.'));
}

void explain(const tame::Explainer& explainer, const std::string& path,
             const tame::Request& request) {
  const tame::Picture picture = tame::read_picture(path);
  const tame::Explanation found = explainer.explain(picture, request);
  const std::string shown = stem(path) + "-explained.ppm";
  write_ppm(explainer.overlay(picture, found), shown);
  const std::string seen = explainer.label(found.class_ids(0)[0]);
  const std::int64_t other = found.versus_ids(0)[0];
  const std::string words =
      other < 0 ? "where it sees " + seen : "why " + seen + " and not " + explainer.label(other);
  std::printf("%s: %s, in %s\n", path.c_str(), words.c_str(), shown.c_str());
  const std::size_t count = std::min<std::size_t>(found.classes(), 3);
  for (const tame::Score& score : found.top(0, count)) {
    std::printf("  %5.1f %%  %s\n", 100.0 * static_cast<double>(score.probability),
                explainer.label(score.class_id).c_str());
  }
}

}  // namespace

int main(int count, char** given) {
  Arguments arguments;
  if (!parse(count, given, arguments)) {
    std::cerr << usage;
    return 2;
  }
  try {
    const tame::Explainer explainer(arguments.artifact, arguments.options);
    tame::Request request;
    if (!arguments.label.empty()) request.class_ids = {explainer.class_id(arguments.label)};
    if (!arguments.versus.empty()) request.versus = explainer.class_id(arguments.versus);
    if (explainer.info().speed_only) std::cerr << "random weights: for measuring speed only\n";
    for (const std::string& path : arguments.pictures) explain(explainer, path, request);
    return 0;
  } catch (const tame::Error& error) {
    std::cerr << error.name() << ": " << error.what() << "\n";
    return 1;
  }
}
