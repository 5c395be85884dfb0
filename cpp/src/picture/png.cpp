// PNG through libpng, which sees the header, a palette and the pixels, and nothing else of a file.
// Its errors are longjmps: see jpeg.cpp.
#ifdef TAME_DECODE

#include <png.h>

#include <algorithm>
#include <csetjmp>
#include <cstdio>
#include <cstring>

#include "../error.hpp"
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

/// The form in which rows are wanted: 8 bits, no alpha; 16-bit gray is scaled by us.
void choose_form(PngJob& job, const PngFile& file) {
  if (file.depth < 8) {
    if (file.color == PNG_COLOR_TYPE_GRAY) {
      png_set_expand_gray_1_2_4_to_8(job.png);
    } else {
      png_set_packing(job.png);
    }
  }
  if (file.depth == 16 && file.color != PNG_COLOR_TYPE_GRAY) png_set_strip_16(job.png);
  if ((file.color & PNG_COLOR_MASK_ALPHA) != 0) png_set_strip_alpha(job.png);
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

Picture decode_png(Bytes bytes, std::int64_t most, int& orientation) {
  const PngFile file = start(bytes, most);
  orientation = file.orientation;
  const bool indexed = file.color == PNG_COLOR_TYPE_PALETTE;
  const bool colored = (file.color & PNG_COLOR_MASK_COLOR) != 0 && !indexed;
  const int pixel = colored ? 3 : file.depth == 16 && file.color == PNG_COLOR_TYPE_GRAY ? 2 : 1;
  const auto palette = indexed ? palette_of(file) : std::array<std::uint8_t, palette_bytes>{};

  Picture picture{static_cast<int>(file.width), static_cast<int>(file.height), {}};
  const std::size_t count = static_cast<std::size_t>(file.width * file.height);
  picture.pixels.resize(3 * count);
  PngJob job;
  set_up(job, file);
  std::uint8_t* rows = picture.pixels.data() + count * (3 - static_cast<std::size_t>(pixel));
  if (!read_rows(job, file, rows, static_cast<std::size_t>(file.width) * pixel)) {
    fail_decoding(job.message);
  }
  if (pixel != 3) {
    spread_levels(picture.pixels.data(), count, pixel, indexed ? palette.data() : nullptr);
  }
  return picture;
}

}  // namespace libtame

#endif
