// tame.hpp: owners, views and what they say.
#if !defined(_WIN32)
#include <sys/wait.h>
#include <unistd.h>
#endif

#include <cstdio>
#include <cstring>
#include <numeric>
#include <type_traits>

#include "support.hpp"

namespace {
bool is_child = false;
}

// What threads of the parent had is lost in a child, and no leak.
extern "C" int __lsan_is_turned_off() { return is_child ? 1 : 0; }

namespace {

static_assert(!std::is_copy_constructible_v<tame::Explainer>);
static_assert(!std::is_copy_constructible_v<tame::Explanation>);
static_assert(std::is_nothrow_move_constructible_v<tame::Explainer>);

class Owners : public support::WithArtifact {};

TEST_F(Owners, an_explainer_describes_its_artifact) {
  const tame::Explainer explainer(support::artifact());
  const tame_info info = explainer.info();
  EXPECT_STRNE(info.name, "");
  EXPECT_STREQ(info.backend, "onnxruntime on CPU");
  EXPECT_STREQ(info.precision, "fp32");
  EXPECT_STREQ(info.explain, "selectable");
  EXPECT_STREQ(info.map_kind, "minmax");
  EXPECT_STREQ(info.input_type, "uint8");
  EXPECT_EQ(info.classes, 6);
  EXPECT_EQ(info.input_width, 128);
  EXPECT_EQ(info.input_channels, 3);
  EXPECT_EQ(info.map_height, 32);
  EXPECT_EQ(explainer.label(5), "ring");
  EXPECT_EQ(explainer.class_id(" Ring "), 5);
  EXPECT_EQ(support::status_of([&] { (void)explainer.label(6); }), TAME_INPUT_ERROR);
  EXPECT_EQ(support::status_of([&] { (void)explainer.class_id("zebra"); }), TAME_INPUT_ERROR);
}

TEST_F(Owners, probabilities_sum_to_one_and_fall) {
  const tame::Explainer explainer(support::artifact());
  const tame::Explanation found = explainer.explain(support::pattern(60, 50));
  const std::vector<tame::Score> scores = found.top(0, 6);
  float sum = 0;
  for (std::size_t place = 0; place < scores.size(); ++place) {
    sum += scores[place].probability;
    if (place > 0) {
      EXPECT_LE(scores[place].probability, scores[place - 1].probability);
    }
  }
  EXPECT_NEAR(sum, 1, 1e-5);
  EXPECT_EQ(found.class_ids(0)[0], scores[0].class_id);
}

TEST_F(Owners, prepared_tensors_and_pictures_give_the_same) {
  const tame::Explainer explainer(support::artifact());
  const tame::Picture picture = support::pattern(300, 200);
  const std::vector<std::uint8_t> tensor = explainer.prepare(picture);
  const tame::View<const std::uint8_t> view(tensor.data(), tensor.size());
  const tame::Explanation one = explainer.explain(picture);
  const tame::Explanation other = explainer.explain_prepared(view, 1);
  for (std::size_t place = 0; place < one.map(0).size(); ++place) {
    ASSERT_EQ(one.map(0)[place], other.map(0)[place]);
  }
  const tame::View<const float> floats(reinterpret_cast<const float*>(tensor.data()), 3);
  EXPECT_EQ(support::status_of([&] { explainer.explain_prepared(floats, 1); }), TAME_INPUT_ERROR);
}

TEST_F(Owners, a_window_and_a_bound_of_pixels_are_kept_to) {
  if (!support::decodes()) GTEST_SKIP() << "built with -DTAME_DECODE=OFF";
  const tame::Image dim = tame::Image::encoded(support::dim_png);
  tame::Options options;
  options.window_high = 4095;
  const tame::Explainer windowed(support::artifact(), options);
  const tame::Picture bright{2, 1, {0, 0, 0, 255, 255, 255}};
  EXPECT_EQ(windowed.prepare(dim), windowed.prepare(bright));
  EXPECT_EQ(tame::last_warning(), "");
  options.max_pixels = 1;
  const tame::Explainer bounded(support::artifact(), options);
  for (const tame::Image& image : {dim, tame::Image(bright)}) {
    EXPECT_EQ(support::status_of([&] { bounded.prepare(image); }), TAME_INPUT_ERROR);
    EXPECT_STREQ(tame_last_error(), "picture is 2x1; expected at most 1 pixels");
  }
}

TEST_F(Owners, an_overlay_has_the_pictures_size_and_shows_the_map) {
  const tame::Explainer explainer(support::artifact());
  const tame::Picture picture = support::pattern(200, 100);
  const tame::Explanation found = explainer.explain(picture);
  const tame::Picture shown = explainer.overlay(picture, found);
  EXPECT_EQ(shown.width, 200);
  EXPECT_EQ(shown.height, 100);
  EXPECT_NE(shown.pixels, picture.pixels);
}

TEST_F(Owners, can_be_moved_and_closed) {
  tame::Explainer first(support::artifact());
  tame::Explainer second(std::move(first));
  EXPECT_EQ(support::status_of([&] { (void)first.info(); }), TAME_INPUT_ERROR);
  first = std::move(second);
  tame::Explanation found = first.explain(support::pattern(30, 30));
  tame::Explanation moved(std::move(found));
  first.close();
  first.close();  // again does nothing
  EXPECT_EQ(support::status_of([&] { first.explain(support::pattern(9, 9)); }), TAME_BACKEND_ERROR);
  EXPECT_EQ(moved.logits(0).size(), 6U);  // outlives its explainer
  EXPECT_EQ(support::status_of([&] { (void)moved.map(1); }), TAME_INPUT_ERROR);
  EXPECT_EQ(support::status_of([&] { (void)moved.top(0, 1 << 20); }), TAME_INPUT_ERROR);
}

TEST_F(Owners, explainers_and_streams_that_were_moved_from_hold_nothing) {
  tame::Explainer first(support::artifact());
  tame::Explainer second(support::artifact());
  tame_explainer* const before = first.get();
  first = std::move(second);
  EXPECT_EQ(second.get(), nullptr);
  tame_info info{};
  info.struct_size = sizeof info;
  EXPECT_EQ(tame_get_info(before, &info), TAME_BACKEND_ERROR);  // closed at once
  second.close();                                               // there is nothing to close
  tame::Stream stream(first);
  tame::Stream other(std::move(stream));
  EXPECT_EQ(support::status_of([&] { stream.finish(); }), TAME_INPUT_ERROR);
  EXPECT_EQ(other.push(support::pattern(9, 9)), 0U);
}

TEST_F(Owners, several_pictures_are_explained_in_one_call) {
  const tame::Explainer explainer(support::artifact());
  const tame::Picture one = support::pattern(30, 20, 1);
  const tame::Picture other = support::pattern(20, 30, 2);
  const std::vector<tame::Picture> pictures = {one, other};
  const std::vector<tame::Image> images = {one, other};
  EXPECT_EQ(explainer.explain(pictures).size(), 2U);
  EXPECT_EQ(explainer.explain(images).size(), 2U);
  EXPECT_EQ(explainer.explain({one, other}).size(), 2U);
}

TEST_F(Owners, pixels_that_are_fewer_than_the_picture_says_are_refused) {
  const tame::Explainer explainer(support::artifact());
  tame::Picture picture{64, 64, {1, 2, 3}};
  EXPECT_EQ(support::status_of([&] { explainer.explain(picture); }), TAME_INPUT_ERROR);
  EXPECT_STREQ(tame_last_error(),
               "picture 0: picture has size 3; expected at least 12288 bytes for 64x64 and stride "
               "192");
  picture.pixels.clear();  // its memory is still there
  EXPECT_EQ(support::status_of([&] { explainer.explain(picture); }), TAME_INPUT_ERROR);
  const std::vector<std::uint8_t> gray(64 * 64 - 1);
  EXPECT_EQ(support::status_of([&] { explainer.explain(tame::Image::gray(gray, 64, 64)); }),
            TAME_INPUT_ERROR);
  EXPECT_EQ(support::status_of([&] {
              explainer.explain(tame::Image::gray({gray.data(), gray.size()}, 64, 64));
            }),
            TAME_INPUT_ERROR);
}

TEST_F(Owners, pictures_of_cameras_and_scanners_are_explained_as_their_rgb) {
  const tame::Explainer explainer(support::artifact());
  const std::vector<std::uint8_t> nv12(40 * 30 * 3 / 2, 100);
  const tame::Image image = tame::Image::nv12(nv12, 40, 30, TAME_BT709_FULL);
  const tame::Picture rgb = tame::decode(image);
  EXPECT_EQ(rgb.width, 40);
  EXPECT_EQ(explainer.prepare(image), explainer.prepare(rgb));
  EXPECT_EQ(explainer.overlay(image, explainer.explain(image)).pixels,
            explainer.overlay(rgb, explainer.explain(rgb)).pixels);
  EXPECT_EQ(tame::decode(tame::Image::i420(nv12, 40, 30, TAME_BT709_FULL)).pixels, rgb.pixels);

  tame::Options options;
  options.window_high = 4095;
  const tame::Explainer windowed(support::artifact(), options);
  const std::vector<std::uint16_t> levels = {0, 4095};
  const tame::Picture bright{2, 1, {0, 0, 0, 255, 255, 255}};
  EXPECT_EQ(windowed.prepare(tame::Image::gray16(levels, 2, 1)), windowed.prepare(bright));
  EXPECT_EQ(tame::last_warning(), "");
  (void)explainer.prepare(tame::Image::gray16(levels, 2, 1));
  EXPECT_NE(tame::last_warning().find("at most 4095"), std::string::npos);
}

TEST_F(Owners, a_warning_outlives_the_explanation_that_it_is_of) {
  const tame::Explainer explainer(support::artifact());
  const std::vector<std::uint16_t> levels = {0, 4095};
  { (void)explainer.explain(tame::Image::gray16(levels, 2, 1)).size(); }
  EXPECT_NE(tame::last_warning().find("at most 4095"), std::string::npos);
  (void)explainer.explain(tame::Picture{1, 1, {9, 9, 9}});
  EXPECT_EQ(tame::last_warning(), "");
}

TEST_F(Owners, a_warning_says_which_picture_of_several_it_is_of) {
  const tame::Explainer explainer(support::artifact());
  const std::vector<std::uint16_t> levels = {0, 4095};
  const tame::Picture plain{1, 1, {9, 9, 9}};
  (void)explainer.explain({plain, plain, tame::Image::gray16(levels, 2, 1), plain});
  EXPECT_EQ(tame::last_warning(),
            "picture 2: picture has 16-bit pixels of at most 4095, which come out nearly black; "
            "give it a window, such as 0,4095");
}

TEST_F(Owners, a_file_is_drawn_over_with_the_window_it_was_explained_with) {
  if (!support::decodes()) GTEST_SKIP() << "built with -DTAME_DECODE=OFF";
  tame::Options options;
  options.window_high = 4095;
  const tame::Explainer windowed(support::artifact(), options);
  const tame::Image file = tame::Image::encoded(support::dim_png);
  const tame::Picture bright{2, 1, {0, 0, 0, 255, 255, 255}};
  const tame::Explanation found = windowed.explain(bright);
  EXPECT_EQ(windowed.overlay(file, found).pixels, windowed.overlay(bright, found).pixels);
  options.max_pixels = 1;
  const tame::Explainer bounded(support::artifact(), options);
  EXPECT_EQ(support::status_of([&] { bounded.overlay(file, found); }), TAME_INPUT_ERROR);
}

TEST_F(Owners, what_is_popped_and_not_named_is_kept_by_its_reference) {
  const tame::Explainer explainer(support::artifact());
  tame::Stream stream(explainer);
  stream.push(tame::Picture{1, 1, {9, 9, 9}});
  stream.finish();
  const tame::Streamed& found = *stream.pop();  // a value, which lives as long as its reference
  EXPECT_EQ(found.index, 0U);
  EXPECT_EQ(found.explanation.size(), 1U);
}

TEST_F(Owners, no_bytes_are_no_picture) {
  const std::uint8_t pixels[3] = {};
  EXPECT_EQ(support::status_of([&] {
              tame::decode(tame::Image::rgb({pixels, 0}, 1, 1));
            }),
            TAME_INPUT_ERROR);
}

TEST_F(Owners, rows_of_classes_are_counted_before_they_are_read) {
  const tame::Explainer explainer(support::artifact());
  const std::int64_t only = 0;
  tame_request request{};
  request.struct_size = sizeof request;
  request.class_ids = &only;
  request.class_count = 1;
  request.class_rows = 10'000'000;  // nothing is there to be read
  const tame::Picture picture{1, 1, {9, 9, 9}};
  const tame_image image = tame::Image(picture).get();
  tame_explanation* found = nullptr;
  EXPECT_EQ(tame_explain(explainer.get(), &image, 1, &request, &found), TAME_INPUT_ERROR);
  EXPECT_STREQ(tame_last_error(), "class_ids has 10000000 rows; expected 1, one a picture");
}

TEST_F(Owners, ragged_rows_of_classes_are_refused) {
  const tame::Explainer explainer(support::artifact());
  tame::Request request;
  request.class_ids = {0, 1, 2};
  request.rows = 2;
  EXPECT_EQ(support::status_of([&] { explainer.explain(support::pattern(9, 9), request); }),
            TAME_INPUT_ERROR);
}

/// Lives until after main: its last call is a failing one, as that of a static owner may be.
struct AtExit {
  ~AtExit() {
    tame_explainer* explainer = nullptr;
    if (tame_open("nowhere, said at a length that wants memory", nullptr, &explainer) !=
        TAME_ARTIFACT_ERROR) {
      std::abort();
    }
  }
};

TEST(StaticObjects, may_call_when_the_program_ends) {
  static const AtExit at_exit;
  EXPECT_EQ(support::status_of([] { tame::Explainer it("nowhere, said at some length before"); }),
            TAME_ARTIFACT_ERROR);
}

#if !defined(_WIN32)
/// The exit status of a child of fork(), which has twenty seconds; -1 where it did not end by itself.
template <typename Work>
int exit_status_of_child(Work&& work) {
  std::fflush(nullptr);
  const pid_t child = fork();
  if (child == 0) {
    is_child = true;
    alarm(20);  // ends it by a signal
    std::exit(work());
  }
  int status = 0;
  if (child < 0 || waitpid(child, &status, 0) != child) return -1;
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

class Children : public support::WithArtifact {
  // ONNX Runtime's own telemetry has a thread, and in a child waits for it for ever.
  static inline const int quiet = setenv("ORT_DISABLE_TELEMETRY", "1", 0);
};

TEST_F(Children, leave_though_static_owners_have_threads_that_they_do_not) {
  tame::Options options;
  options.threads = 2;
  static tame::Explainer explainer(support::artifact(), options);
  static tame::Stream stream(explainer);
  const tame::Picture picture = support::pattern(40, 30);
  static tame::Explanation found =
      explainer.explain({picture, picture, picture});  // in two threads
  EXPECT_EQ(exit_status_of_child([] { return 0; }), 0);
  EXPECT_EQ(explainer.explain(picture).size(), 1U);  // here they are as they were
}

TEST_F(Children, are_refused_their_parents_handles_and_open_their_own) {
  const tame::Explainer explainer(support::artifact());
  EXPECT_EQ(exit_status_of_child([&] {
              tame_info info{};
              info.struct_size = sizeof info;
              if (tame_get_info(explainer.get(), &info) != TAME_BACKEND_ERROR) return 1;
              const char* expected =
                  "this explainer is of the process before fork(); make another in this one";
              if (std::strcmp(tame_last_error(), expected) != 0) return 2;
              const tame::Explainer own(support::artifact());
              return own.get() != explainer.get() && own.info().classes == 6 ? 0 : 3;
            }),
            0);
  EXPECT_EQ(explainer.info().classes, 6);
}
#endif

TEST(Files, that_are_folders_are_named) {
  EXPECT_EQ(support::status_of([] { tame::read_picture("/"); }), TAME_INPUT_ERROR);
}

TEST(Files, that_cannot_be_read_are_named) {
  try {
    tame::read_picture("nowhere.png");
    ADD_FAILURE();
  } catch (const tame::Error& error) {
    EXPECT_STREQ(error.what(), "nowhere.png: no such file, or it cannot be read");
  }
}

}  // namespace
