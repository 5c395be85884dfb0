// Whatever a program gives tame.h, it gets a status and a message.
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <locale>

#include "support.hpp"

namespace {

using support::status_of;

tame_status failed(tame_status status) {
  if (status > TAME_OK) {
    EXPECT_STRNE(tame_last_error(), "");
  }
  return status;
}

template <typename T>
T sized() {
  T made{};
  made.struct_size = sizeof made;
  return made;
}

TEST(BadOptions, are_refused_by_name) {
  tame_explainer* explainer = nullptr;
  const auto open = [&](const tame_options& options) {
    return failed(tame_open("nowhere", &options, &explainer));
  };
  tame_options options{};
  EXPECT_EQ(open(options), TAME_INPUT_ERROR);
  EXPECT_STREQ(tame_last_error(),
               ("tame_options.struct_size is 0; set it to sizeof(tame_options), " +
                std::to_string(sizeof options) + " here")
                   .c_str());
  for (const std::size_t size : {std::size_t{1}, std::size_t{8}, std::size_t{1} << 40}) {
    options.struct_size = size;
    EXPECT_EQ(open(options), TAME_INPUT_ERROR) << size;
  }
  for (const auto field : {&tame_options::threads, &tame_options::streams, &tame_options::device,
                           &tame_options::no_cuda_graphs}) {
    options = sized<tame_options>();
    options.*field = -1;
    EXPECT_EQ(open(options), TAME_INPUT_ERROR);
  }
  for (const std::int64_t pixels : {std::int64_t{-1}, std::int64_t{250'000'001}}) {
    options = sized<tame_options>();
    options.max_pixels = pixels;
    EXPECT_EQ(open(options), TAME_INPUT_ERROR);
  }
  options = sized<tame_options>();
  options.window_low = 5;
  EXPECT_EQ(open(options), TAME_INPUT_ERROR);
  EXPECT_STREQ(tame_last_error(), "found window (5, 0); expected its first level below its second");
  options = sized<tame_options>();
  options.max_pixels = 250'000'000;
  EXPECT_EQ(open(options), TAME_ARTIFACT_ERROR);
}

TEST(Warnings, of_a_dim_picture_last_until_the_next_call) {
  if (!support::decodes()) GTEST_SKIP() << "built with -DTAME_DECODE=OFF";
  const tame::Image dim = tame::Image::encoded(support::dim_png);
  const tame::Picture decoded = tame::decode(dim);
  EXPECT_EQ(decoded.pixels, (std::vector<std::uint8_t>{0, 0, 0, 16, 16, 16}));
  EXPECT_EQ(tame::last_warning(),
            "picture has 16-bit pixels of at most 4095, which come out nearly black; give it a "
            "window, such as 0,4095");
  tame::decode(decoded);
  EXPECT_EQ(tame::last_warning(), "");
}

TEST(NullPointers, are_named) {
  tame_explainer* explainer = nullptr;
  tame_explanation* explanation = nullptr;
  tame_stream* stream = nullptr;
  std::int32_t side = 0;
  std::uint8_t byte = 0;
  tame_image image{};
  EXPECT_EQ(failed(tame_open(nullptr, nullptr, &explainer)), TAME_INPUT_ERROR);
  EXPECT_EQ(failed(tame_open("nowhere", nullptr, nullptr)), TAME_INPUT_ERROR);
  EXPECT_EQ(failed(tame_get_info(nullptr, nullptr)), TAME_INPUT_ERROR);
  EXPECT_EQ(failed(tame_label(nullptr, 0, nullptr)), TAME_INPUT_ERROR);
  EXPECT_EQ(failed(tame_class_id(nullptr, nullptr, nullptr)), TAME_INPUT_ERROR);
  EXPECT_EQ(failed(tame_image_size(nullptr, &side, &side)), TAME_INPUT_ERROR);
  EXPECT_EQ(failed(tame_image_size(&image, &side, &side)), TAME_INPUT_ERROR);
  EXPECT_EQ(failed(tame_decode(nullptr, &byte, 1, 0)), TAME_INPUT_ERROR);
  EXPECT_EQ(failed(tame_prepare(nullptr, &image, &byte, 1)), TAME_INPUT_ERROR);
  EXPECT_EQ(failed(tame_explain(nullptr, &image, 1, nullptr, &explanation)), TAME_INPUT_ERROR);
  EXPECT_EQ(failed(tame_explain(nullptr, &image, 1, nullptr, nullptr)), TAME_INPUT_ERROR);
  EXPECT_EQ(failed(tame_explain_prepared(nullptr, &byte, 1, 1, nullptr, &explanation)),
            TAME_INPUT_ERROR);
  EXPECT_EQ(failed(tame_explanation_view(nullptr, nullptr)), TAME_INPUT_ERROR);
  EXPECT_EQ(failed(tame_explanation_top(nullptr, 0, 1, nullptr)), TAME_INPUT_ERROR);
  EXPECT_EQ(failed(tame_overlay(nullptr, &image, nullptr, 0, 0, 1, &byte, 1, 0)), TAME_INPUT_ERROR);
  EXPECT_EQ(failed(tame_stream_open(nullptr, nullptr, nullptr, &stream)), TAME_INPUT_ERROR);
  EXPECT_EQ(failed(tame_stream_push(nullptr, &image, 0, nullptr)), TAME_INPUT_ERROR);
  EXPECT_EQ(failed(tame_stream_pop(nullptr, 0, nullptr, &explanation)), TAME_INPUT_ERROR);
  EXPECT_EQ(failed(tame_stream_finish(nullptr)), TAME_INPUT_ERROR);
  EXPECT_EQ(failed(tame_run_on_device(nullptr, nullptr)), TAME_INPUT_ERROR);
  EXPECT_EQ(tame_close(nullptr), TAME_OK);
  EXPECT_EQ(tame_explanation_free(nullptr), TAME_OK);
  EXPECT_EQ(tame_stream_close(nullptr), TAME_OK);
}

TEST(Paths, that_are_empty_are_refused) {
  tame_explainer* explainer = nullptr;
  EXPECT_EQ(failed(tame_open("", nullptr, &explainer)), TAME_ARTIFACT_ERROR);
  EXPECT_STREQ(tame_last_error(), "found an empty path; expected the directory of an artifact");
}

TEST(Handles, that_never_were_are_noticed) {
  int local = 0;
  auto* made_up = reinterpret_cast<tame_explainer*>(&local);
  tame_info info = sized<tame_info>();
  EXPECT_EQ(failed(tame_get_info(made_up, &info)), TAME_INPUT_ERROR);
  EXPECT_EQ(failed(tame_close(made_up)), TAME_INPUT_ERROR);
}

struct Marks : std::numpunct<char> {
  char do_thousands_sep() const override { return '.'; }
  std::string do_grouping() const override { return "\3"; }
};

TEST(Messages, are_the_same_in_every_locale) {
  const std::locale before = std::locale::global(std::locale(std::locale(), new Marks));
  tame_options options = sized<tame_options>();
  options.threads = 123456;
  tame_explainer* explainer = nullptr;
  EXPECT_EQ(tame_open("nowhere", &options, &explainer), TAME_INPUT_ERROR);
  std::locale::global(before);
  EXPECT_NE(std::strstr(tame_last_error(), "threads is 123456; "), nullptr) << tame_last_error();
}

TEST(Messages, are_one_line_of_utf8) {
  tame_explainer* explainer = nullptr;
  EXPECT_EQ(tame_open("no\nsuch\xff place", nullptr, &explainer), TAME_ARTIFACT_ERROR);
  EXPECT_EQ(std::strncmp(tame_last_error(), "no such? place: expected an artifact", 36), 0)
      << tame_last_error();
}

TEST(Statuses, have_the_names_of_pythons_errors) {
  EXPECT_STREQ(tame_status_name(TAME_CHECKSUM_ERROR), "ChecksumError");
  EXPECT_STREQ(tame_status_name(TAME_INCOMPATIBLE_ERROR), "IncompatibleArtifactError");
  EXPECT_STREQ(tame_status_name(static_cast<tame_status>(33)), "unknown status");
  const tame::Error error(TAME_CHECKSUM_ERROR, "x");
  EXPECT_TRUE(error.is(TAME_ARTIFACT_ERROR));
  EXPECT_TRUE(error.is(TAME_CHECKSUM_ERROR));
  EXPECT_FALSE(error.is(TAME_MANIFEST_ERROR));
  EXPECT_FALSE(error.is(TAME_INPUT_ERROR));
}

class BadInput : public support::WithArtifact {
 protected:
  tame_explainer* open() {
    tame_explainer* explainer = nullptr;
    EXPECT_EQ(tame_open(support::artifact().c_str(), nullptr, &explainer), TAME_OK)
        << tame_last_error();
    return explainer;
  }
};

TEST_F(BadInput, libraries_that_are_missing_or_of_another_age) {
  tame::Options options;
  options.library = "/nowhere/libonnxruntime.so";
  EXPECT_EQ(status_of([&] { tame::Explainer it(support::artifact(), options); }),
            TAME_NOT_INSTALLED_ERROR);
  options.library = "libonnxruntime.so";  // in this folder, not where the system looks
  EXPECT_EQ(status_of([&] { tame::Explainer it(support::artifact(), options); }),
            TAME_NOT_INSTALLED_ERROR);
  options.library = TAME_OLD_LIBRARIES;
  try {
    tame::Explainer it(support::artifact(), options);
    ADD_FAILURE();
  } catch (const tame::Error& error) {
    EXPECT_EQ(error.status(), TAME_INCOMPATIBLE_ERROR);
    EXPECT_NE(std::string(error.what()).find("is onnxruntime 1.4.0; expected 1.11 or later"),
              std::string::npos)
        << error.what();
  }
  options.library = support::artifact() + "/labels.txt";  // no library at all
  EXPECT_EQ(status_of([&] { tame::Explainer it(support::artifact(), options); }),
            TAME_BACKEND_ERROR);
  options = {};
  options.backend = "caffe";
  EXPECT_EQ(status_of([&] { tame::Explainer it(support::artifact(), options); }),
            TAME_NOT_INSTALLED_ERROR);
  options.backend = "tensorrt";
  options.library = "/nowhere";
  EXPECT_EQ(status_of([&] { tame::Explainer it(support::artifact(), options); }),
            TAME_NOT_INSTALLED_ERROR);
}

TEST_F(BadInput, options_without_a_meaning_are_refused) {
  tame::Options options;
  options.precision = "bf16";
  EXPECT_EQ(status_of([&] { tame::Explainer it(support::artifact(), options); }), TAME_INPUT_ERROR);
  options = {};
  options.cuda_graphs = false;
  EXPECT_EQ(status_of([&] { tame::Explainer it(support::artifact(), options); }), TAME_INPUT_ERROR);
}

TEST_F(BadInput, an_artifact_that_was_altered) {
  namespace fs = std::filesystem;
  const fs::path copy = fs::temp_directory_path() / ("tame-altered-" + std::to_string(::getpid()));
  fs::remove_all(copy);
  fs::copy(support::artifact(), copy, fs::copy_options::recursive);
  { std::ofstream(copy / "labels.txt", std::ios::app) << "x"; }
  EXPECT_EQ(status_of([&] { tame::Explainer it(copy.string()); }), TAME_CHECKSUM_ERROR);
  fs::remove_all(copy);
}

TEST_F(BadInput, after_close) {
  tame_explainer* explainer = open();
  const tame::Picture picture = support::pattern(40, 30);
  const tame_image image = tame::Image(picture).get();
  tame_explanation* explanation = nullptr;
  tame_stream* stream = nullptr;
  ASSERT_EQ(tame_explain(explainer, &image, 1, nullptr, &explanation), TAME_OK);
  ASSERT_EQ(tame_stream_open(explainer, nullptr, nullptr, &stream), TAME_OK);
  ASSERT_EQ(tame_close(explainer), TAME_OK);
  tame_explanation* late = nullptr;
  EXPECT_EQ(failed(tame_explain(explainer, &image, 1, nullptr, &late)), TAME_BACKEND_ERROR);
  EXPECT_STREQ(tame_last_error(), "this explainer is closed; open it again");
  EXPECT_EQ(late, nullptr);
  EXPECT_EQ(failed(tame_stream_push(stream, &image, 0, nullptr)), TAME_BACKEND_ERROR);
  tame_view view = sized<tame_view>();
  EXPECT_EQ(tame_explanation_view(explanation, &view), TAME_OK);  // lives on
  EXPECT_EQ(tame_explanation_free(explanation), TAME_OK);
  EXPECT_EQ(failed(tame_explanation_view(explanation, &view)), TAME_BACKEND_ERROR);
  EXPECT_STREQ(tame_last_error(), "this explanation was freed; make another");
  EXPECT_EQ(tame_stream_close(stream), TAME_OK);  // its explainer had closed it
}

TEST_F(BadInput, handles_that_are_closed_twice) {
  tame_explainer* explainer = open();
  const tame::Picture picture = support::pattern(40, 30);
  const tame::Image image(picture);
  tame_explanation* explanation = nullptr;
  tame_stream* stream = nullptr;
  ASSERT_EQ(tame_explain(explainer, &image.get(), 1, nullptr, &explanation), TAME_OK);
  ASSERT_EQ(tame_stream_open(explainer, nullptr, nullptr, &stream), TAME_OK);
  ASSERT_EQ(tame_explanation_free(explanation), TAME_OK);
  EXPECT_EQ(failed(tame_explanation_free(explanation)), TAME_INPUT_ERROR);
  EXPECT_STREQ(tame_last_error(), "this explanation was freed before; free each handle once");
  ASSERT_EQ(tame_stream_close(stream), TAME_OK);
  EXPECT_EQ(failed(tame_stream_close(stream)), TAME_INPUT_ERROR);
  EXPECT_STREQ(tame_last_error(), "this stream was closed before; close each handle once");
  ASSERT_EQ(tame_close(explainer), TAME_OK);
  EXPECT_EQ(failed(tame_close(explainer)), TAME_INPUT_ERROR);
  EXPECT_STREQ(tame_last_error(), "this explainer was closed before; close each handle once");
}

TEST_F(BadInput, pictures_and_requests) {
  tame_explainer* explainer = open();
  const tame::Picture picture = support::pattern(40, 30);
  const tame_image good = tame::Image(picture).get();
  tame_explanation* found = nullptr;
  const auto explain = [&](tame_image image, std::size_t count = 1) {
    return failed(tame_explain(explainer, &image, count, nullptr, &found));
  };
  tame_image image = good;
  image.width = 0;
  EXPECT_EQ(explain(image), TAME_INPUT_ERROR);
  EXPECT_NE(std::strstr(tame_last_error(), "picture 0: "), nullptr);
  image = good;
  image.stride = 119;
  EXPECT_EQ(explain(image), TAME_INPUT_ERROR);
  image = good;
  image.size = 40 * 30 * 3 - 1;
  EXPECT_EQ(explain(image), TAME_INPUT_ERROR);
  image = good;
  image.format = 17;
  EXPECT_EQ(explain(image), TAME_INPUT_ERROR);
  EXPECT_EQ(explain(good, 0), TAME_INPUT_ERROR);
  EXPECT_EQ(explain(good, std::size_t{1} << 60), TAME_INPUT_ERROR);
  EXPECT_EQ(failed(tame_explain(explainer, nullptr, 1, nullptr, &found)), TAME_INPUT_ERROR);
  const auto* askew = reinterpret_cast<const tame_image*>(reinterpret_cast<const char*>(&good) + 1);
  EXPECT_EQ(failed(tame_explain(explainer, askew, 1, nullptr, &found)), TAME_INPUT_ERROR);
  EXPECT_NE(std::strstr(tame_last_error(), "images is misaligned"), nullptr);

  const auto ask = [&](tame_request request) {
    return failed(tame_explain(explainer, &good, 1, &request, &found));
  };
  tame_request request = sized<tame_request>();
  request.class_count = 1;
  EXPECT_EQ(ask(request), TAME_INPUT_ERROR);
  const std::int64_t id = 0;
  request.class_ids = &id;
  request.class_rows = SIZE_MAX;
  EXPECT_EQ(ask(request), TAME_INPUT_ERROR);
  request = sized<tame_request>();
  for (const auto field : {&tame_request::top, &tame_request::batch_size, &tame_request::map_width,
                           &tame_request::map_height}) {
    request.*field = -1;
    EXPECT_EQ(ask(request), TAME_INPUT_ERROR);
    request.*field = 0;
  }
  request.map_width = 100000;
  request.map_height = 1;
  EXPECT_EQ(ask(request), TAME_INPUT_ERROR);
  tame_close(explainer);
}

TEST_F(BadInput, memory_that_is_too_small) {
  tame_explainer* explainer = open();
  const tame::Picture picture = support::pattern(40, 30);
  const tame_image image = tame::Image(picture).get();
  std::vector<std::uint8_t> rgb(40 * 30 * 3);
  EXPECT_EQ(failed(tame_decode(&image, rgb.data(), rgb.size() - 1, 0)), TAME_INPUT_ERROR);
  EXPECT_EQ(failed(tame_decode(&image, rgb.data(), rgb.size(), 119)), TAME_INPUT_ERROR);
  EXPECT_EQ(failed(tame_decode(&image, nullptr, rgb.size(), 0)), TAME_INPUT_ERROR);
  EXPECT_EQ(tame_decode(&image, rgb.data(), rgb.size(), 0), TAME_OK);
  EXPECT_EQ(rgb, picture.pixels);
  EXPECT_EQ(failed(tame_prepare(explainer, &image, rgb.data(), 17)), TAME_INPUT_ERROR);
  tame_explanation* found = nullptr;
  EXPECT_EQ(failed(tame_explain_prepared(explainer, rgb.data(), 17, 1, nullptr, &found)),
            TAME_INPUT_ERROR);
  ASSERT_EQ(tame_explain(explainer, &image, 1, nullptr, &found), TAME_OK);
  const auto overlay = [&](std::size_t index, std::size_t place, float strength) {
    return failed(
        tame_overlay(explainer, &image, found, index, place, strength, rgb.data(), rgb.size(), 0));
  };
  EXPECT_EQ(overlay(1, 0, 1), TAME_INPUT_ERROR);
  EXPECT_EQ(overlay(0, 1, 1), TAME_INPUT_ERROR);
  EXPECT_EQ(overlay(0, 0, 1.5F), TAME_INPUT_ERROR);
  EXPECT_EQ(overlay(0, 0, std::numeric_limits<float>::quiet_NaN()), TAME_INPUT_ERROR);
  EXPECT_EQ(overlay(0, 0, 1), TAME_OK);
  tame_score scores[7];
  EXPECT_EQ(failed(tame_explanation_top(found, 0, 7, scores)), TAME_INPUT_ERROR);
  EXPECT_EQ(failed(tame_explanation_top(found, 1, 1, scores)), TAME_INPUT_ERROR);
  EXPECT_EQ(failed(tame_explanation_top(found, 0, 0, scores)), TAME_INPUT_ERROR);
  tame_explanation_free(found);
  tame_close(explainer);
}

TEST_F(BadInput, a_backend_without_a_gpu_takes_no_gpu_memory) {
  const tame::Explainer explainer(support::artifact());
  EXPECT_EQ(status_of([&] { explainer.run_on_device({}); }), TAME_INPUT_ERROR);
}

}  // namespace
