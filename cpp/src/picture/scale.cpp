#include "scale.hpp"

#include <algorithm>
#include <array>
#include <cstring>

// Multiplying 32-bit integers eight at a time wants AVX2, which x86-64 does not promise: the
// compiler makes both versions and the loader picks. Elsewhere the plain version is vectorised.
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
#define TAME_CLONES __attribute__((target_clones("avx2", "default")))
#else
#define TAME_CLONES
#endif

namespace libtame {
namespace {

using FixedTaps = Taps<std::int32_t>;
constexpr std::int32_t half = 1 << (weight_bits - 1);
constexpr std::size_t most_ring_bytes = std::size_t{64} << 20;

std::uint8_t clipped(std::int32_t sum) {
  return static_cast<std::uint8_t>(std::clamp(sum >> weight_bits, 0, 255));
}

/// Weighted sums along a row of pixels that are `Step` bytes, to RGB.
template <int Step, int Red, int Green, int Blue>
void sum_row(const std::uint8_t* row, const FixedTaps& taps, int first, int count,
             std::uint8_t* out) {
  for (int place = first; place < first + count; ++place, out += 3) {
    const std::uint8_t* pixel = row + taps.start[place] * Step;
    const std::int32_t* weights = taps.row(place);
    std::int32_t red = half, green = half, blue = half;
    for (int i = 0; i < taps.length[place]; ++i, pixel += Step) {
      red += pixel[Red] * weights[i];
      green += pixel[Green] * weights[i];
      blue += pixel[Blue] * weights[i];
    }
    out[0] = clipped(red);
    out[1] = clipped(green);
    out[2] = clipped(blue);
  }
}

void sum_gray_row(const std::uint8_t* row, const FixedTaps& taps, int first, int count,
                  std::uint8_t* out) {
  for (int place = first; place < first + count; ++place) {
    const std::uint8_t* pixel = row + taps.start[place];
    const std::int32_t* weights = taps.row(place);
    std::int32_t sum = half;
    for (int i = 0; i < taps.length[place]; ++i) sum += pixel[i] * weights[i];
    *out++ = clipped(sum);
  }
}

/// Weighted sum of rows, byte by byte, from `begin` to `end`.
TAME_CLONES void sum_rows(const std::uint8_t* const* rows, const std::int32_t* weights, int count,
                          std::size_t begin, std::size_t end, std::uint8_t* out) {
  constexpr std::size_t block = 512;
  std::int32_t sums[block];
  for (std::size_t from = begin; from < end; from += block) {
    const std::size_t size = std::min(block, end - from);
    std::fill_n(sums, size, half);
    for (int i = 0; i < count; ++i) {
      const std::uint8_t* row = rows[i] + from;
      const std::int32_t weight = weights[i];
      for (std::size_t at = 0; at < size; ++at) sums[at] += row[at] * weight;
    }
    for (std::size_t at = 0; at < size; ++at) {
      const std::int32_t level = sums[at] >> weight_bits;
      out[from + at] = static_cast<std::uint8_t>(level < 0 ? 0 : level > 255 ? 255 : level);
    }
  }
}

const std::uint8_t* row_of(const PixelView& picture, std::int64_t y) {
  return picture.data + static_cast<std::size_t>(y) * picture.stride;
}

void copy_pixels(const std::uint8_t* from, const Layout& layout, int count, std::uint8_t* out) {
  if (layout.channels == 1 || (layout.channels == 3 && layout.red == 0)) {
    std::memcpy(out, from, static_cast<std::size_t>(count) * layout.channels);
    return;
  }
  for (int i = 0; i < count; ++i, from += layout.channels, out += 3) {
    out[0] = from[layout.red];
    out[1] = from[layout.green];
    out[2] = from[layout.blue];
  }
}

void spread_gray(const std::uint8_t* from, int count, std::uint8_t* out) {
  for (int i = 0; i < count; ++i, out += 3) out[0] = out[1] = out[2] = from[i];
}

/// The horizontal pass over single rows, for columns `first` to `first + count` of what is wanted.
class RowPass {
 public:
  RowPass(tame_format format, const Axis& across, Interpolation interpolation)
      : format_(format), layout_(layout_of(format)), across_(across) {
    if (!across.identity()) taps_ = fixed_taps(across, interpolation);
  }

