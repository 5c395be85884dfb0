#include "artifact/text.hpp"

#include <gtest/gtest.h>

#include "artifact/sha256.hpp"

namespace libtame {
namespace {

TEST(Text, InQuotesIsOneLineOfAscii) {
  EXPECT_EQ(in_quotes("it's"), "\"it's\"");
  EXPECT_EQ(in_quotes("a\n\"\\\x7f é"), "\"a\\n\\\"\\\\\\u007f \\u00e9\"");
  EXPECT_EQ(in_quotes("\xff"), "\"\\ufffd\"");
}

TEST(Text, KnowsUtf8) {
  EXPECT_TRUE(is_utf8("aé€😀\U0010ffff"));
  for (const char* bytes :
       {"a\xff", "\xc0\x80", "\xed\xa0\x80", "a\xf0\x9f\x98", "\xf4\x90\x80\x80"}) {
    EXPECT_FALSE(is_utf8(bytes)) << ::testing::PrintToString(bytes);
  }
}

TEST(Sha256, IsThatOfTheStandard) {
  EXPECT_EQ(sha256(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(sha256("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  Sha256 hash;
  for (int block = 0; block < 1000; ++block) {
    hash.add(std::string(1000, 'a').data(), 1000);
  }
  EXPECT_EQ(hash.hex(), "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

}  // namespace
}  // namespace libtame
