// Pictures in, explanations out, in order and in bounded memory. Run under ThreadSanitizer too.
#include <atomic>
#include <chrono>
#include <set>
#include <thread>

#include "support.hpp"

namespace {

class Streams : public support::WithArtifact {
 protected:
  static tame::Explainer open() {
    tame::Options options;
    options.threads = 1;
    return tame::Explainer(support::artifact(), options);
  }
};

TEST_F(Streams, give_in_order_what_explain_gives) {
  const tame::Explainer explainer = open();
  tame::Request request;
  request.top = 2;
  tame::Stream stream(explainer, request, 4, 3);
  constexpr unsigned count = 11;
  std::thread pusher([&] {
    for (unsigned seed = 0; seed < count; ++seed) {
      EXPECT_EQ(stream.push(support::pattern(50, 40, seed)), seed);
    }
    stream.finish();
  });
  unsigned next = 0;
  while (auto found = stream.pop()) {
    EXPECT_EQ(found->index, next);
    const tame::Explanation alone = explainer.explain(support::pattern(50, 40, next), request);
    ASSERT_EQ(found->explanation.explained(), 2U);
    for (std::size_t place = 0; place < alone.map(0, 1).size(); ++place) {
      ASSERT_NEAR(found->explanation.map(0, 1)[place], alone.map(0, 1)[place], 1e-5);
    }
    ++next;
  }
  pusher.join();
  EXPECT_EQ(next, count);
  EXPECT_FALSE(stream.pop());
}

TEST_F(Streams, hold_no_more_than_their_capacity) {
  const tame::Explainer explainer = open();
  tame::Stream stream(explainer, {}, 3);
  const tame::Picture picture = support::pattern(30, 30);
  for (int number = 0; number < 3; ++number) EXPECT_TRUE(stream.push(picture, 0));
  EXPECT_FALSE(stream.push(picture, 20));  // nobody takes
  EXPECT_TRUE(stream.pop());
  EXPECT_TRUE(stream.push(picture, 1000));
}

TEST_F(Streams, refuse_a_picture_and_go_on) {
  const tame::Explainer explainer = open();
  tame::Stream stream(explainer, {}, 2);
  const std::string text = "no picture";
  for (int number = 0; number < 5; ++number) {
    EXPECT_EQ(
        support::status_of([&] { stream.push(tame::Image::encoded(text.data(), text.size())); }),
        TAME_INPUT_ERROR);
  }
  EXPECT_EQ(stream.push(support::pattern(30, 30)), 0U);
  stream.finish();
  EXPECT_EQ(support::status_of([&] { stream.push(support::pattern(30, 30)); }), TAME_INPUT_ERROR);
  EXPECT_EQ(stream.pop().value().index, 0U);
  EXPECT_FALSE(stream.pop());
}

TEST_F(Streams, refuse_a_request_at_once) {
  const tame::Explainer explainer = open();
  tame::Request request;
  request.class_ids = {6};
  EXPECT_EQ(support::status_of([&] { tame::Stream(explainer, request); }), TAME_INPUT_ERROR);
  request.class_ids = {0, 1};
  request.rows = 2;
  EXPECT_EQ(support::status_of([&] { tame::Stream(explainer, request); }), TAME_INPUT_ERROR);
  EXPECT_EQ(support::status_of([&] { tame::Stream(explainer, {}, -1); }), TAME_INPUT_ERROR);
  request = {};
  request.map_width = -5;
  EXPECT_EQ(support::status_of([&] { tame::Stream(explainer, request); }), TAME_INPUT_ERROR);
}

TEST_F(Streams, wake_who_waits_when_they_end) {
  const tame::Explainer explainer = open();
  auto stream = std::make_unique<tame::Stream>(explainer, tame::Request{}, 1);
  EXPECT_FALSE(stream->pop(5));  // nothing was pushed
  std::thread popper([&] { EXPECT_FALSE(stream->pop()); });
  stream->finish();
  popper.join();
}

TEST_F(Streams, end_with_their_explainer) {
  tame::Explainer explainer = open();
  tame::Stream stream(explainer, {}, 1);
  const tame::Picture picture = support::pattern(30, 30);
  ASSERT_TRUE(stream.push(picture));
  std::thread pusher([&] {
    // Full; closing wakes it, or it comes too late and is told.
    const tame_status status = support::status_of([&] { EXPECT_FALSE(stream.push(picture)); });
    EXPECT_TRUE(status == TAME_OK || status == TAME_BACKEND_ERROR);
  });
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  explainer.close();
  pusher.join();
}

TEST_F(Streams, of_many_threads_lose_nothing) {
  const tame::Explainer explainer = open();
  tame::Stream stream(explainer, {}, 5, 4);
  std::atomic<int> pushed{0};
  std::vector<std::thread> pushers;
  for (unsigned seed = 0; seed < 3; ++seed) {
    pushers.emplace_back([&, seed] {
      for (int number = 0; number < 6; ++number) {
        stream.push(support::pattern(40, 40, seed));
        if (++pushed == 18) stream.finish();
      }
    });
  }
  std::set<std::uint64_t> seen;
  while (auto found = stream.pop()) seen.insert(found->index);
  for (std::thread& pusher : pushers) pusher.join();
  EXPECT_EQ(seen.size(), 18U);
}

}  // namespace
