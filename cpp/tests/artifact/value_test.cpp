#include "artifact/value.hpp"

#include "artifact/decode.hpp"
#include "artifact/schema_1.hpp"
#include "support.hpp"

namespace libtame {
namespace {

using testing::message_of;

std::string canonical(const std::string& text) {
  return identity_text_of_schema_1(parse_object(text, "it"));
}

std::string refused_text(const std::string& text) {
  return message_of(TAME_MANIFEST_ERROR, [&] { parse_object(text, "it"); });
}

TEST(TextOfSchema1, IsInPythonsSpelling) {
  EXPECT_EQ(canonical(R"( {"b": [1, 2.0, -0, true, false, null], "a": {}, "é": []} )"),
            "{\"a\":{},\"b\":[1,2.0,0,true,false,null],\"\\u00e9\":[]}");
  EXPECT_EQ(canonical(R"({"a": "\"\\\/\b\f\n\r\t\u0001\u007f é 😀"})"),
            R"({"a":"\"\\/\b\f\n\r\t\u0001\u007f \u00e9 \ud83d\ude00"})");
  // By code point: the last one comes after a private one that UTF-16 would put behind it.
  EXPECT_EQ(canonical("{\"\U0001f600\": 1, \"\uffee\": 2, \"Z\": 3, \"a\": 4}"),
            R"({"Z":3,"a":4,"\uffee":2,"\ud83d\ude00":1})");
  EXPECT_EQ(canonical(R"({"a": 9223372036854775807, "b": -9223372036854775808})"),
            R"({"a":9223372036854775807,"b":-9223372036854775808})");
}

TEST(TextOfSchema1, HasPythonsFloats) {
  for (const char* number : {"0.0", "-0.0", "1.0", "0.1", "123456789.0", "0.0001", "1e-05",
                             "1.25e-05", "0.00012345678901234567", "1000000000000000.0",
                             "9999999999999998.0", "1e+16", "-1.5e+300", "5e-324"}) {
    EXPECT_EQ(canonical(words(R"({"a":)", number, "}")), words(R"({"a":)", number, "}"));
  }
}

TEST(Parse, KeepsTheLastOfDuplicatesInTheFirstPlace) {
  const Value value = parse_object(R"({"b": 1, "a": 2, "b": 3, "c": 4, "a": 5, "b": 6})", "it");
  EXPECT_EQ(value.dump(), R"({"b":6,"a":5,"c":4})");
}

TEST(Parse, TakesTheNearestOfWholeNumbersThatAreTooLarge) {
  const Value value = parse_object(
      R"({"a": [18446744073709551615, 123456789012345678901234567890, -123456789012345678901]})",
      "it");
  EXPECT_EQ(value.dump(),
            R"({"a":[9223372036854775807,9223372036854775807,-9223372036854775808]})");
  EXPECT_TRUE(value["a"][0].is_number_integer());
}

TEST(Parse, RefusesWhatPythonRefuses) {
  for (const char* text : {"", "{", "{}x", "[1,]", "{'a': 1}", R"({"a": NaN})", R"({"a": 1e400})",
                           R"({"a": "\ud800"})", R"({"a": "\udc00\ud800"})", R"({"a": 01})",
                           "{\"a\": \"\n\"}", "{} // comment"}) {
    EXPECT_HOLDS(refused_text(text), "it is not valid JSON: ") << text;
  }
  EXPECT_HOLDS(refused_text("\xef\xbb\xbf{}"), "byte order mark");
  EXPECT_HOLDS(refused_text(std::string("{}\0{}", 5)), "NUL");
  EXPECT_EQ(refused_text("[]"), "it holds []; expected an object");
  EXPECT_EQ(refused_text("null"), "it holds null; expected an object");
}

