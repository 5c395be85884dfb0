// Archives of arrays, whole and damaged: none may do more than fail.
#include "verify/npz.hpp"

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <utility>

#include "archive.hpp"
#include "error.hpp"

namespace libtame {
namespace {

std::string golden() {
  std::ifstream file(std::string(TAME_GOLDEN) + "/artifacts/schema-2/parity.npz", std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// The message of what is refused; "" for what is read.
std::string refusal(const std::string& archive) {
  try {
    read_npz(archive);
    return "";
  } catch (const Failure& failure) {
    EXPECT_EQ(failure.status(), TAME_MANIFEST_ERROR) << failure.what();
    EXPECT_STRNE(failure.what(), "");
    return failure.what();
  }
}

/// An archive with other bytes at a place behind the first header of its directory.
std::string with(std::size_t place, const std::string& bytes) {
  std::string archive = golden();
  return archive.replace(archive.find("PK\1\2") + place, bytes.size(), bytes);
}

TEST(Npz, ArraysAreReadWithTypeAndShape) {
  const auto arrays = read_npz(golden());
  ASSERT_EQ(arrays.size(), 4U);
  const std::vector<std::pair<std::string, std::string>> types{
      {"images", "|u1"}, {"class_ids", "<i8"}, {"logits", "<f4"}, {"maps", "<f4"}};
  for (const auto& [name, dtype] : types) EXPECT_EQ(arrays.at(name).dtype, dtype) << name;
  EXPECT_EQ(arrays.at("images").shape, (std::vector<std::int64_t>{3, 32, 32, 3}));
  EXPECT_EQ(arrays.at("images").bytes.size(), 3U * 32 * 32 * 3);
  EXPECT_EQ(arrays.at("maps").shape, (std::vector<std::int64_t>{3, 2, 4, 4}));
}

TEST(Npz, StoredArraysAreReadAsPackedOnesAre) {
  const auto arrays = read_npz(tests::zip({{"maps.npy", tests::npy("|u1", "(2, 3)", "abcdef")},
                                           {"one.npy", tests::npy("<f4", "()", "abcd")}}));
  EXPECT_EQ(arrays.at("maps").bytes, "abcdef");
  EXPECT_EQ(arrays.at("maps").shape, (std::vector<std::int64_t>{2, 3}));
  EXPECT_TRUE(arrays.at("one").shape.empty());
}

TEST(Npz, ATruncatedOneIsRefused) {
  const std::string whole = golden();
  for (std::size_t size = 0; size < whole.size(); size += 1 + size / 50) {
    EXPECT_NE(refusal(whole.substr(0, size)), "") << size;
  }
}

TEST(Npz, AChangedByteIsNoticedOrMeansNothing) {
  const std::string whole = golden();
  const auto expected = read_npz(whole);
  for (std::size_t place = 0; place < whole.size(); place += 3) {
    std::string changed = whole;
    changed[place] = static_cast<char>(changed[place] ^ 0x41);
    if (!refusal(changed).empty()) continue;
    // Of names, versions and times nothing is asked.
    for (const auto& [name, array] : read_npz(changed)) {
      const auto known = expected.find(name);
      if (known == expected.end()) continue;
      EXPECT_EQ(array.bytes, known->second.bytes) << place;
    }
  }
}

TEST(Npz, MemoryIsNotTakenOnTrust) {
  EXPECT_NE(refusal(with(24, std::string("\xff\xff\xff\xff", 4))).find("no reference does"),
            std::string::npos);
  EXPECT_NE(refusal(with(24, std::string("\0\0\0\x3f", 4))).find("contradict"), std::string::npos);
  EXPECT_NE(refusal(with(20, std::string("\xff\xff\xff\x7f", 4))).find("truncated"),
            std::string::npos);
  EXPECT_NE(refusal(with(42, std::string("\xff\xff\xff\xff", 4))).find("truncated"),
            std::string::npos);
  EXPECT_NE(refusal(with(8, std::string("\1\0", 2))).find("encrypted"), std::string::npos);
  EXPECT_NE(refusal(with(10, std::string("\x63\0", 2))).find("another way"), std::string::npos);
}

TEST(Npz, WhatIsNoArchiveIsRefused) {
  EXPECT_EQ(refusal(""), "cannot be read: it is no ZIP archive");
  EXPECT_EQ(refusal(std::string(100000, 'x')), "cannot be read: it is no ZIP archive");
  EXPECT_TRUE(read_npz(std::string("PK\5\6") + std::string(18, '\0')).empty());
}

}  // namespace
}  // namespace libtame
