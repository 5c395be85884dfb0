#include "artifact/text.hpp"

#include <gtest/gtest.h>

#include <limits>

#include "artifact/sha256.hpp"

namespace libtame {
namespace {

TEST(FloatText, IsThatOfPython) {
  EXPECT_EQ(float_text(0.0), "0.0");
  EXPECT_EQ(float_text(-0.0), "-0.0");
  EXPECT_EQ(float_text(1.0), "1.0");
  EXPECT_EQ(float_text(0.1), "0.1");
  EXPECT_EQ(float_text(123456789.0), "123456789.0");
  EXPECT_EQ(float_text(1e-4), "0.0001");
  EXPECT_EQ(float_text(1e-5), "1e-05");
  EXPECT_EQ(float_text(1.25e-5), "1.25e-05");
  EXPECT_EQ(float_text(0.00012345678901234567), "0.00012345678901234567");
  EXPECT_EQ(float_text(1e15), "1000000000000000.0");
  EXPECT_EQ(float_text(9999999999999998.0), "9999999999999998.0");
  EXPECT_EQ(float_text(1e16), "1e+16");
  EXPECT_EQ(float_text(-1.5e300), "-1.5e+300");
  EXPECT_EQ(float_text(5e-324), "5e-324");
  EXPECT_EQ(float_text(std::numeric_limits<double>::infinity()), "inf");
}

TEST(Repr, QuotesAsPythonDoes) {
  EXPECT_EQ(repr(std::string_view("it")), "'it'");
  EXPECT_EQ(repr(std::string_view("it's")), "\"it's\"");
  EXPECT_EQ(repr(std::string_view("it's \"it\"")), "'it\\'s \"it\"'");
  EXPECT_EQ(repr(std::string_view("\\\n\r\t\0\x7f", 6)), "'\\\\\\n\\r\\t\\x00\\x7f'");
  EXPECT_EQ(repr(std::string_view("é€😀")), "'é€😀'");
  EXPECT_EQ(repr(std::string_view("\u00a0\u200b\u2028\ue000\U000f0000")),
            "'\\xa0\\u200b\\u2028\\ue000\\U000f0000'");
  EXPECT_EQ(repr(std::vector<std::string>{"a", "b'"}), "['a', \"b'\"]");
}

TEST(Cut, CountsCodePoints) {
  EXPECT_EQ(cut("é€😀x", 3), "é€😀");
  EXPECT_EQ(cut("é€", 60), "é€");
}

TEST(Utf8, SaysWhatPythonSays) {
  const auto said = [](std::string_view bytes) { return utf8_error(bytes).value_or("nothing"); };
  EXPECT_EQ(said("aé€😀\U0010ffff"), "nothing");
  EXPECT_EQ(said("a\xff"),
            "'utf-8' codec can't decode byte 0xff in position 1: invalid start byte");
  EXPECT_EQ(said("\xc0\x80"),
            "'utf-8' codec can't decode byte 0xc0 in position 0: invalid start byte");
  EXPECT_EQ(said("\xed\xa0\x80"),
            "'utf-8' codec can't decode byte 0xed in position 0: invalid continuation byte");
  EXPECT_EQ(said("a\xf0\x9f\x98"),
            "'utf-8' codec can't decode bytes in position 1-3: unexpected end of data");
  EXPECT_EQ(said("\xe2\x82(x"),
            "'utf-8' codec can't decode bytes in position 0-1: invalid continuation byte");
  EXPECT_EQ(said("\xe0\x9f\xbf\xf4\x90"),
            "'utf-8' codec can't decode byte 0xe0 in position 0: invalid continuation byte");
  EXPECT_EQ(said("\xf4\x90\x80\x80"),
            "'utf-8' codec can't decode byte 0xf4 in position 0: invalid continuation byte");
}

TEST(PathText, IsThatOfPathlib) {
  EXPECT_EQ(path_text("a//b/./c/"), "a/b/c");
  EXPECT_EQ(path_text("./a/../b"), "a/../b");
  EXPECT_EQ(path_text(""), ".");
  EXPECT_EQ(path_text("./"), ".");
  EXPECT_EQ(path_text("/"), "/");
  EXPECT_EQ(path_text("//a"), "//a");
  EXPECT_EQ(path_text("///a/"), "/a");
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
