#include "artifact/onnx_metadata.hpp"

#include <gtest/gtest.h>

#include <sstream>

namespace libtame {
namespace {

std::string field(int number, const std::string& bytes) {
  return std::string(1, static_cast<char>(number << 3 | 2)) + static_cast<char>(bytes.size()) +
         bytes;
}

std::string entry(const std::string& key, const std::string& value) {
  return field(14, field(1, key) + field(2, value));
}

const std::string version("\x08\x0a", 2);
const std::string graph = field(7, "a graph");

OnnxMetadata found_in(const std::string& bytes) {
  std::istringstream stream(bytes);
  return find_onnx_metadata(stream, bytes.size(), "key", 10);
}

TEST(OnnxMetadata, IsFoundAmongOtherFields) {
  const std::string bytes = version + entry("other", "no") + graph + entry("key", "yes") +
                            std::string(
                                "\x31"
                                "12345678"
                                "\x35"
                                "1234",
                                14);
  const OnnxMetadata found = found_in(bytes);
  EXPECT_TRUE(found.is_model);
  EXPECT_EQ(found.value, "yes");
}

TEST(OnnxMetadata, TheLastOneCounts) {
  EXPECT_EQ(found_in(graph + entry("key", "1") + entry("key", "2")).value, "2");
  const std::string twice = field(14, field(1, "x") + field(2, "1") + field(1, "key"));
  EXPECT_EQ(found_in(graph + twice).value, "1");
}

TEST(OnnxMetadata, IsNotThere) {
  EXPECT_TRUE(found_in(graph).is_model);
  EXPECT_EQ(found_in(graph).value, std::nullopt);
  EXPECT_EQ(found_in(graph + entry("key", "longer than ten")).value, "");
  EXPECT_EQ(found_in(graph + field(14, "")).value, std::nullopt);
}

TEST(OnnxMetadata, EveryTruncationIsNoticed) {
  const std::string bytes = graph + entry("key", "yes") +
                            std::string(
                                "\x35"
                                "1234",
                                5);
  const std::string whole = graph + entry("key", "yes");
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    const bool ends_between_fields = size == graph.size() || size == whole.size();
    EXPECT_EQ(found_in(bytes.substr(0, size)).is_model, ends_between_fields) << size;
  }
}

TEST(OnnxMetadata, WhatIsNoModelIsSaidToBeNone) {
  for (const std::string& bytes :
       {std::string(), version, std::string("garbage"), entry("key", "yes"),
        graph + std::string("\0\0", 2),                   // field 0
        graph + "\x0e",                                   // no such wire type
        graph + "\x08" + std::string(10, '\x80') + "\1",  // a number of 11 bytes
        graph + std::string("\x0c", 1),                   // the end of no group
        graph + std::string("\x0b\x14", 2),               // the end of another group
        graph + "\x0b",                                   // a group without an end
        graph + std::string(200, '\x0b') + std::string(200, '\x0c'),
        graph + "\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  // longer than there is
        graph + field(14, std::string("\x0a\x05"
                                      "key",
                                      5))}) {
    EXPECT_FALSE(found_in(bytes).is_model) << ::testing::PrintToString(bytes);
    EXPECT_EQ(found_in(bytes).value.has_value(), bytes == entry("key", "yes"));
  }
}

TEST(OnnxMetadata, NoEntryReachesIntoTheNextField) {
  const std::string next("\x08\x80\x01", 3);
  EXPECT_TRUE(found_in(graph + field(14, "\x0a\x03key") + next).is_model);
  EXPECT_FALSE(found_in(graph + field(14, "\x0a\x06key") + next).is_model);
}

TEST(OnnxMetadata, NothingHidesInAGroup) {
  const std::string hidden = "\x0b\x13\x14" + entry("key", "hidden") + "\x0c";
  EXPECT_EQ(found_in(graph + entry("key", "yes") + hidden).value, "yes");
  EXPECT_TRUE(found_in(graph + hidden).is_model);
}

}  // namespace
}  // namespace libtame
