// One handle, many threads. Run under ThreadSanitizer too.
#include <atomic>
#include <thread>

#include "support.hpp"

namespace {

class Threads : public support::WithArtifact {};

tame::Options one_thread() {
  tame::Options options;
  options.threads = 1;
  return options;
}

TEST_F(Threads, share_a_handle_and_each_gets_its_own_answer) {
  const tame::Explainer explainer(support::artifact(), one_thread());
  constexpr unsigned count = 4;
  std::vector<tame::Picture> pictures;
  std::vector<std::vector<float>> expected;
  for (unsigned seed = 0; seed < count; ++seed) {
    pictures.push_back(support::pattern(70 + static_cast<int>(seed), 60, seed));
    const tame::Explanation alone = explainer.explain(pictures.back());
    expected.emplace_back(alone.map(0).begin(), alone.map(0).end());
  }
  std::atomic<int> wrong{0};
  std::vector<std::thread> threads;
  for (unsigned seed = 0; seed < count; ++seed) {
    threads.emplace_back([&, seed] {
      for (int round = 0; round < 5; ++round) {
        const tame::Explanation found = explainer.explain(pictures[seed]);
        wrong += !std::equal(expected[seed].begin(), expected[seed].end(), found.map(0).begin());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST_F(Threads, are_answered_or_told_when_the_handle_is_closed_meanwhile) {
  tame::Explainer explainer(support::artifact(), one_thread());
  const tame::Picture picture = support::pattern(64, 64);
  std::atomic<int> answered{0};
  std::atomic<int> told{0};
  std::vector<std::thread> threads;
  for (int number = 0; number < 3; ++number) {
    threads.emplace_back([&] {
      while (true) {
        const tame_status status = support::status_of([&] { (void)explainer.explain(picture); });
        if (status == TAME_OK) {
          ++answered;
        } else {
          told += status == TAME_BACKEND_ERROR;
          return;
        }
      }
    });
  }
  while (answered < 3) std::this_thread::yield();
  explainer.close();
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(told, 3);
}

TEST_F(Threads, have_errors_of_their_own) {
  const tame::Explainer explainer(support::artifact(), one_thread());
  EXPECT_EQ(support::status_of([&] { (void)explainer.label(99); }), TAME_INPUT_ERROR);
  const std::string mine = tame_last_error();
  std::thread([] { EXPECT_STREQ(tame_last_error(), ""); }).join();
  EXPECT_EQ(mine, tame_last_error());
}

}  // namespace
