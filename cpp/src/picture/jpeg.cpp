// JPEG through libjpeg. Its errors are longjmps: the functions that call it own nothing that has a
// destructor, and what they read and write outlives the jump in a JpegJob.
#ifdef TAME_DECODE

#include <csetjmp>
#include <cstdio>
#include <cstring>
// jpeglib.h wants FILE and size_t declared before it.
#include <jpeglib.h>

#include <algorithm>

#include "../error.hpp"
#include "decode.hpp"

namespace libtame {
namespace {

/// Encoders write a dozen scans. Without a bound, a file of some hundred bytes a scan makes the
/// decoder walk over all blocks of a large picture as often as it likes.
constexpr int most_scans = 100;
constexpr int always_scans = 20;
constexpr std::int64_t most_scanned = 2'000'000'000;  // pixels times scans

enum class Step { done, truncated, broken };

struct JpegJob {
  jpeg_decompress_struct info{};
  jpeg_error_mgr errors{};
  jpeg_source_mgr source{};
  jpeg_progress_mgr progress{};
  std::jmp_buf jump{};
  char message[JMSG_LENGTH_MAX] = {};
  int scans = most_scans;

  JpegJob() = default;
  JpegJob(const JpegJob&) = delete;
  JpegJob& operator=(const JpegJob&) = delete;
  // Frees what libjpeg allocated; does nothing where it was not even created.
  ~JpegJob() { jpeg_destroy_decompress(&info); }
};

JpegJob& job_of(j_common_ptr info) { return *static_cast<JpegJob*>(info->client_data); }

extern "C" {

[[noreturn]] void tame_jpeg_error(j_common_ptr info) {
  info->err->format_message(info, job_of(info).message);
  std::longjmp(job_of(info).jump, 1);
}

void tame_jpeg_quiet(j_common_ptr, int) {}
void tame_jpeg_nothing(j_decompress_ptr) {}

// All bytes are there from the beginning: asking for more means that the file was cut off.
boolean tame_jpeg_no_more(j_decompress_ptr) { return FALSE; }

void tame_jpeg_skip(j_decompress_ptr info, long count) {
  if (count <= 0) return;
  const std::size_t step = std::min(static_cast<std::size_t>(count), info->src->bytes_in_buffer);
  info->src->next_input_byte += step;
  info->src->bytes_in_buffer -= step;
  if (step < static_cast<std::size_t>(count)) {
    std::snprintf(job_of(reinterpret_cast<j_common_ptr>(info)).message, JMSG_LENGTH_MAX,
                  "the file is truncated");
    std::longjmp(job_of(reinterpret_cast<j_common_ptr>(info)).jump, 1);
  }
}

void tame_jpeg_progress(j_common_ptr info) {
  JpegJob& job = job_of(info);
  if (job.info.input_scan_number > job.scans) {
    std::snprintf(job.message, JMSG_LENGTH_MAX, "more than %d scans", job.scans);
    std::longjmp(job.jump, 1);
  }
}
}

void set_up(JpegJob& job, Bytes file) {
  job.info.err = jpeg_std_error(&job.errors);
  job.errors.error_exit = tame_jpeg_error;
  job.errors.emit_message = tame_jpeg_quiet;  // warnings: what Pillow reads, we read
  job.info.client_data = &job;
  job.source.next_input_byte = file.data;
  job.source.bytes_in_buffer = file.size;
  job.source.init_source = tame_jpeg_nothing;
  job.source.fill_input_buffer = tame_jpeg_no_more;
  job.source.skip_input_data = tame_jpeg_skip;
  job.source.resync_to_restart = jpeg_resync_to_restart;
  job.source.term_source = tame_jpeg_nothing;
  job.progress.progress_monitor = tame_jpeg_progress;
}

Step read_head(JpegJob& job) {
  if (setjmp(job.jump) != 0) return Step::broken;
  jpeg_create_decompress(&job.info);
  job.info.src = &job.source;
  job.info.progress = &job.progress;
  jpeg_save_markers(&job.info, JPEG_APP0 + 1, 0xFFFF);
  int found = JPEG_HEADER_TABLES_ONLY;
  while (found == JPEG_HEADER_TABLES_ONLY) found = jpeg_read_header(&job.info, FALSE);
  return found == JPEG_HEADER_OK ? Step::done : Step::truncated;
}

/// Ink to light. Pillow takes the inks of all JPEG files for inverted, as Adobe writes them.
void cmyk_to_rgb(const std::uint8_t* cmyk, int count, std::uint8_t* rgb) {
  for (int i = 0; i < count; ++i, cmyk += 4) {
    for (int c = 0; c < 3; ++c) {
      const int product = (255 - cmyk[c]) * cmyk[3] + 128;
      *rgb++ = static_cast<std::uint8_t>(cmyk[3] - ((product + (product >> 8)) >> 8));
    }
  }
}

/// Rows go straight to RGB, or by way of `inks`, four bytes a pixel.
Step read_rows(JpegJob& job, std::uint8_t* pixels, std::uint8_t* inks) {
  if (setjmp(job.jump) != 0) return Step::broken;
  jpeg_decompress_struct& info = job.info;
  const std::size_t width = info.image_width;
  const int channels = info.num_components;
  info.out_color_space = channels == 1 ? JCS_GRAYSCALE : channels == 3 ? JCS_RGB : JCS_CMYK;
  if (jpeg_start_decompress(&info) == FALSE) return Step::truncated;
  while (info.output_scanline < info.output_height) {
    std::uint8_t* rgb = pixels + 3 * width * info.output_scanline;
    JSAMPROW row = channels == 1 ? rgb + 2 * width : channels == 3 ? rgb : inks;
    if (jpeg_read_scanlines(&info, &row, 1) != 1) return Step::truncated;
    if (channels == 1) spread_gray(rgb, width);
    if (channels == 4) cmyk_to_rgb(inks, static_cast<int>(width), rgb);
  }
  return Step::done;
}

void check(const JpegJob& job, Step step) {
  if (step == Step::truncated) fail_decoding("the file is truncated");
  if (step == Step::broken) fail_decoding(job.message);
}

int orientation_of(const JpegJob& job) {
  const std::string exif_mark("Exif\0\0", 6), xmp_mark("http://ns.adobe.com/xap/1.0/\0", 29);
  std::string exif;  // may come in several parts
  Bytes xmp;
  for (auto marker = job.info.marker_list; marker != nullptr; marker = marker->next) {
    const Bytes part{marker->data, marker->data_length};
    if (part.begins(exif_mark)) {
      const Bytes rest = exif.empty() ? part : part.from(exif_mark.size());
      exif.append(reinterpret_cast<const char*>(rest.data), rest.size);
    } else if (part.begins(xmp_mark)) {
      xmp = part.from(xmp_mark.size());
    }
  }
  const int found =
      exif_orientation({reinterpret_cast<const std::uint8_t*>(exif.data()), exif.size()});
  if (found != 0 || xmp.size == 0) return std::max(found, 1);
  return std::max(xmp_orientation(xmp), 1);
}

Stored start(JpegJob& job, Bytes file, std::int64_t most) {
  set_up(job, file);
  check(job, read_head(job));
  const std::int64_t width = job.info.image_width, height = job.info.image_height;
  check_pixels(width, height, most);
  const int channels = job.info.num_components;
  if (channels != 1 && channels != 3 && channels != 4) {
    fail_decoding(words("found ", channels, " channels; expected 1, 3 or 4"));
  }
  job.scans = static_cast<int>(
      std::clamp<std::int64_t>(most_scanned / (width * height), always_scans, most_scans));
  return {{static_cast<int>(width), static_cast<int>(height)}, orientation_of(job)};
}

}  // namespace

Stored jpeg_head(Bytes file, std::int64_t most) {
  JpegJob job;
  return start(job, file, most);
}

Picture decode_jpeg(Bytes file, std::int64_t most, int& orientation) {
  JpegJob job;
  const Stored stored = start(job, file, most);
  orientation = stored.orientation;
  const std::size_t width = stored.size[0];
  Picture picture{stored.size[0], stored.size[1], {}};
  picture.pixels.resize(3 * width * stored.size[1]);
  std::vector<std::uint8_t> inks(job.info.num_components == 4 ? 4 * width : 0);
  check(job, read_rows(job, picture.pixels.data(), inks.data()));
  return picture;
}

}  // namespace libtame

#endif
