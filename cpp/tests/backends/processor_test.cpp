#include "backends/processor.hpp"

#include <gtest/gtest.h>

#include <algorithm>

namespace libtame {
namespace {

TEST(Processor, ItHasANameAndIsDescribedInALine) {
  EXPECT_FALSE(processor_name().empty());
  EXPECT_EQ(processor_and_sets().rfind(processor_name() + " (", 0), 0);
  EXPECT_EQ(processor_and_sets().find('\n'), std::string::npos);
}

TEST(Processor, NoInstructionIsNamedTwice) {
  std::vector<std::string> found = instructions();
  std::sort(found.begin(), found.end());
  EXPECT_EQ(std::adjacent_find(found.begin(), found.end()), found.end());
}

}  // namespace
}  // namespace libtame
