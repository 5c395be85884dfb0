// tame.hpp over functions of tame.h that fail where libtame's own do not: owners keep count.
#include <gtest/gtest.h>

#include <tame/tame.hpp>

namespace {

int freed = 0;
tame_status of_views = TAME_OK;
const float logits[2] = {1, 2};

/// A handle that only the functions below know.
tame_explanation* made_up() {
  static int place = 0;
  return reinterpret_cast<tame_explanation*>(&place);
}

class Counted : public testing::Test {
 protected:
  void SetUp() override {
    freed = 0;
    of_views = TAME_OK;
  }
};

}  // namespace

extern "C" {

const char* tame_last_error() { return "no view today"; }

tame_status tame_explanation_view(const tame_explanation*, tame_view* view) {
  view->logits = logits;
  view->count = 1;
  view->classes = 2;
  return of_views;
}

tame_status tame_explanation_free(tame_explanation*) {
  ++freed;
  return TAME_OK;
}

}  // extern "C"

namespace {

TEST_F(Counted, a_check_that_throws_leaks_no_handle) {
  of_views = TAME_ERROR;
  EXPECT_THROW(tame::Explanation{made_up()}, tame::Error);
  EXPECT_EQ(freed, 1);
}

TEST_F(Counted, what_was_moved_from_holds_nothing) {
  tame::Explanation first(made_up());
  tame::Explanation second(made_up());
  first = std::move(second);
  EXPECT_EQ(freed, 1);  // at once, and not when `second` ends
  EXPECT_EQ(second.get(), nullptr);
  EXPECT_EQ(second.size(), 0U);
  EXPECT_THROW((void)second.logits(0), tame::Error);
  EXPECT_EQ(first.logits(0)[1], 2);
  const tame::Explanation third(std::move(first));
  EXPECT_EQ(first.size(), 0U);
  EXPECT_EQ(third.size(), 1U);
  EXPECT_EQ(freed, 1);
}

TEST_F(Counted, each_handle_is_freed_once) {
  {
    tame::Explanation first(made_up());
    tame::Explanation second(std::move(first));
    first = std::move(second);
  }
  EXPECT_EQ(freed, 1);
}

}  // namespace
