#include <gtest/gtest.h>

#include "error.hpp"
#include "picture/picture.hpp"

namespace libtame {
namespace {

tame_image image_of(const std::uint8_t* data, int width, int height) {
  tame_image image{};
  image.format = TAME_RGB;
  image.data = data;
  image.width = width;
  image.height = height;
  return image;
}

std::string message_of(const tame_image& image) {
  try {
    checked_pixels(image);
  } catch (const Failure& failure) {
    EXPECT_EQ(failure.status(), TAME_INPUT_ERROR);
    return failure.what();
  }
  return "";
}

const std::uint8_t some[64] = {};

TEST(Pixels, AreTakenWithoutAGapByDefault) {
  const PixelView view = checked_pixels(image_of(some, 4, 3));
  EXPECT_EQ(view.data, some);
  EXPECT_EQ(view.stride, 12u);
  EXPECT_EQ(view.width, 4);
  EXPECT_EQ(view.height, 3);
}

TEST(Pixels, NeedTheirLastRowToBeThereButNoGapBehindIt) {
  tame_image image = image_of(some, 4, 3);
  image.stride = 20;
  image.size = 52;
  EXPECT_EQ(message_of(image), "");
  image.size = 51;
  EXPECT_EQ(message_of(image),
            "picture has size 51; expected at least 52 bytes for 4x3 and stride 20");
}

TEST(Pixels, OfAnUnknownFormatAreRefused) {
  tame_image image = image_of(some, 1, 1);
  for (const int format : {-1, 0, 8, 1 << 20}) {
    image.format = format;
    EXPECT_NE(message_of(image).find("picture has format " + std::to_string(format) + "; expected"),
              std::string::npos);
  }
}

TEST(Pixels, AtNullAreRefused) {
  EXPECT_EQ(message_of(image_of(nullptr, 1, 1)),
            "picture has data NULL; expected the address of its pixels");
}

TEST(Pixels, MustHaveSidesInRange) {
  EXPECT_EQ(message_of(image_of(some, 0, 1)), "picture is 0x1; expected 1 to 65535 pixels a side");
  EXPECT_EQ(message_of(image_of(some, 1, -1)),
            "picture is 1x-1; expected 1 to 65535 pixels a side");
  EXPECT_EQ(message_of(image_of(some, 65536, 1)),
            "picture is 65536x1; expected 1 to 65535 pixels a side");
  EXPECT_EQ(message_of(image_of(some, 65535, 1)), "");
}

TEST(Pixels, MustNotBeTooMany) {
  EXPECT_EQ(message_of(image_of(some, 10000, 8901)),
            "picture is 10000x8901; expected at most 89 megapixels");
  EXPECT_EQ(message_of(image_of(some, 10000, 8900)), "");
}

TEST(Pixels, MayBeMoreWhereTheCallerSaysSo) {
  EXPECT_EQ(checked_pixels(image_of(some, 12000, 9000), most_pixels).width, 12000);
  EXPECT_THROW(checked_pixels(image_of(some, 12000, 9000)), Failure);
}

TEST(Pixels, ShowWhiteWhereTheyAreTransparent) {
  const std::uint8_t pixels[] = {10, 20, 30, 255, 40, 50, 60, 0, 70, 80, 90, 51};
  tame_image image = image_of(pixels, 3, 1);
  std::vector<std::uint8_t> found;
  const auto read = [&] {
    with_pixels(image, {}, [&](const PixelView& view) {
      EXPECT_EQ(view.format, TAME_RGB);
      found.assign(view.data, view.data + 9);
    });
    return found;
  };
  image.format = TAME_RGBA;
  EXPECT_EQ(read(), (std::vector<std::uint8_t>{10, 20, 30, 255, 255, 255, 218, 220, 222}));
  image.format = TAME_BGRA;
  EXPECT_EQ(read(), (std::vector<std::uint8_t>{30, 20, 10, 255, 255, 255, 222, 220, 218}));
}

TEST(Pixels, MayBeAsManyAsIsSaid) {
  EXPECT_NO_THROW(check_pixels(2, 3, 6));
  EXPECT_THROW(check_pixels(2, 3, 5), Failure);
  EXPECT_THROW(check_pixels(0, 3, 6), Failure);
  EXPECT_THROW(check_pixels(std::int64_t{1} << 62, 4, 6), Failure);
}

TEST(Pixels, MustFitIntoTheirStride) {
  tame_image image = image_of(some, 4, 3);
  image.stride = 11;
  EXPECT_EQ(message_of(image),
            "picture has stride 11; expected at least 12 bytes for 4 pixels, or 0 for rows "
            "without a gap");
  image.format = TAME_BGRA;
  image.stride = 15;
  EXPECT_NE(message_of(image), "");
  image.format = TAME_GRAY;
  image.stride = 4;
  EXPECT_EQ(message_of(image), "");
}

TEST(Pixels, WithAStrideThatOverflowsAreRefused) {
  tame_image image = image_of(some, 4, 3);
  for (const std::size_t stride : {SIZE_MAX, SIZE_MAX / 2, SIZE_MAX / 2 + 1, SIZE_MAX / 4 + 1}) {
    image.stride = stride;
    EXPECT_NE(message_of(image).find("expected no more bytes than there is memory"),
              std::string::npos);
  }
}

}  // namespace
}  // namespace libtame
