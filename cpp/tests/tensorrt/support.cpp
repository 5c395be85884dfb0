#include "support.hpp"

#include <cstdlib>
#include <fstream>

#include "artifact/sha256.hpp"

namespace libtame::tests {
namespace {

namespace fs = std::filesystem;

const std::string model_sha256(64, 'a');
const std::string identity(64, 'b');

Json json_of(const std::vector<TensorSpec>& specs) {
  Json list = Json::array();
  for (const TensorSpec& spec : specs) {
    Json shape = Json::array();
    for (const auto& size : spec.shape) {
      std::visit([&](const auto& value) { shape.push_back(value); }, size);
    }
    list.push_back({{"name", spec.name}, {"dtype", spec.dtype}, {"shape", shape}});
  }
  return list;
}

std::string plan_of(const Manifest& manifest, const std::vector<Sixfold>& profiles) {
  std::string text = "tame-double\n";
  const auto add = [&](const char* mode, const std::vector<TensorSpec>& specs) {
    for (const TensorSpec& spec : specs) {
      text += words("tensor ", mode, " ", spec.name, " ", spec.dtype);
      for (const auto& size : spec.shape) {
        const auto* symbol = std::get_if<std::string>(&size);
        text += " ";
        text += symbol == nullptr    ? std::to_string(std::get<std::int64_t>(size))
                : *symbol == "batch" ? "-1"
                                     : "-2";
      }
      text += "\n";
    }
  };
  add("input", manifest.inputs);
  add("output", manifest.outputs);
  for (const Sixfold& profile : profiles) {
    text += "profile";
    for (const std::int64_t value : profile) text += words(" ", value);
    text += "\n";
  }
  return text + "scratch 4096\n";
}

Json sidecar_of(const Manifest& manifest, const Wanted& wanted, const std::string& plan) {
  const bool takes_ids = manifest.explain == ExplainMode::selectable;
  Json profiles = Json::array();
  for (const Sixfold& one : wanted.profiles) {
    Json profile{{"batch", {one[0], one[1], one[2]}}, {"explained", nullptr}};
    if (takes_ids) profile["explained"] = {one[3], one[4], one[5]};
    profiles.push_back(profile);
  }
  const bool rtx = std::string(TAME_TEST_FLAVOUR) == "tensorrt-rtx";
  return {{"flavour", TAME_TEST_FLAVOUR},
          {"version", rtx ? "1.7.1.6" : "10.13.2.6"},
          {"precision", "fp32"},
          {"compute_capabilities", {"8.6"}},
          {"device", "Simulated"},
          {"options", {{"profiles", profiles}, {"tf32", false}}},
          {"inputs", json_of(manifest.inputs)},
          {"outputs", json_of(manifest.outputs)},
          {"manifest", identity},
          {"onnx_sha256", model_sha256},
          {"plan", "model.plan"},
          {"plan_sha256", sha256(plan)},
          {"plan_bytes", plan.size()},
          {"key", "k"},
          {"build_s", 1},
          {"schema_version", 1}};
}

Manifest manifest_of_demo() {
  Manifest manifest;
  manifest.name = "demo";
  manifest.classes = classes;
  manifest.image.height = 4;
  manifest.image.width = 5;
  manifest.inputs = {{"images", "uint8", {"batch", 4, 5, 3}},
                     {"class_ids", "int64", {"batch", "explained"}}};
  manifest.outputs = {{"logits", "float32", {"batch", 10}},
                      {"explained", "int64", {"batch", "explained"}},
                      {"maps", "float32", {"batch", "explained", 2, 3}}};
  manifest.precision = "fp32";
  manifest.identity = identity;
  manifest.files = {{"labels.txt", "c"}, {"model.onnx", model_sha256}};
  return manifest;
}

}  // namespace

std::vector<unsigned char> pictures(std::size_t count, unsigned seed) {
  std::vector<unsigned char> bytes(count * picture_bytes);
  unsigned value = seed;
  for (unsigned char& byte : bytes) {
    value = value * 1664525U + 1013904223U;
    byte = static_cast<unsigned char>(value >> 24U);
  }
  return bytes;
}

Answers expected(const std::vector<unsigned char>& images, const std::vector<std::int64_t>& ids,
                 std::size_t explained) {
  Answers answers;
  for (std::size_t row = 0; row < images.size() / picture_bytes; ++row) {
    const auto* picture = images.data() + row * picture_bytes;
    const auto logits = tame_double::logits_of(network, picture, picture_bytes);
    answers.logits.insert(answers.logits.end(), logits.begin(), logits.end());
    for (std::size_t place = 0; place < explained; ++place) {
      const std::int64_t asked = ids.empty() ? -1 : ids[row * explained + place];
      const auto id = tame_double::explained_of(logits, asked, static_cast<std::int64_t>(place));
      const auto map = tame_double::map_of(network, picture, picture_bytes, id);
      answers.explained.push_back(id);
      answers.maps.insert(answers.maps.end(), map.begin(), map.end());
    }
  }
  return answers;
}

Answers run(Backend& backend, const std::vector<unsigned char>& images,
            const std::vector<std::int64_t>& ids, std::size_t explained) {
  const std::size_t count = images.size() / picture_bytes;
  Answers answers{std::vector<float>(count * classes, -1.0F),
                  std::vector<std::int64_t>(count * explained, -9),
                  std::vector<float>(count * explained * map_values, -1.0F)};
  Call call;
  call.count = static_cast<std::int64_t>(count);
  call.explained = static_cast<std::int64_t>(explained);
  call.images = images.data();
  call.class_ids = ids.empty() ? nullptr : ids.data();
  call.logits = answers.logits.data();
  call.explained_ids = answers.explained.data();
  call.maps = answers.maps.data();
  backend.run(call);
  return answers;
}

std::vector<std::int64_t> same_ids(std::size_t count, std::size_t explained, std::int64_t id) {
  return std::vector<std::int64_t>(count * explained, id);
}

std::string failure(tame_status status, const std::function<void()>& doing) {
  try {
    doing();
  } catch (const Failure& found) {
    EXPECT_EQ(found.status(), status) << found.what();
    return found.what();
  }
  ADD_FAILURE() << "nothing was refused";
  return "";
}

void TensorRT::SetUp() {
  tame_double::reset();
  std::string name = (fs::temp_directory_path() / "tame-tensorrt-XXXXXX").string();
  ASSERT_NE(mkdtemp(name.data()), nullptr);
  path = name;
  artifact.path = path;
  artifact.manifest = manifest_of_demo();
}

void TensorRT::TearDown() {
  EXPECT_EQ(tame_double::complaints(), std::vector<std::string>());
  EXPECT_EQ(tame_double::leftovers(), std::vector<std::string>());
  std::error_code ignored;
  fs::remove_all(path, ignored);
}

fs::path TensorRT::write(const Wanted& wanted) {
  const fs::path folder = path / "engines" / wanted.folder;
  fs::create_directories(folder);
  std::string plan = plan_of(artifact.manifest, wanted.profiles);
  wanted.plan(plan);
  Json sidecar = sidecar_of(artifact.manifest, wanted, plan);
  wanted.change(sidecar);
  std::ofstream(folder / "model.plan", std::ios::binary) << plan;
  std::ofstream(folder / "engine.json") << sidecar.dump(2) << "\n";
  return folder;
}

void TensorRT::take_no_ids() {
  Manifest& manifest = artifact.manifest;
  manifest.explain = ExplainMode::predicted;
  manifest.inputs.pop_back();
  manifest.outputs[1].shape[1] = std::int64_t{2};
  manifest.outputs[2].shape[1] = std::int64_t{2};
}

std::unique_ptr<Backend> TensorRT::open(const std::function<void(Options&)>& change) {
  Options options;
  options.backend = TAME_TEST_FLAVOUR;
  options.library = TAME_TEST_PLUGIN;
  change(options);
  return open_tensorrt(artifact, options);
}

OnGpu::OnGpu(std::size_t size) {
  if (cudaMalloc(&address_, size) != cudaSuccess) throw std::bad_alloc();
}

OnGpu::~OnGpu() { cudaFree(address_); }

}  // namespace libtame::tests
