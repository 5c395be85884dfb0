// Callers that were compiled with another header than the library.
#include <cstddef>
#include <cstring>

#include "support.hpp"

namespace {

TEST(StructSizes, of_older_and_newer_headers_are_understood) {
  struct Newer {
    tame_options known;
    std::uint64_t added;
  } newer{};
  newer.known.struct_size = sizeof newer;
  tame_explainer* explainer = nullptr;
  EXPECT_EQ(tame_open("nowhere", &newer.known, &explainer), TAME_ARTIFACT_ERROR);
  newer.added = 1;
  EXPECT_EQ(tame_open("nowhere", &newer.known, &explainer), TAME_INPUT_ERROR);
  EXPECT_NE(std::strstr(tame_last_error(), "older than the header"), nullptr);

  tame_options older{};
  older.struct_size = offsetof(tame_options, threads);
  older.threads = -5;  // beyond what that header had: not looked at
  EXPECT_EQ(tame_open("nowhere", &older, &explainer), TAME_ARTIFACT_ERROR);
}

class Requests : public support::WithArtifact {};

TEST_F(Requests, of_headers_without_contrasts_are_understood) {
  const tame::Explainer opened(support::artifact());
  const tame::Picture picture = support::pattern(40, 30);
  const tame::Image image(picture);
  const std::int64_t other = 1;
  tame_request request{};
  request.versus = &other;
  request.struct_size = offsetof(tame_request, versus);  // not looked at
  tame_explanation* found = nullptr;
  ASSERT_EQ(tame_explain(opened.get(), &image.get(), 1, &request, &found), TAME_OK);
  const tame::Explanation alone(found);
  EXPECT_EQ(alone.versus_ids(0)[0], -1);
  tame_view older{};
  older.struct_size = offsetof(tame_view, versus_ids);
  EXPECT_EQ(tame_explanation_view(alone.get(), &older), TAME_OK);
  EXPECT_EQ(older.versus_ids, nullptr);
  request.struct_size = sizeof request;
  ASSERT_EQ(tame_explain(opened.get(), &image.get(), 1, &request, &found), TAME_OK);
  const tame::Explanation told_apart(found);
  EXPECT_EQ(told_apart.versus_ids(0)[0], 1);
}

class Arrays : public support::WithArtifact {};

TEST_F(Arrays, of_pictures_of_older_and_newer_headers_are_understood) {
  const tame::Explainer opened(support::artifact());
  tame_explainer* const explainer = opened.get();
  const tame::Picture picture = support::pattern(40, 30);
  struct Newer {
    tame_image known;
    std::uint64_t added;
  } newer[2]{};
  for (Newer& one : newer) {
    one.known = tame::Image(picture).get();
    one.known.struct_size = sizeof one;
  }
  tame_explanation* found = nullptr;
  EXPECT_EQ(tame_explain(explainer, &newer[0].known, 2, nullptr, &found), TAME_OK);
  tame_explanation_free(found);
  newer[1].added = 1;
  EXPECT_EQ(tame_explain(explainer, &newer[0].known, 2, nullptr, &found), TAME_INPUT_ERROR);
  EXPECT_NE(std::strstr(tame_last_error(), "older than the header"), nullptr);

  // Before there was YUV.
  constexpr std::size_t old_size = offsetof(tame_image, chroma);
  alignas(tame_image) unsigned char older[2 * old_size];
  tame_image one = tame::Image(picture).get();
  one.struct_size = old_size;
  for (int index = 0; index < 2; ++index) std::memcpy(older + index * old_size, &one, old_size);
  EXPECT_EQ(tame_explain(explainer, reinterpret_cast<tame_image*>(older), 2, nullptr, &found),
            TAME_OK);
  tame_explanation_free(found);

  tame_image mixed[2] = {tame::Image(picture).get(), tame::Image(picture).get()};
  mixed[1].struct_size = 0;
  EXPECT_EQ(tame_explain(explainer, mixed, 2, nullptr, &found), TAME_INPUT_ERROR);
  EXPECT_STREQ(tame_last_error(), ("picture 1 has struct_size 0; expected " +
                                   std::to_string(sizeof(tame_image)) + ", as the first one has")
                                      .c_str());
  mixed[0].struct_size = 0;
  EXPECT_EQ(tame_explain(explainer, mixed, 2, nullptr, &found), TAME_INPUT_ERROR);
  EXPECT_NE(std::strstr(tame_last_error(), "tame_image.struct_size is 0; set it to"), nullptr);
}

}  // namespace