TEST(Parse, BoundsDepthAndNumber) {
  EXPECT_HOLDS(refused_text(std::string(100'000, '[')), "nested over 500 levels");
  const std::string deepest = std::string(499, '[') + std::string(499, ']');
  EXPECT_EQ(parse_object(R"({"a":)" + deepest + "}", "it").dump(), R"({"a":)" + deepest + "}");
  std::string many = "[0";
  for (int index = 0; index < (1 << 14); ++index) {
    many += ",0";
  }
  EXPECT_HOLDS(refused_text(many + "]"), "more than 16384 values");
}

TEST(Parse, MessagesAreUnicode) {
  EXPECT_HOLDS(refused_text("\uffff"), "last read: '?");  // two bytes in, it is no byte order mark
  EXPECT_HOLDS(refused_text("{\"é\u20ac\": x}"), "last read");
}

TEST(Parse, MessagesStayShort) {
  EXPECT_LT(refused_text("{\"a\": \"" + std::string(1 << 20, 'x')).size(), 400U);
}

TEST(Decode, NamesThePlaceAndWhatIsThere) {
  const auto said = [](const Decoder& decoder, const std::string& text) {
    return message_of(TAME_MANIFEST_ERROR,
                      [&] { decoder(parse_object("{\"it\":" + text + "}", "text")["it"], "x"); });
  };
  EXPECT_EQ(said(decode_int(), "\"10\""), "x is \"10\"; expected a whole number");
  EXPECT_EQ(said(decode_int(), "true"), "x is true; expected a whole number");
  EXPECT_EQ(said(decode_int(), "1.0"), "x is 1.0; expected a whole number");
  EXPECT_EQ(said(decode_bool(), "1"), "x is 1; expected true or false");
  EXPECT_EQ(said(decode_str(), "null"), "x is null; expected a string");
  EXPECT_EQ(said(decode_float(), "9007199254740992"), "x is 9007199254740992; expected a number");
  EXPECT_HOLDS(said(decode_float(), "-9007199254740992"), "expected a number");
  EXPECT_EQ(said(decode_int_or_str(), "[{}]"), "x is [{}]; expected a whole number");
  EXPECT_EQ(said(decode_choice({"a", "b"}), "{\"c\": [null]}"),
            "x is {\"c\":[null]}; expected one of a, b");
  EXPECT_EQ(said(decode_optional(decode_int()), "\"\""), "x is \"\"; expected a whole number");
  EXPECT_EQ(said(decode_list(decode_int()), "[1, \"2\"]"),
            "x[1] is \"2\"; expected a whole number");
  EXPECT_EQ(said(decode_array(decode_int(), 3), "[1]"), "x has 1 entries; expected 3");
  EXPECT_EQ(said(decode_dict(decode_int()), "{\"a\": 1, \"b c\": null}"),
            "x.b c is null; expected a whole number");
  EXPECT_EQ(said(decode_dict(decode_int()), "[]"), "x is []; expected an object");
  EXPECT_EQ(said(decode_int(), '"' + std::string(100, 'y') + '"'),
            "x is \"" + std::string(59, 'y') + "…; expected a whole number");
  const Decoder object = decode_object({{"length", decode_int(), {}}, {"b", decode_int(), {}}});
  EXPECT_EQ(said(object, R"({"z": 1, "\n": 2})"), "unknown key x.\\n; known: b, length");
  EXPECT_EQ(said(object, R"({"lenght": 1})"), "unknown key x.lenght; known: b, length");
  EXPECT_EQ(said(object, "{}"), "x.b, x.length are missing");
  EXPECT_EQ(said(object, R"({"b": 1})"), "x.length is missing");
}

TEST(Decode, MakesFloatsOfWholeNumbersAndFillsIn) {
  const Decoder object =
      decode_object({{"a", decode_float(), {}}, {"b", decode_str(), Value("there")}});
  Value made = parse_object(R"({"a": -9007199254740991})", "text");
  object(made, "x");
  EXPECT_EQ(made.dump(), R"({"a":-9.007199254740991e+15,"b":"there"})");
}

}  // namespace
}  // namespace libtame
