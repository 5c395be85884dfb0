#include <gtest/gtest.h>

#include <cstring>
#include <utility>

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
  for (const int format : {-1, 0, 14, 1 << 20}) {
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

/// A picture of any kind as RGB.
std::vector<std::uint8_t> rgb_from(const tame_image& image) {
  std::vector<std::uint8_t> found;
  with_pixels(image, {}, [&](const PixelView& view) {
    EXPECT_EQ(view.format, TAME_RGB);
    found.assign(view.data, view.data + 3 * view.width * view.height);
  });
  return found;
}

tame_image yuv_of(tame_format format, const std::uint8_t* data, int width, int height) {
  tame_image image = image_of(data, width, height);
  image.format = format;
  return image;
}

std::string yuv_message_of(const tame_image& image) {
  try {
    checked_size(image, max_pixels);
  } catch (const Failure& failure) {
    EXPECT_EQ(failure.status(), TAME_INPUT_ERROR);
    return failure.what();
  }
  return "";
}

TEST(Pixels, OfSixteenBitsMayLieAtAnyAddress) {
  const std::uint16_t levels[] = {0x1234, 0xffff, 0x8000};
  std::uint8_t bytes[7];
  std::memcpy(bytes + 1, levels, 6);
  tame_image image = image_of(bytes + 1, 3, 1);
  image.format = TAME_GRAY16;
  EXPECT_EQ(rgb_from(image), (std::vector<std::uint8_t>{18, 18, 18, 255, 255, 255, 128, 128, 128}));
  image.format = TAME_RGB16;
  image.width = 1;
  EXPECT_EQ(rgb_from(image), (std::vector<std::uint8_t>{0x12, 0xff, 0x80}));
  image.size = 5;
  EXPECT_EQ(message_of(image),
            "picture has size 5; expected at least 6 bytes for 1x1 and stride 6");
}

/// The bars that television tests its screens with: white, yellow, cyan, green, magenta, red, blue
/// and black, as BT.601 and BT.709 write them.
struct Bar {
  std::uint8_t yuv_601[3], yuv_709[3], rgb[3];
};
constexpr Bar bars[] = {
    {{235, 128, 128}, {235, 128, 128}, {255, 255, 255}},
    {{210, 16, 146}, {219, 16, 138}, {255, 255, 0}},
    {{170, 166, 16}, {188, 154, 16}, {0, 255, 255}},
    {{145, 54, 34}, {173, 42, 26}, {0, 255, 0}},
    {{106, 202, 222}, {78, 214, 230}, {255, 0, 255}},
    {{81, 90, 240}, {63, 102, 240}, {255, 0, 0}},
    {{41, 240, 110}, {32, 240, 118}, {0, 0, 255}},
    {{16, 128, 128}, {16, 128, 128}, {0, 0, 0}},
};

TEST(Yuv, ColourBarsAreWhatTheStandardsSay) {
  for (const Bar& bar : bars) {
    for (const auto& [yuv, color] :
         {std::pair{bar.yuv_601, TAME_BT601_LIMITED}, {bar.yuv_709, TAME_BT709_LIMITED}}) {
      tame_image image = yuv_of(TAME_I420, yuv, 1, 1);
      image.color = color;
      const std::vector<std::uint8_t> found = rgb_from(image);
      for (int c = 0; c < 3; ++c) EXPECT_NEAR(found[c], bar.rgb[c], 2);  // YUV itself is rounded
    }
  }
}

TEST(Yuv, NeedsAllItsPlanesButNoGapBehindTheLast) {
  tame_image image = yuv_of(TAME_NV12, some, 3, 3);
  image.size = 3 * 3 + 2 * 4;
  EXPECT_EQ(yuv_message_of(image), "");
  --image.size;
  EXPECT_EQ(yuv_message_of(image), "picture has size 16; expected at least 17 bytes for 3x3");
  image.format = TAME_I420;
  image.stride = 5;
  image.size = 5 * 3 + 3 * 2 + 3 + 2;
  EXPECT_EQ(yuv_message_of(image), "");
  --image.size;
  EXPECT_EQ(yuv_message_of(image), "picture has size 25; expected at least 26 bytes for 3x3");
}

TEST(Yuv, OfPlanesApartIsCheckedPlaneByPlane) {
  tame_image image = yuv_of(TAME_I420, some, 4, 2);
  image.chroma[0] = some;
  EXPECT_NE(yuv_message_of(image).find("expected both planes of TAME_I420, or neither"),
            std::string::npos);
  image.chroma[1] = some;
  image.size = 8;
  image.chroma_size = 2;
  EXPECT_EQ(yuv_message_of(image), "");
  image.chroma_size = 1;
  EXPECT_EQ(yuv_message_of(image), "picture has chroma_size 1; expected at least 2 bytes for 4x2");
  image.chroma_stride = 1;
  EXPECT_NE(yuv_message_of(image).find("picture has chroma_stride 1; expected at least 2 bytes"),
            std::string::npos);
  image.format = TAME_NV12;
  EXPECT_NE(yuv_message_of(image), "");
}

TEST(Yuv, IsHeldToTheBoundsOfOtherPictures) {
  tame_image image = yuv_of(TAME_NV12, some, 4, 4);
  for (const std::size_t stride : {SIZE_MAX, SIZE_MAX / 4, SIZE_MAX / 16}) {
    image.stride = stride;
    EXPECT_NE(yuv_message_of(image).find("expected no more bytes than there is memory"),
              std::string::npos);
  }
  image.stride = 0;
  image.chroma_stride = SIZE_MAX;
  EXPECT_NE(yuv_message_of(image), "");
  image.chroma_stride = 0;
  image.color = 4;
  EXPECT_NE(yuv_message_of(image).find("picture has color 4; expected"), std::string::npos);
  image = yuv_of(TAME_NV12, some, 10000, 8901);
  EXPECT_EQ(yuv_message_of(image), "picture is 10000x8901; expected at most 89 megapixels");
  image = yuv_of(TAME_NV12, nullptr, 1, 1);
  EXPECT_NE(yuv_message_of(image), "");
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
