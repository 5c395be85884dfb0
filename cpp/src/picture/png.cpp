// PNG through libpng, which sees the header, a palette and the pixels, and nothing else of a file.
// Its errors are longjmps: see jpeg.cpp.
#ifdef TAME_DECODE

#include <png.h>

#include <algorithm>
#include <csetjmp>
#include <cstdio>
#include <cstring>

#include "../error.hpp"
#include "pixels.hpp"
#include "png_chunks.hpp"

namespace libtame {
namespace {

constexpr std::size_t palette_bytes = 3 * 256;

/// What libpng is given to read.
struct PngSource {
  Bytes parts[5];
  std::size_t part = 0;
};

struct PngJob {
  png_structp png = nullptr;
  png_infop info = nullptr;
  PngSource source;
  char message[128] = "libpng does not start";
  std::uint8_t palette_chunk[palette_bytes + 12] = {};

  PngJob() = default;
  PngJob(const PngJob&) = delete;
  PngJob& operator=(const PngJob&) = delete;
  ~PngJob() { png_destroy_read_struct(&png, &info, nullptr); }
};

extern "C" {

[[noreturn]] void tame_png_error(png_structp png, png_const_charp message) {
  auto* job = static_cast<PngJob*>(png_get_error_ptr(png));
  std::snprintf(job->message, sizeof job->message, "%s", message);
  png_longjmp(png, 1);
}

void tame_png_warning(png_structp png, png_const_charp message) {
  // For libpng a wrong checksum of complete pixels is at times but a warning; for Pillow, at times
  // an error: here always.
  if (std::strstr(message, "incorrect data check") != nullptr) png_error(png, message);
}

void tame_png_read(png_structp png, png_bytep out, std::size_t count) {
  auto& source = *static_cast<PngSource*>(png_get_io_ptr(png));
  while (count > 0) {
    if (source.part == std::size(source.parts)) png_error(png, "the file is truncated");
    Bytes& part = source.parts[source.part];
    const std::size_t step = std::min(count, part.size);
    if (step > 0) std::memcpy(out, part.data, step);
    part = part.from(step);
    if (part.size == 0) ++source.part;
    out += step;
    count -= step;
  }
}
}

/// A stand-in for the file's palette, which may have any length: indices are looked up by us.
Bytes palette_chunk(PngJob& job, const PngFile& file) {
  if (file.color != PNG_COLOR_TYPE_PALETTE || file.depth > 8) return {};
  const std::size_t size = std::size_t{3} << file.depth;
  const std::uint8_t head[8] = {0,
                                0,
                                static_cast<std::uint8_t>(size >> 8),
                                static_cast<std::uint8_t>(size & 255),
                                'P',
                                'L',
                                'T',
                                'E'};
  std::memcpy(job.palette_chunk, head, sizeof head);
  return {job.palette_chunk, size + 12};
}

void set_up(PngJob& job, const PngFile& file) {
  static const std::uint8_t signature[] = {0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n'};
  static const std::uint8_t checksum[4] = {};  // the last one may be missing
  job.source.parts[0] = {signature, sizeof signature};
  job.source.parts[1] = file.header;
  job.source.parts[2] = palette_chunk(job, file);
  job.source.parts[3] = file.pixels;
  job.source.parts[4] = {checksum, sizeof checksum};
}

/// The form in which rows are wanted: 8 bits, alpha too; 16-bit gray is scaled by us.
void choose_form(PngJob& job, const PngFile& file) {
  if (file.depth < 8) {
    if (file.color == PNG_COLOR_TYPE_GRAY) {
      png_set_expand_gray_1_2_4_to_8(job.png);
    } else {
      png_set_packing(job.png);
    }
  }
  if (file.depth == 16 && file.color != PNG_COLOR_TYPE_GRAY) png_set_strip_16(job.png);
}

bool read_rows(PngJob& job, const PngFile& file, std::uint8_t* rows, std::size_t row_bytes) {
  job.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &job, tame_png_error, tame_png_warning);
  if (job.png == nullptr) return false;
  if (setjmp(png_jmpbuf(job.png)) != 0) return false;
  job.info = png_create_info_struct(job.png);
  if (job.info == nullptr) return false;
  png_set_read_fn(job.png, &job.source, tame_png_read);
  png_set_user_limits(job.png, PNG_UINT_31_MAX, PNG_UINT_31_MAX);     // we have our own
  png_set_crc_action(job.png, PNG_CRC_QUIET_USE, PNG_CRC_QUIET_USE);  // as Pillow
  png_read_info(job.png, job.info);
  choose_form(job, file);
  const int passes = png_set_interlace_handling(job.png);
  png_read_update_info(job.png, job.info);
  if (png_get_rowbytes(job.png, job.info) != row_bytes) png_error(job.png, "odd rows");
  for (int pass = 0; pass < passes; ++pass) {
    for (std::int64_t y = 0; y < file.height; ++y) {
      png_read_row(job.png, rows + static_cast<std::size_t>(y) * row_bytes, nullptr);
    }
  }
  return true;
}

std::array<std::uint8_t, palette_bytes> palette_of(const PngFile& file) {
  std::array<std::uint8_t, palette_bytes> palette{};  // what is beyond its end is black
  if (file.palette.size > palette.size()) fail_decoding("the palette has over 256 colours");
  std::copy_n(file.palette.data, file.palette.size / 3 * 3, palette.begin());
  return palette;
}

/// Rows as libpng gives them, at the end of the memory that RGB of the same pixels needs: what is
/// written from the beginning never overtakes what is still to be read.
struct Rows {
  const std::uint8_t* from;
  std::uint8_t* to;
  std::size_t count;

