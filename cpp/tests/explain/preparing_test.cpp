// Pictures are prepared side by side, one batch ahead and no more. Run under ThreadSanitizer too.
#include "explain/preparing.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <stdexcept>

namespace libtame {
namespace {

/// Wait until something holds, or for so long that it never will.
template <typename Holds>
bool comes_true(const Holds& holds) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(30);
  while (!holds()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    std::this_thread::yield();
  }
  return true;
}

TEST(Preparing, WorksOnTwoPicturesAtOnce) {
  Preparers preparers(2);
  std::atomic<int> inside{0};
  std::atomic<int> met{0};
  Preparing preparing(preparers, 2, 2, [&](std::size_t) {
    ++inside;
    met += comes_true([&] { return inside == 2; });
  });
  preparing.wait_for_batch(0);
  EXPECT_EQ(met, 2);
}

TEST(Preparing, GoesOnWithTheNextBatchAndNoFurther) {
  Preparers preparers(2);
  std::atomic<std::size_t> done{0};
  Preparing preparing(preparers, 7, 2, [&](std::size_t) { ++done; });
  EXPECT_EQ(preparing.places(), 4U);
  preparing.wait_for_batch(0);
  EXPECT_TRUE(comes_true([&] { return done == 4; }));  // nobody waits for it
  preparing.wait_for_batch(2);
  EXPECT_TRUE(comes_true([&] { return done == 6; }));
  preparing.wait_for_batch(4);
  preparing.wait_for_batch(6);
  EXPECT_EQ(done, 7U);
}

TEST(Preparing, OfOneThreadStaysInTheCallersAndPreparesNothingAhead) {
  Preparers preparers(1);
  const std::thread::id here = std::this_thread::get_id();
  std::vector<std::size_t> order;
  Preparing preparing(preparers, 5, 2, [&](std::size_t index) {
    EXPECT_EQ(std::this_thread::get_id(), here);
    order.push_back(index);
  });
  preparing.wait_for_batch(0);
  EXPECT_EQ(order, (std::vector<std::size_t>{0, 1}));
  preparing.wait_for_batch(2);
  preparing.wait_for_batch(4);
  EXPECT_EQ(order, (std::vector<std::size_t>{0, 1, 2, 3, 4}));
}

TEST(Preparing, ThrowsWhatTheFirstBadPictureThrewThoughALaterOneWasFaster) {
  Preparers preparers(2);
  std::atomic<bool> second_failed{false};
  Preparing preparing(preparers, 8, 4, [&](std::size_t index) {
    if (index == 1) {
      EXPECT_TRUE(comes_true([&] { return second_failed.load(); }));
      throw std::runtime_error("one");
    }
    if (index == 2) {
      second_failed = true;
      throw std::runtime_error("two");
    }
  });
  try {
    preparing.wait_for_batch(0);
    ADD_FAILURE() << "nothing was thrown";
  } catch (const std::runtime_error& error) {
    EXPECT_STREQ(error.what(), "one");
  }
}

TEST(Preparing, ABadPictureOfTheNextBatchIsToldWithThatBatch) {
  Preparers preparers(2);
  std::atomic<bool> failed{false};
  Preparing preparing(preparers, 2, 1, [&](std::size_t index) {
    if (index == 0) return;
    failed = true;
    throw std::runtime_error("one");
  });
  EXPECT_NO_THROW(preparing.wait_for_batch(0));
  EXPECT_TRUE(comes_true([&] { return failed.load(); }));
  EXPECT_THROW(preparing.wait_for_batch(1), std::runtime_error);
}

TEST(Preparing, KeepsTheWarningOfTheLastPictureForTheCaller) {
  Preparers preparers(3);
  Preparing preparing(preparers, 9, 2, [&](std::size_t index) {
    if (index % 3 == 1) warn(std::to_string(index));
  });
  std::vector<std::string> told;
  for (std::size_t first = 0; first < 9; first += 2) {
    preparing.wait_for_batch(first);
    told.emplace_back(last_warning);
  }
  EXPECT_EQ(told, (std::vector<std::string>{"1", "1", "4", "7", "7"}));
}

TEST(Preparing, MayEndBeforeItIsThrough) {
  Preparers preparers(4);
  for (int round = 0; round < 50; ++round) {
    std::vector<int> memory(4);
    Preparing preparing(preparers, 100, 2, [&](std::size_t index) { ++memory[index % 4]; });
    preparing.wait_for_batch(0);
  }
}

TEST(Preparing, ServesCallsOfSeveralThreads) {
  Preparers preparers(3);
  std::vector<std::thread> callers;
  std::atomic<std::size_t> done{0};
  for (int caller = 0; caller < 4; ++caller) {
    callers.emplace_back([&] {
      Preparing preparing(preparers, 20, 3, [&](std::size_t) { ++done; });
      for (std::size_t first = 0; first < 20; first += 3) preparing.wait_for_batch(first);
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(done, 80U);
}

}  // namespace
}  // namespace libtame
