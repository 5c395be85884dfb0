// libtame as -DTAME_DECODE=OFF builds it, without libjpeg and libpng: pixels are taken, files are not.
#include <gtest/gtest.h>

#include "error.hpp"
#include "picture/picture.hpp"

namespace libtame {
namespace {

constexpr std::uint8_t file[] = {0xff, 0xd8, 0xff, 0xe0};

template <typename Call>
std::string refusal(Call&& call) {
  try {
    call();
  } catch (const Failure& failure) {
    EXPECT_EQ(failure.status(), TAME_INPUT_ERROR);
    return failure.what();
  }
  return "";
}

TEST(WithoutDecoding, FilesAreRefusedWithTheRemedy) {
  const std::string expected =
      "picture is a file, which this libtame was built without reading; build it with "
      "-DTAME_DECODE=ON, or pass pixels";
  EXPECT_EQ(refusal([] { decode_picture(file, sizeof file); }), expected);
  EXPECT_EQ(refusal([] { decoded_size(file, sizeof file); }), expected);
}

TEST(WithoutDecoding, PixelsArePrepared) {
  const std::vector<std::uint8_t> pixels(2 * 2 * 3, 77);
  ImageSpec spec;
  spec.height = spec.width = spec.resize = 2;
  std::vector<std::uint8_t> out(pixels.size());
  prepare({pixels.data(), 2, 2, 6, TAME_RGB}, spec, out.data());
  EXPECT_EQ(out, pixels);
}

}  // namespace
}  // namespace libtame
