// libtame gives what the Python runtime gave (tests/golden/cases.json).
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "support.hpp"

namespace {

using nlohmann::json;

constexpr double logits_relative = 1e-4;
constexpr double maps_absolute = 1e-3;

/// A picture of a case: the file's bytes, or its pixels in another order with padded rows.
struct Given {
  std::vector<std::uint8_t> bytes;
  tame_image image{};
};

/// From each channel of a format to the one of RGB that it holds; 3 is alpha.
std::vector<int> channels(const std::string& kind, std::int32_t& format) {
  if (kind == "rgb") return format = TAME_RGB, std::vector<int>{0, 1, 2};
  if (kind == "bgr") return format = TAME_BGR, std::vector<int>{2, 1, 0};
  if (kind == "rgba") return format = TAME_RGBA, std::vector<int>{0, 1, 2, 3};
  if (kind == "bgra") return format = TAME_BGRA, std::vector<int>{2, 1, 0, 3};
  return format = TAME_GRAY, std::vector<int>{0};
}

Given read_given(const json& picture) {
  Given given;
  const std::string path = TAME_GOLDEN "/pictures/" + picture["file"].get<std::string>();
  const std::string kind = picture["as"];
  if (kind == "encoded") {
    given.bytes = tame::read_file(path);
    given.image = tame::Image::encoded(given.bytes).get();
    return given;
  }
  const tame::Picture read = tame::read_picture(path);
  const std::vector<int> order = channels(kind, given.image.format);
  const std::size_t stride = order.size() * static_cast<std::size_t>(read.width) + 13;
  given.bytes.assign(stride * static_cast<std::size_t>(read.height), 77);
  for (int y = 0; y < read.height; ++y) {
    for (int x = 0; x < read.width; ++x) {
      const std::size_t pixel = static_cast<std::size_t>(y) * static_cast<std::size_t>(read.width) +
                                static_cast<std::size_t>(x);
      for (std::size_t place = 0; place < order.size(); ++place) {
        given.bytes[static_cast<std::size_t>(y) * stride +
                    static_cast<std::size_t>(x) * order.size() + place] =
            order[place] == 3 ? 255
                              : read.pixels[pixel * 3 + static_cast<std::size_t>(order[place])];
      }
    }
  }
  given.image.data = given.bytes.data();
  given.image.size = given.bytes.size();
  given.image.width = read.width;
  given.image.height = read.height;
  given.image.stride = stride;
  return given;
}

tame::Request request_of(const json& asked) {
  tame::Request request;
  if (asked.contains("class_ids")) {
    request.rows = asked["class_ids"].size();
    for (const json& row : asked["class_ids"]) {
      for (const json& id : row) request.class_ids.push_back(id);
    }
  }
  request.top = asked.value("top", 0);
  request.batch_size = asked.value("batch_size", 0);
  if (asked.contains("versus")) request.versus = asked["versus"].get<std::int64_t>();
  if (asked.contains("map_size")) {
    request.map_width = asked["map_size"][0];
    request.map_height = asked["map_size"][1];
  }
  return request;
}

void expect_equal(const tame::Explanation& found, const json& expected) {
  ASSERT_EQ(found.size(), expected["logits"].size());
  EXPECT_EQ(found.map_width(), expected["map_size"][0].get<std::size_t>());
  EXPECT_EQ(found.map_height(), expected["map_size"][1].get<std::size_t>());
  double largest = 0;
  for (const json& row : expected["logits"]) {
    for (const json& value : row) largest = std::max(largest, std::abs(value.get<double>()));
  }
  const std::vector<float> maps = expected["maps"];
  std::size_t place = 0;
  for (std::size_t index = 0; index < found.size(); ++index) {
    const std::vector<double> logits = expected["logits"][index];
    for (std::size_t id = 0; id < logits.size(); ++id) {
      EXPECT_NEAR(found.logits(index)[id], logits[id], logits_relative * largest);
    }
    const std::vector<std::int64_t> ids = expected["class_ids"][index];
    ASSERT_EQ(found.class_ids(index).size(), ids.size());
    for (std::size_t k = 0; k < ids.size(); ++k) {
      EXPECT_EQ(found.class_ids(index)[k], ids[k]);
      for (const float value : found.map(index, k)) {
        ASSERT_NEAR(value, maps.at(place++), maps_absolute);
      }
    }
  }
  EXPECT_EQ(place, maps.size());
}

void replay(const tame::Explainer& explainer, const json& asked) {
  SCOPED_TRACE(asked["name"].get<std::string>());
  std::vector<Given> pictures;
  std::vector<tame::Image> images;
  for (const json& picture : asked["pictures"]) pictures.push_back(read_given(picture));
  for (const Given& given : pictures) images.emplace_back(given.image);
  if (!asked.contains("error")) {
    expect_equal(explainer.explain(images, request_of(asked)), asked["expected"]);
    return;
  }
  try {
    explainer.explain(images, request_of(asked));
    ADD_FAILURE() << "expected " << asked["error"];
  } catch (const tame::Error& error) {
    EXPECT_EQ(asked["error"].get<std::string>(), error.name()) << error.what();
  }
}

void replay_all(const tame::Options& options) {
  const tame::Explainer explainer(support::artifact(), options);
  const json cases = json::parse(std::ifstream(TAME_GOLDEN "/cases.json"));
  ASSERT_GT(cases.size(), 20U);
  for (const json& asked : cases) replay(explainer, asked);
}

class Golden : public support::WithArtifact {
 protected:
  void SetUp() override {
    support::WithArtifact::SetUp();
    if (!support::decodes()) GTEST_SKIP() << "built with -DTAME_DECODE=OFF";
  }
};

TEST_F(Golden, cases_on_onnxruntime) { replay_all({}); }

TEST_F(Golden, cases_on_openvino) {
#ifdef TAME_SANITIZED
  GTEST_SKIP() << "OpenVINO loads a library in a way that sanitizers refuse (RTLD_DEEPBIND)";
#endif
  tame::Options options;
  options.backend = "openvino";
  try {
    replay_all(options);
  } catch (const tame::Error& error) {
    if (error.status() != TAME_NOT_INSTALLED_ERROR) throw;
    GTEST_SKIP() << error.what();
  }
}

}  // namespace
