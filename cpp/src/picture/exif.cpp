// The orientation in metadata that anybody may have written: nothing in it is trusted.
// The counterpart of tame_deploy/picture/orientation.py.
#include <cmath>
#include <cstring>

#include "decode.hpp"

namespace libtame {
namespace {

constexpr unsigned orientation_tag = 0x0112;

/// TIFF inside EXIF, in either byte order; reading beyond its end gives zeros.
class Tiff {
 public:
  explicit Tiff(Bytes block) : block_(block), big_(block.begins("MM")) {}

  std::uint64_t number(std::uint64_t offset, int bytes) const {
    std::uint64_t value = 0;
    for (int i = 0; i < bytes; ++i) {
      const std::uint64_t at = offset + (big_ ? i : bytes - 1 - i);
      value = value << 8 | (at < block_.size ? block_.data[at] : 0);
    }
    return value;
  }

  template <typename Real, typename Bits>
  double real(std::uint64_t offset) const {
    const auto bits = static_cast<Bits>(number(offset, sizeof(Bits)));
    Real value;
    std::memcpy(&value, &bits, sizeof value);
    return static_cast<double>(value);
  }

  std::uint64_t size() const { return block_.size; }

 private:
  Bytes block_;
  bool big_;
};

/// Bytes of a value of a TIFF type, 0 for an unknown type.
unsigned unit_size(std::uint64_t type) {
  constexpr unsigned char sizes[] = {0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8};
  return type < sizeof sizes ? sizes[type] : 0;
}

/// The first value of an entry, where it is a number of any kind; NaN for text.
double value_of(const Tiff& tiff, std::uint64_t type, std::uint64_t at) {
  const auto bits = [&](int bytes) { return tiff.number(at, bytes); };
  switch (type) {
    case 3:
      return static_cast<double>(bits(2));
    case 4:
    case 13:
      return static_cast<double>(bits(4));
    case 5:
    case 10: {  // signed or not: both numbers of an orientation are small
      const auto over = static_cast<double>(bits(4));
      const auto under = static_cast<double>(tiff.number(at + 4, 4));
      return under == 0 ? std::nan("") : over / under;
    }
    case 6:
      return static_cast<double>(static_cast<std::int8_t>(bits(1)));
    case 8:
      return static_cast<double>(static_cast<std::int16_t>(bits(2)));
    case 9:
      return static_cast<double>(static_cast<std::int32_t>(bits(4)));
    case 11:
      return tiff.real<float, std::uint32_t>(at);
    case 12:
      return tiff.real<double, std::uint64_t>(at);
    case 16:
      return static_cast<double>(bits(8));
    default:
      return std::nan("");
  }
}

int known_orientation(double value) {
  return value >= 1 && value <= 8 && value == std::floor(value) ? static_cast<int>(value) : 1;
}

bool is_tiff(Bytes block) {
  using namespace std::string_literals;
  for (const auto& mark : {"II*\0"s, "MM\0*"s, "II\0*"s, "MM*\0"s}) {
    if (block.begins(mark) && block.size >= 8) return true;
  }
  return false;
}

}  // namespace

int exif_orientation(Bytes block) {
  const std::string mark("Exif\0\0", 6);
  for (int i = 0; i < 2 && block.begins(mark); ++i) block = block.from(mark.size());
  if (!is_tiff(block)) return 0;
  const Tiff tiff(block);
  std::uint64_t at = tiff.number(4, 4);
  const std::uint64_t count = tiff.number(at, 2);
  at += 2;
  // This one tag alone: whatever is wrong with others must not turn the picture.
  for (std::uint64_t i = 0; i < count && at + 12 <= tiff.size(); ++i, at += 12) {
    if (tiff.number(at, 2) != orientation_tag) continue;
    const std::uint64_t type = tiff.number(at + 2, 2);
    const std::uint64_t size = tiff.number(at + 4, 4) * unit_size(type);
    const std::uint64_t place = size <= 4 ? at + 8 : tiff.number(at + 8, 4);
    if (size == 0 || place + size > tiff.size()) continue;
    return known_orientation(value_of(tiff, type, place));
  }
  return 0;
}

int xmp_orientation(Bytes packet) {
  const std::string name = "tiff:Orientation";
  const std::string text(reinterpret_cast<const char*>(packet.data), packet.size);
  for (std::size_t at = text.find(name); at != std::string::npos; at = text.find(name, at + 1)) {
    std::size_t next = at + name.size();
    if (text.compare(next, 2, "=\"") == 0) {
      next += 2;
    } else if (text.compare(next, 1, ">") == 0) {
      next += 1;
    } else {
      continue;
    }
    if (next < text.size() && text[next] >= '0' && text[next] <= '9') {
      return known_orientation(text[next] - '0');
    }
  }
  return 0;
}

}  // namespace libtame