  /// Of a row of the result.
  int channels() const { return layout_.channels == 1 ? 1 : 3; }

  /// The bytes of a source row that matter: first and last.
  std::array<std::size_t, 2> span() const {
    std::int64_t begin = across_.first, end = across_.first + across_.count;
    if (!across_.identity()) {
      begin = taps_.start.front();
      end = taps_.start.back() + taps_.length.back();
    }
    return {static_cast<std::size_t>(begin) * layout_.channels,
            static_cast<std::size_t>(end) * layout_.channels};
  }

  void operator()(const std::uint8_t* row, int first, int count, std::uint8_t* out) const {
    if (across_.identity()) {
      copy_pixels(row + (across_.first + first) * layout_.channels, layout_, count, out);
      return;
    }
    switch (format_) {
      case TAME_GRAY:
        return sum_gray_row(row, taps_, first, count, out);
      case TAME_BGR:
        return sum_row<3, 2, 1, 0>(row, taps_, first, count, out);
      case TAME_RGBA:
      case TAME_RGBX:
        return sum_row<4, 0, 1, 2>(row, taps_, first, count, out);
      case TAME_BGRA:
      case TAME_BGRX:
        return sum_row<4, 2, 1, 0>(row, taps_, first, count, out);
      default:
        return sum_row<3, 0, 1, 2>(row, taps_, first, count, out);
    }
  }

 private:
  tame_format format_;
  Layout layout_;
  Axis across_;
  FixedTaps taps_;
};

/// Where a result goes.
struct Output {
  std::uint8_t* rows;
  std::size_t stride;
  bool spread;  // gray to RGB

  bool spreads(const RowPass& pass) const { return spread && pass.channels() == 1; }
  std::size_t channels(const RowPass& pass) const { return spread ? 3 : pass.channels(); }
};

/// Writes rows of a result that are as wanted already, or gray and must be spread.
class RowWriter {
 public:
  RowWriter(int count, std::uint8_t* out, std::size_t stride, bool spreads)
      : out_(out), stride_(stride), count_(count), gray_(spreads ? count : 0) {}

  /// Where the next row goes.
  std::uint8_t* row() { return gray_.empty() ? out_ : gray_.data(); }

  void next() {
    if (!gray_.empty()) spread_gray(gray_.data(), count_, out_);
    out_ += stride_;
  }

