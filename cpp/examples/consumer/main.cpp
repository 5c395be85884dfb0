// One picture, explained: consumer ARTIFACT PICTURE OVERLAY.ppm
#include <cstdio>
#include <fstream>
#include <tame/tame.hpp>

int main(int count, char** given) {
  if (count != 4) {
    std::fprintf(stderr, "usage: consumer ARTIFACT PICTURE OVERLAY.ppm\n");
    return 2;
  }
  try {
    tame::Explainer explainer(given[1]);
    tame::Picture picture = tame::read_picture(given[2]);
    tame::Explanation explanation = explainer.explain(picture);
    const tame::Score best = explanation.top(0).front();
    std::printf("%s %.4f\n", explainer.label(best.class_id).c_str(),
                static_cast<double>(best.probability));

    const tame::Picture shown = explainer.overlay(picture, explanation);
    std::ofstream file(given[3], std::ios::binary);
    file << "P6 " << shown.width << " " << shown.height << " 255\n";
    file.write(reinterpret_cast<const char*>(shown.pixels.data()),
               static_cast<std::streamsize>(shown.pixels.size()));
    if (!file.flush()) throw tame::Error(TAME_INPUT_ERROR, "the overlay cannot be written");
    return 0;
  } catch (const tame::Error& error) {
    std::fprintf(stderr, "%s: %s\n", error.name(), error.what());
    return 1;
  }
}