  /// Call `pixel` with each place of `bytes` bytes and the RGB place that it becomes.
  template <typename Pixel>
  void each(std::size_t bytes, Pixel&& pixel) const {
    const std::uint8_t* place = from;
    std::uint8_t* rgb = to;
    for (std::size_t i = 0; i < count; ++i, place += bytes, rgb += 3) pixel(place, rgb);
  }
};

void lay_over_white(const std::uint8_t* color, int alpha, std::uint8_t* rgb) {
  for (int c = 0; c < 3; ++c) rgb[c] = mixed(255, color[c], alpha);
}

void fill(std::uint8_t* rgb, std::uint8_t level) { rgb[0] = rgb[1] = rgb[2] = level; }

void spread_indices(const Rows& rows, const PngFile& file) {
  auto palette = palette_of(file);
  for (std::size_t i = 0; i < std::min<std::size_t>(file.clear.size, 256); ++i) {
    std::uint8_t* color = palette.data() + 3 * i;
    lay_over_white(color, file.clear.data[i], color);
  }
  rows.each(1, [&](const std::uint8_t* index, std::uint8_t* rgb) {
    std::copy_n(palette.data() + std::size_t{3} * *index, 3, rgb);
  });
}

/// The level or colour of `channels` that is transparent, spread to 8 bits; empty for none. In 16
/// bits it is not looked for, as Pillow keeps but 8 of them.
std::vector<std::uint8_t> clear_color(const PngFile& file, std::size_t channels) {
  if (file.depth == 16 || file.clear.size < 2 * channels) return {};
  const int most = (1 << file.depth) - 1;
  std::vector<std::uint8_t> color;
  for (std::size_t c = 0; c < channels; ++c) {
    color.push_back(static_cast<std::uint8_t>((file.clear.data[2 * c + 1] & most) * (255 / most)));
  }
  return color;
}

void spread_deep(const Rows& rows, const Reading& reading) {
  DeepGray scaled(reading);
  rows.each(2, [&](const std::uint8_t* level, std::uint8_t* rgb) {
    fill(rgb, scaled(level[0] << 8 | level[1]));
  });
  scaled.warn_if_dim();
}

/// Levels in the machine's byte order, in three bytes each (see decode_picture).
void keep_deep(const Rows& rows) {
  rows.each(2, [](const std::uint8_t* level, std::uint8_t* rgb) {
    const auto found = static_cast<std::uint16_t>(level[0] << 8 | level[1]);
    std::memcpy(rgb, &found, sizeof found);
    rgb[2] = 0;
  });
}

void spread(const Rows& rows, const PngFile& file, const Reading& reading) {
  const bool deep = file.depth == 16;
  switch (file.color) {
    case PNG_COLOR_TYPE_PALETTE:
      return spread_indices(rows, file);
    case PNG_COLOR_TYPE_GRAY: {
      if (deep) return reading.deep ? keep_deep(rows) : spread_deep(rows, reading);
      const auto clear = clear_color(file, 1);
      return rows.each(1, [&](const std::uint8_t* level, std::uint8_t* rgb) {
        fill(rgb, !clear.empty() && *level == clear[0] ? 255 : *level);
      });
    }
    case PNG_COLOR_TYPE_GRAY_ALPHA:
      return rows.each(2, [](const std::uint8_t* pixel, std::uint8_t* rgb) {
        fill(rgb, mixed(255, pixel[0], pixel[1]));
      });
    case PNG_COLOR_TYPE_RGB_ALPHA:
      return rows.each(4, [](const std::uint8_t* pixel, std::uint8_t* rgb) {
        lay_over_white(pixel, pixel[3], rgb);
      });
    default: {
      const auto clear = clear_color(file, 3);
      if (clear.empty()) return;
      return rows.each(3, [&](const std::uint8_t* pixel, std::uint8_t* rgb) {
        if (std::equal(clear.begin(), clear.end(), pixel)) fill(rgb, 255);
      });
    }
  }
}

/// Bytes of a pixel as libpng gives it.
std::size_t pixel_bytes(const PngFile& file) {
  switch (file.color) {
    case PNG_COLOR_TYPE_RGB_ALPHA:
      return 4;
    case PNG_COLOR_TYPE_RGB:
      return 3;
    case PNG_COLOR_TYPE_GRAY_ALPHA:
      return 2;
    default:
      return file.depth == 16 ? 2 : 1;
  }
}

PngFile start(Bytes bytes, std::int64_t most) {
  const PngFile file = read_chunks(bytes);
  check_pixels(file.width, file.height, most);
  return file;
}

}  // namespace

Stored png_head(Bytes bytes, std::int64_t most) {
  const PngFile file = start(bytes, most);
  return {{static_cast<int>(file.width), static_cast<int>(file.height)}, file.orientation};
}

Picture decode_png(Bytes bytes, const Reading& reading, int& orientation) {
  const PngFile file = start(bytes, reading.max_pixels);
  orientation = file.orientation;
  const std::size_t pixel = pixel_bytes(file);
  Picture picture{static_cast<int>(file.width), static_cast<int>(file.height), {}};
  const std::size_t count = static_cast<std::size_t>(file.width * file.height);
  picture.pixels.resize(std::max<std::size_t>(pixel, 3) * count);
  std::uint8_t* rows = picture.pixels.data() + picture.pixels.size() - pixel * count;
  PngJob job;
  set_up(job, file);
  if (!read_rows(job, file, rows, static_cast<std::size_t>(file.width) * pixel)) {
    fail_decoding(job.message);
  }
  spread({rows, picture.pixels.data(), count}, file, reading);
  picture.pixels.resize(3 * count);
  picture.deep = reading.deep && file.depth == 16 && file.color == PNG_COLOR_TYPE_GRAY;
  return picture;
}

}  // namespace libtame

#endif
