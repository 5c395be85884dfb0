// Which profile takes a call, and what of it: no GPU, and no double of one.
#include "backends/tensorrt/sizes.hpp"

#include <gtest/gtest.h>

#include "backends/tensorrt/logger.hpp"
#include "backends/tensorrt/part.hpp"
#include "error.hpp"

namespace libtame::trt {
namespace {

const std::vector<Profile> three{
    {{1, 1, 1}, {1, 1, 5}}, {{4, 8, 16}, {1, 1, 5}}, {{2, 2, 6}, {2, 2, 4}}};

TEST(Profiles, TheTightestIsTaken) {
  const auto taken = [](std::int64_t batch, std::int64_t explained) {
    return fit(three, {batch, explained}).profile;
  };
  EXPECT_EQ(taken(1, 1), 0);
  EXPECT_EQ(taken(2, 1), 2);
  EXPECT_EQ(taken(3, 4), 2);
  EXPECT_EQ(taken(3, 5), 1);  // only that one explains five
  EXPECT_EQ(taken(4, 1), 2);  // 2 is nearer than 8
  EXPECT_EQ(taken(5, 1), 2);  // as near, and less at most
  EXPECT_EQ(taken(6, 1), 1);
  EXPECT_EQ(taken(16, 1), 1);
}

TEST(Profiles, SizesAreFilledUpToTheLeast) {
  EXPECT_EQ(fit(three, {3, 1}).sizes, (Sizes{3, 2}));
  EXPECT_EQ(fit(three, {2, 5}).sizes, (Sizes{4, 5}));
  EXPECT_EQ(fit({{{2, 2, 4}, {0, 0, 0}}}, {1, 1}).sizes, (Sizes{2, 1}));
}

TEST(Profiles, NoneHoldsIt) {
  try {
    fit(three, {17, 1});
    FAIL() << "it was taken";
  } catch (const Failure& failure) {
    EXPECT_EQ(failure.status(), TAME_INPUT_ERROR);
    EXPECT_EQ(std::string(failure.what()),
              "found 17 pictures with 1 classes each; no profile holds it (batch 1,1,1 with 1,1,5 "
              "classes each; batch 4,8,16 with 1,1,5 classes each; batch 2,2,6 with 2,2,4 classes "
              "each)");
  }
  EXPECT_EQ(largest(three), (Sizes{16, 5}));
}

TEST(Parts, TheLastEntriesAreRepeated) {
  const Tensor tensor{"class_ids", "int64", 8, {TAME_PLUGIN_BATCH, TAME_PLUGIN_EXPLAINED}};
  const std::int64_t ids[] = {10, 11, 12, 20, 21, 22, 30, 31, 32};
  tame_plugin_call call{};
  call.count = 3;
  call.explained = 3;
  call.class_ids = ids;
  std::vector<std::int64_t> found(12);
  gather({&call, 1, 1, {2, 2}}, tensor, {3, 4}, found.data());
  EXPECT_EQ(found, (std::vector<std::int64_t>{21, 22, 22, 22, 31, 32, 32, 32, 31, 32, 32, 32}));
}

TEST(Parts, OnlyWhatWasAskedForIsGivenBack) {
  const Tensor tensor{"explained", "int64", 8, {TAME_PLUGIN_BATCH, TAME_PLUGIN_EXPLAINED}};
  std::vector<std::int64_t> wanted(9, 0);
  tame_plugin_call call{};
  call.count = 3;
  call.explained = 3;
  call.explained_ids = wanted.data();
  const std::int64_t source[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
  scatter({&call, 1, 1, {2, 2}}, tensor, {3, 4}, source);
  EXPECT_EQ(wanted, (std::vector<std::int64_t>{0, 0, 0, 0, 1, 2, 0, 5, 6}));
}

TEST(Tensors, MoreBytesThanMemoryHas) {
  const Tensor tensor{"maps", "float32", 4, {TAME_PLUGIN_BATCH, 3037000500, 3037000500}};
  EXPECT_THROW(tensor.bytes({2, 1}), Failure);
}

TEST(Messages, AreLeftWhatPeopleCanRead) {
  EXPECT_EQ(
      plain("[runtime.cpp::load::12] Error Code 1: Serialization (magicTag failed In a at b)"),
      "Serialization (magicTag failed");
  EXPECT_EQ(plain("IRuntime::x: Error Code 6: Version mismatch."), "Version mismatch");
  EXPECT_EQ(plain("  plain \n words "), "plain words");
  EXPECT_EQ(plain("Error Code 3"), "Error Code 3");
}

TEST(Messages, OnlyErrorsAreHeardByThoseWhoListen) {
  using Severity = nvinfer1::ILogger::Severity;
  const Listening first;
  logger().log(Severity::kWARNING, "a warning");
  EXPECT_EQ(first.first_error("nothing"), "nothing");
  logger().log(Severity::kERROR, "one");
  const Listening second;
  logger().log(Severity::kINTERNAL_ERROR, "two");
  EXPECT_EQ(first.first_error(), "one");
  EXPECT_EQ(second.first_error(), "two");
}

}  // namespace
}  // namespace libtame::trt
