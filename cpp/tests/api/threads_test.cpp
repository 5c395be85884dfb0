// One handle, many threads. Run under ThreadSanitizer too.
#include <atomic>
#include <thread>

#include "support.hpp"

// ThreadSanitizer does not see how ONNX Runtime's own threads wait for each other.
extern "C" const char* __tsan_default_suppressions() { return "race:libonnxruntime.so\n"; }

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

TEST_F(Threads, of_an_explainer_prepare_pictures_as_one_does) {
  tame::Options options;
  options.threads = 3;
  const tame::Explainer explainer(support::artifact(), options);
  tame::Request request;
  request.batch_size = 3;
  std::vector<tame::Picture> pictures;
  std::vector<std::uint8_t> tensor;
  for (unsigned seed = 0; seed < 11; ++seed) {
    pictures.push_back(support::pattern(60 + static_cast<int>(seed), 50, seed));
    const std::vector<std::uint8_t> one = explainer.prepare(pictures.back());
    tensor.insert(tensor.end(), one.begin(), one.end());
  }
  const tame::Explanation expected =
      explainer.explain_prepared({tensor.data(), tensor.size()}, pictures.size(), request);
  const std::vector<tame::Image> images(pictures.begin(), pictures.end());
  const tame::Explanation found = explainer.explain(images, request);
  for (std::size_t index = 0; index < pictures.size(); ++index) {
    EXPECT_TRUE(std::equal(expected.map(index).begin(), expected.map(index).end(),
                           found.map(index).begin()));
    EXPECT_TRUE(std::equal(expected.logits(index).begin(), expected.logits(index).end(),
                           found.logits(index).begin()));
  }
}

TEST_F(Threads, of_an_explainer_tell_the_first_bad_picture) {
  tame::Options options;
  options.threads = 3;
  const tame::Explainer explainer(support::artifact(), options);
  const tame::Picture good = support::pattern(60, 50);
  std::vector<tame::Image> images(9, tame::Image(good));
  const std::string text = "no picture";
  const std::vector<std::uint8_t> bytes(text.begin(), text.end());
  images[4] = images[5] = images[7] = tame::Image::encoded(bytes);
  tame::Request request;
  request.batch_size = 2;
  EXPECT_EQ(support::status_of([&] { (void)explainer.explain(images, request); }),
            TAME_INPUT_ERROR);
  EXPECT_EQ(std::string(tame_last_error()).find("picture 4: "), 0U) << tame_last_error();
}

TEST_F(Threads, have_errors_of_their_own) {
  const tame::Explainer explainer(support::artifact(), one_thread());
  EXPECT_EQ(support::status_of([&] { (void)explainer.label(99); }), TAME_INPUT_ERROR);
  const std::string mine = tame_last_error();
  std::thread([] { EXPECT_STREQ(tame_last_error(), ""); }).join();
  EXPECT_EQ(mine, tame_last_error());
}

}  // namespace
