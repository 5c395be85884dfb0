#include "artifact/contrast.hpp"

#include <gtest/gtest.h>

#include <set>

namespace libtame {
namespace {

TEST(Contrast, WhatWasEncodedIsDecodedAndNothingElseMeansAnything) {
  for (const std::int64_t classes : {2, 5, 17}) {
    std::set<std::int64_t> numbers;
    for (std::int64_t own = likeliest_id; own < classes; ++own) {
      for (std::int64_t versus = alone_id; versus < classes; ++versus) {
        const std::int64_t number = encode_contrast({own, versus}, classes);
        const Question found = decode_contrast(number, classes);
        EXPECT_EQ(found.own, own);
        EXPECT_EQ(found.versus, versus);
        EXPECT_TRUE(numbers.insert(number).second) << number;
      }
    }
    const std::int64_t far = 2 * (classes + 1) * (classes + 1);
    for (std::int64_t number = -far; number < 2 * classes; ++number) {
      EXPECT_EQ(is_question(number, classes), numbers.count(number) == 1) << number;
    }
  }
}

TEST(Contrast, NumbersAreThoseOfTheDocuments) {
  EXPECT_EQ(encode_contrast({likeliest_id, 7}, 1000), -9);
  EXPECT_EQ(encode_contrast({281, 282}, 1000), -282566);
  EXPECT_GE(encode_contrast({most_contrasted - 1, most_contrasted - 1}, most_contrasted),
            INT32_MIN);
}

}  // namespace
}  // namespace libtame
