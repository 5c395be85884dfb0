#include <gtest/gtest.h>

#include "error.hpp"
#include "picture/picture.hpp"

namespace libtame {
namespace {

std::string message_of(const std::string& file, std::int64_t most = max_pixels) {
  try {
    Reading reading;
    reading.max_pixels = most;
    decode_picture(file.data(), file.size(), reading);
  } catch (const Failure& failure) {
    EXPECT_EQ(failure.status(), TAME_INPUT_ERROR);
    return failure.what();
  }
  return "";
}

#ifdef TAME_DECODE

/// PNG, 2x1, gray levels 1 and 2; the checksums are right.
const std::string tiny(
    "\211\120\116\107\015\012\032\012"
    "\000\000\000\015\111\110\104\122\000\000\000\002\000\000\000\001\010\000\000\000\000\321\111"
    "\040\126"
    "\000\000\000\013\111\104\101\124\170\234\143\140\144\002\000\000\007\000\004\166\111\343\050"
    "\000\000\000\000\111\105\116\104\256\102\140\202",
    68);

TEST(Decode, ReadsPng) {
  const Picture picture = decode_picture(tiny.data(), tiny.size());
  EXPECT_EQ(picture.width, 2);
  EXPECT_EQ(picture.height, 1);
  EXPECT_EQ(picture.pixels, (std::vector<std::uint8_t>{1, 1, 1, 2, 2, 2}));
  EXPECT_EQ(decoded_size(tiny.data(), tiny.size()), (Size{2, 1}));
}

TEST(Decode, RefusesOtherFiles) {
  EXPECT_EQ(
      message_of(""),
      "picture is not a picture in JPEG, PNG (found no bytes). Convert it, or pass its pixels");
  EXPECT_EQ(message_of("GIF89a"),
            "picture is not a picture in JPEG, PNG (found a GIF file). Convert it, or pass its "
            "pixels");
  EXPECT_THROW(decode_picture(nullptr, 0), Failure);
}

TEST(Decode, RefusesWhatIsCutOff) {
  for (std::size_t size = 8; size < 47; ++size) {
    EXPECT_EQ(message_of(tiny.substr(0, size)).rfind("picture cannot be decoded: ", 0), 0u) << size;
  }
  EXPECT_EQ(message_of("\xff\xd8\xff"), "picture cannot be decoded: the file is truncated");
}

TEST(Decode, RefusesTooManyPixelsBeforeItDecodes) {
  EXPECT_EQ(message_of(tiny, 2), "");
  EXPECT_EQ(message_of(tiny, 1).rfind("picture is 2x1; expected at most ", 0), 0u);
}

TEST(Decode, RefusesAWrongChecksum) {
  std::string damaged = tiny;
  damaged[29] ^= 1;
  EXPECT_EQ(message_of(damaged), "picture cannot be decoded: the checksum of chunk IHDR is wrong");
}

/// A progressive JPEG whose scans are all empty.
std::string scans(int count) {
  const auto bytes = [](std::initializer_list<int> values) {
    return std::string(values.begin(), values.end());
  };
  std::string file = bytes({0xff, 0xd8, 0xff, 0xdb, 0, 67, 0}) + std::string(64, '\1');
  file += bytes({0xff, 0xc2, 0, 11, 8, 0, 8, 0, 8, 1, 1, 0x11, 0});
  file += bytes({0xff, 0xc4, 0, 20, 0, 1}) + std::string(15, '\0') + '\0';
  file += bytes({0xff, 0xda, 0, 8, 1, 1, 0, 0, 0, 1, 0x7f});
  for (int i = 1; i < count; ++i) file += bytes({0xff, 0xda, 0, 8, 1, 1, 0, 0, 0, 0x10, 0x7f});
  return file + bytes({0xff, 0xd9});
}

TEST(Decode, BoundsTheScansOfAJpeg) {
  EXPECT_EQ(message_of(scans(50)), "");
  EXPECT_EQ(message_of(scans(5000)), "picture cannot be decoded: more than 100 scans");
}

#else

TEST(Decode, SaysThatItWasBuiltWithout) {
  EXPECT_NE(message_of("anything").find("-DTAME_DECODE=ON"), std::string::npos);
}

#endif

}  // namespace
}  // namespace libtame