 private:
  std::uint8_t* out_;
  std::size_t stride_;
  int count_;
  std::vector<std::uint8_t> gray_;
};

/// Both passes over a strip of columns. Rows are summed while they are in the cache: of the
/// horizontal pass only as many are kept as one row of the result needs.
void scale_strip(const PixelView& picture, const RowPass& pass, const FixedTaps& taps, int first,
                 int count, RowWriter& writer) {
  const std::size_t bytes = static_cast<std::size_t>(count) * pass.channels();
  const std::int64_t depth = taps.longest;
  std::vector<std::uint8_t> ring(bytes * taps.longest);
  std::vector<const std::uint8_t*> rows(taps.longest);
  std::int64_t next = 0;
  for (std::size_t place = 0; place < taps.start.size(); ++place, writer.next()) {
    const std::int64_t start = taps.start[place], length = taps.length[place];
    for (next = std::max(next, start); next < start + length; ++next) {
      pass(row_of(picture, next), first, count, ring.data() + next % depth * bytes);
    }
    for (std::int64_t i = 0; i < length; ++i) {
      rows[i] = ring.data() + (start + i) % depth * bytes;
    }
    sum_rows(rows.data(), taps.row(static_cast<int>(place)), taps.length[place], 0, bytes,
             writer.row());
  }
}

void scale_both(const PixelView& picture, const RowPass& pass, const FixedTaps& taps, int columns,
                const Output& output) {
  // One strip, but for pictures that are very tall: memory must not grow with both sides.
  const std::size_t column = static_cast<std::size_t>(taps.longest) * pass.channels();
  const int strip = static_cast<int>(
      std::clamp<std::size_t>(most_ring_bytes / column, 1, static_cast<std::size_t>(columns)));
  for (int first = 0; first < columns; first += strip) {
    const int count = std::min(strip, columns - first);
    RowWriter writer(count, output.rows + output.channels(pass) * first, output.stride,
                     output.spreads(pass));
    scale_strip(picture, pass, taps, first, count, writer);
  }
}

void scale_down_first(const PixelView& picture, const RowPass& pass, const FixedTaps& taps,
                      int columns, const Output& output) {
  const auto [begin, end] = pass.span();
  std::vector<std::uint8_t> sums(end);
  std::vector<const std::uint8_t*> rows(taps.longest);
  RowWriter writer(columns, output.rows, output.stride, output.spreads(pass));
  for (std::size_t place = 0; place < taps.start.size(); ++place, writer.next()) {
    for (int i = 0; i < taps.length[place]; ++i) rows[i] = row_of(picture, taps.start[place] + i);
    sum_rows(rows.data(), taps.row(static_cast<int>(place)), taps.length[place], begin, end,
             sums.data());
    pass(sums.data(), 0, columns, writer.row());
  }
}

void scale_across(const PixelView& picture, const RowPass& pass, const Axis& down, int columns,
                  const Output& output) {
  RowWriter writer(columns, output.rows, output.stride, output.spreads(pass));
  for (int place = 0; place < down.count; ++place, writer.next()) {
    pass(row_of(picture, down.first + place), 0, columns, writer.row());
  }
}

void scale_nearest(const PixelView& picture, const Axis& across, const Axis& down,
                   const Output& output) {
  const Layout layout = layout_of(picture.format);
  const std::vector<std::int64_t> columns = nearest_taps(across);
  const std::vector<std::int64_t> rows = nearest_taps(down);
  std::uint8_t* out = output.rows;
  for (const std::int64_t y : rows) {
    std::uint8_t* to = out;
    out += output.stride;
    const std::uint8_t* row = y < 0 ? nullptr : row_of(picture, y);
    for (const std::int64_t x : columns) {
      const bool there = row != nullptr && x >= 0;
      const std::uint8_t* pixel = there ? row + x * layout.channels : nullptr;
      *to++ = there ? pixel[layout.red] : 0;
      if (!output.spread) continue;
      *to++ = there ? pixel[layout.green] : 0;
      *to++ = there ? pixel[layout.blue] : 0;
    }
  }
}

}  // namespace

Layout layout_of(tame_format format) {
  switch (format) {
    case TAME_BGR:
      return {3, 2, 1, 0};
    case TAME_GRAY:
      return {1, 0, 0, 0};
    case TAME_RGBA:
    case TAME_RGBX:
      return {4, 0, 1, 2};
    case TAME_BGRA:
    case TAME_BGRX:
      return {4, 2, 1, 0};
    case TAME_RGB:
    case TAME_ENCODED:
    case TAME_GRAY16:
    case TAME_RGB16:
    case TAME_NV12:
    case TAME_I420:
    case TAME_CHANNELS:
    case TAME_CHANNELS16:
      break;
  }
  return {3, 0, 1, 2};
}

void scale(const PixelView& picture, const Axis& across, const Axis& down,
           Interpolation interpolation, std::uint8_t* out, std::size_t stride, bool spread) {
  if (across.count < 1 || down.count < 1) return;
  const Output output{out, stride, spread};
  if (interpolation == Interpolation::nearest && !(across.identity() && down.identity())) {
    return scale_nearest(picture, across, down, output);
  }
  const RowPass pass(picture.format, across, interpolation);
  if (down.identity()) return scale_across(picture, pass, down, across.count, output);
  const FixedTaps taps = fixed_taps(down, interpolation);
  if (vertical_first(across, down)) {
    return scale_down_first(picture, pass, taps, across.count, output);
  }
  scale_both(picture, pass, taps, across.count, output);
}

}  // namespace libtame
