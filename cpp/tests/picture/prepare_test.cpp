#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "error.hpp"
#include "picture/picture.hpp"
#include "picture/resample.hpp"

namespace libtame {
namespace {

using Pixels = std::vector<std::uint8_t>;

/// A picture of one row of gray levels.
Pixels prepared(const Pixels& gray, Size size, const ImageSpec& spec) {
  const PixelView view{gray.data(), size[0], size[1], static_cast<std::size_t>(size[0]), TAME_GRAY};
  Pixels out(std::size_t{3} * spec.height * spec.width, 77);
  prepare(view, spec, out.data());
  Pixels red;
  for (std::size_t i = 0; i < out.size(); i += 3) {
    EXPECT_EQ(out[i], out[i + 1]);
    EXPECT_EQ(out[i], out[i + 2]);
    red.push_back(out[i]);
  }
  return red;
}

ImageSpec spec_of(int height, int width, int resize, Crop crop, Interpolation interpolation) {
  ImageSpec spec;
  spec.height = height;
  spec.width = width;
  spec.resize = resize;
  spec.crop = crop;
  spec.interpolation = interpolation;
  return spec;
}

// The expected levels are Pillow's.
TEST(Prepare, WeighsPixelsAsPillow) {
  const Pixels row{0, 255, 10, 200, 90};
  const auto squeezed = [&](int width, Interpolation interpolation) {
    return prepared(row, {5, 1}, spec_of(1, width, 1, Crop::none, interpolation));
  };
  EXPECT_EQ(squeezed(3, Interpolation::nearest), (Pixels{0, 10, 90}));
  EXPECT_EQ(squeezed(3, Interpolation::bilinear), (Pixels{109, 107, 137}));
  EXPECT_EQ(squeezed(3, Interpolation::bicubic), (Pixels{108, 115, 134}));
  EXPECT_EQ(squeezed(3, Interpolation::lanczos), (Pixels{106, 125, 128}));
  EXPECT_EQ(squeezed(7, Interpolation::bicubic), (Pixels{0, 159, 209, 10, 155, 164, 84}));
}

TEST(Prepare, PadsWithBlackWhereTheCropIsLarger) {
  const Pixels found =
      prepared({9, 9, 9, 9}, {2, 2}, spec_of(5, 4, 2, Crop::center, Interpolation::bilinear));
  EXPECT_EQ(found, (Pixels{0, 0, 0, 0, 0, 9, 9, 0, 0, 9, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0}));
}

TEST(Prepare, RoundsHalfACropToEven) {
  Pixels row(7);
  std::iota(row.begin(), row.end(), std::uint8_t{0});
  const auto cut = [&](int side, int width) {
    return prepared(Pixels(row.begin(), row.begin() + side), {side, 1},
                    spec_of(1, width, 1, Crop::center, Interpolation::bilinear));
  };
  EXPECT_EQ(cut(5, 2), (Pixels{2, 3}));  // 1.5 to 2
  EXPECT_EQ(cut(6, 1), (Pixels{2}));     // 2.5 to 2
  EXPECT_EQ(cut(7, 3), (Pixels{2, 3, 4}));
}

TEST(Prepare, ReadsEveryFormatAlike) {
  const Pixels rgb{10, 20, 30, 200, 100, 50}, bgr{30, 20, 10, 50, 100, 200};
  const Pixels rgba{10, 20, 30, 1, 200, 100, 50, 2}, bgra{30, 20, 10, 3, 50, 100, 200, 4};
  const struct {
    const Pixels& pixels;
    tame_format format;
  } cases[] = {{rgb, TAME_RGB}, {bgr, TAME_BGR}, {rgba, TAME_RGBX}, {bgra, TAME_BGRX}};
  for (const int width : {2, 3}) {  // copied and weighed
    for (const Interpolation interpolation : {Interpolation::nearest, Interpolation::bilinear}) {
      const ImageSpec spec = spec_of(1, width, 1, Crop::none, interpolation);
      Pixels expected(std::size_t{3} * width);
      prepare({rgb.data(), 2, 1, 6, TAME_RGB}, spec, expected.data());
      for (const auto& [pixels, format] : cases) {
        Pixels found(expected.size());
        prepare({pixels.data(), 2, 1, pixels.size(), format}, spec, found.data());
        EXPECT_EQ(found, expected) << format;
      }
    }
  }
}

TEST(Prepare, NormalisesToPlanes) {
  const Pixels rgb{0, 51, 255, 255, 102, 0};
  ImageSpec spec = spec_of(1, 2, 1, Crop::none, Interpolation::bilinear);
  spec.dtype = InputType::float32;
  spec.mean = {0.0, 0.2, 0.5};
  spec.std = {1.0, 0.5, 0.25};
  float found[6];
  tame_image image{};
  image.format = TAME_RGB;
  image.width = 2;
  image.height = 1;
  image.data = rgb.data();
  prepare_input(image, {}, spec, found);
  const float expected[] = {0.0f, 1.0f, 0.0f, 0.4f, 2.0f, -2.0f};
  for (int i = 0; i < 6; ++i) EXPECT_NEAR(found[i], expected[i], 1e-6f);
}

TEST(Prepare, RefusesAStrip) {
  const Pixels strip(60000);
  try {
    prepared(strip, {1, 60000}, spec_of(224, 224, 2048, Crop::center, Interpolation::bilinear));
    FAIL();
  } catch (const Failure& failure) {
    EXPECT_EQ(failure.status(), TAME_INPUT_ERROR);
    EXPECT_STREQ(failure.what(), "picture is 1x60000: too long and narrow to resize");
  }
}

TEST(Prepare, KnowsWhatIsVisible) {
  EXPECT_EQ(visible_box({500, 375}, spec_of(224, 224, 256, Crop::none, Interpolation::bilinear)),
            (Box{0, 0, 500, 375}));
  const Box box =
      visible_box({100, 50}, spec_of(10, 10, 20, Crop::center, Interpolation::bilinear));
  EXPECT_EQ(box, (Box{37.5, 12.5, 62.5, 37.5}));
}

TEST(Taps, SumToOneAndStayInside) {
  for (const auto kind :
       {Interpolation::bilinear, Interpolation::bicubic, Interpolation::lanczos}) {
    for (std::int64_t in = 1; in < 40; ++in) {
      for (int out = 1; out < 40; ++out) {
        const auto taps = exact_taps({in, out, 0, out}, kind);
        for (int place = 0; place < out; ++place) {
          ASSERT_LE(taps.start[place] + taps.length[place], in);
          ASSERT_LE(taps.length[place], taps.width);
          const double* row = taps.row(place);
          ASSERT_NEAR(std::accumulate(row, row + taps.length[place], 0.0), 1.0, 1e-12);
          double magnitude = 0;
          for (int i = 0; i < taps.length[place]; ++i) magnitude += std::fabs(row[i]);
          ASSERT_LT(magnitude, 2.0);  // else 32 bits are too few for sums of levels
        }
      }
    }
  }
}

TEST(Taps, OfAWindowAreThoseOfTheWhole) {
  const auto whole = exact_taps({50, 33, 0, 33}, Interpolation::lanczos);
  const auto window = exact_taps({50, 33, 10, 5}, Interpolation::lanczos);
  for (int place = 0; place < 5; ++place) {
    EXPECT_EQ(window.start[place], whole.start[10 + place]);
    for (int i = 0; i < window.length[place]; ++i) {
      EXPECT_EQ(window.row(place)[i], whole.row(10 + place)[i]);
    }
  }
}

}  // namespace
}  // namespace libtame
