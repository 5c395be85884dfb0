#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "picture/picture.hpp"

namespace libtame {
namespace {

using Pixels = std::vector<std::uint8_t>;
constexpr float nan = std::numeric_limits<float>::quiet_NaN();
constexpr float infinity = std::numeric_limits<float>::infinity();

Pixels blended(const Pixels& gray, Size size, const std::vector<float>& heat, Size heat_size,
               const Box& box, double strength, bool is_signed = false) {
  const PixelView view{gray.data(), size[0], size[1], static_cast<std::size_t>(size[0]), TAME_GRAY};
  Pixels out(3 * gray.size(), 1);
  blend(view, heat.data(), heat_size, box, strength, out.data(), std::size_t{3} * size[0],
        is_signed);
  return out;
}

TEST(Blend, LeavesAloneWhatIsSeenButDoesNotMatter) {
  EXPECT_EQ(blended({7, 200}, {2, 1}, {0.0f}, {1, 1}, {0, 0, 2, 1}, 1.0),
            (Pixels{7, 7, 7, 200, 200, 200}));
}

TEST(Blend, CoversWhatMattersMost) {
  EXPECT_EQ(blended({7}, {1, 1}, {1.0f}, {1, 1}, {0, 0, 1, 1}, 1.0), (Pixels{252, 255, 164}));
  EXPECT_EQ(blended({7}, {1, 1}, {1.0f}, {1, 1}, {0, 0, 1, 1}, 0.0), (Pixels{7, 7, 7}));
}

TEST(Blend, HasTwoColoursForADifferenceOfTwoMaps) {
  const Box box{0, 0, 1, 1};
  EXPECT_EQ(blended({7}, {1, 1}, {1.0f}, {1, 1}, box, 1.0, true), (Pixels{255, 190, 92}));
  EXPECT_EQ(blended({7}, {1, 1}, {-5.0f}, {1, 1}, box, 1.0, true), (Pixels{130, 206, 255}));
  EXPECT_EQ(blended({7}, {1, 1}, {0.0f}, {1, 1}, box, 1.0, true), (Pixels{7, 7, 7}));
  EXPECT_EQ(blended({7}, {1, 1}, {nan}, {1, 1}, box, 1.0, true), (Pixels{7, 7, 7}));
}

TEST(Blend, DimsWhatIsNotSeen) {
  EXPECT_EQ(blended({0, 0, 255}, {3, 1}, {0.0f}, {1, 1}, {1, 0, 2, 1}, 1.0),
            (Pixels{83, 83, 83, 0, 0, 0, 172, 172, 172}));
}

TEST(Blend, DimsAllWhereTheBoxMissesThePicture) {
  EXPECT_EQ(blended({0}, {1, 1}, {1.0f}, {1, 1}, {5, 5, 9, 9}, 1.0), (Pixels{83, 83, 83}));
  EXPECT_EQ(blended({0}, {1, 1}, {1.0f}, {1, 1}, {-9, -9, -5, -5}, 1.0), (Pixels{83, 83, 83}));
}

TEST(Blend, TakesABoxFarLargerThanThePicture) {
  const Pixels found = blended({0}, {1, 1}, {1.0f}, {1, 1}, {-1e11, -1e11, 1e11, 1e11}, 1.0);
  EXPECT_EQ(found, (Pixels{252, 255, 164}));
}

TEST(Blend, TakesWildValues) {
  const Box box{0, 0, 1, 1};
  const Pixels highest{252, 255, 164}, untouched{7, 7, 7};
  EXPECT_EQ(blended({7}, {1, 1}, {infinity}, {1, 1}, box, 1.0), highest);
  EXPECT_EQ(blended({7}, {1, 1}, {-infinity}, {1, 1}, box, 1.0), untouched);
  EXPECT_EQ(blended({7}, {1, 1}, {nan}, {1, 1}, box, 1.0), untouched);
  EXPECT_EQ(blended({7}, {1, 1}, {-0.5f}, {1, 1}, box, 1.0), untouched);
  EXPECT_EQ(blended({7}, {1, 1}, {1e30f}, {1, 1}, box, 1e30), highest);
}

TEST(Blend, WorksInPlaceAndLeavesGapsAlone) {
  const float heat[] = {0.0f, 1.0f};
  Pixels apart(16, 9), rows{0, 50, 100, 1, 2, 3, 9, 9, 200, 100, 0, 3, 2, 1, 9, 9};
  const PixelView view{rows.data(), 2, 2, 8, TAME_RGB};
  const Box box{0, 0, 2, 1};
  blend(view, heat, {2, 1}, box, 0.75, apart.data(), 8);
  blend(view, heat, {2, 1}, box, 0.75, rows.data(), 8);
  EXPECT_EQ(rows, apart);
  EXPECT_EQ(rows[6], 9);
  EXPECT_EQ(rows[15], 9);
}

TEST(Maps, AreResizedBilinearly) {
  const float map[] = {0.0f, 1.0f};
  float out[4];
  resize_map(map, {2, 1}, out, {4, 1});
  EXPECT_FLOAT_EQ(out[0], 0.0f);
  EXPECT_FLOAT_EQ(out[1], 0.25f);
  EXPECT_FLOAT_EQ(out[2], 0.75f);
  EXPECT_FLOAT_EQ(out[3], 1.0f);
}

std::vector<float> stretch(const std::vector<float>& map, MapKind kind) {
  return stretched(map.data(), map.size(), kind);
}

TEST(Maps, AreStretchedUnlessTheyAreAlready) {
  EXPECT_EQ(stretch({-1, 0, 3}, MapKind::logits), (std::vector<float>{0, 0.25f, 1}));
  EXPECT_EQ(stretch({0.5f, 0.75f}, MapKind::sigmoid), (std::vector<float>{0, 1}));
  EXPECT_EQ(stretch({0.5f, 0.75f}, MapKind::minmax), (std::vector<float>{0.5f, 0.75f}));
}

TEST(Maps, ThatAreFlatStayFlat) {
  EXPECT_EQ(stretch({1000, 999.001f}, MapKind::logits), (std::vector<float>{0, 0}));
  EXPECT_EQ(stretch({-1000, -998.9f}, MapKind::logits), (std::vector<float>{0, 1}));
  EXPECT_EQ(stretch({0, 0}, MapKind::logits), (std::vector<float>{0, 0}));
}

TEST(Maps, WithNoNumberInThemShowNothing) {
  for (const float value : stretch({1, nan, 3}, MapKind::logits)) EXPECT_TRUE(std::isnan(value));
}

}  // namespace
}  // namespace libtame
