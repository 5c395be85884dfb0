#ifdef TAME_DECODE

#include "png_chunks.hpp"

#include <zlib.h>

#include <algorithm>
#include <cctype>
#include <cstring>
#include <vector>

#include "../error.hpp"

namespace libtame {
namespace {

/// What a compressed text is unpacked to at most; what follows is ignored.
constexpr std::size_t most_text = std::size_t{1} << 20;

std::uint32_t big_endian(const std::uint8_t* data) {
  return static_cast<std::uint32_t>(data[0]) << 24 | static_cast<std::uint32_t>(data[1]) << 16 |
         static_cast<std::uint32_t>(data[2]) << 8 | data[3];
}

using Text = std::vector<std::uint8_t>;

/// What was decompressed before an error or the bound.
Text inflated(Bytes packed) {
  z_stream stream{};
  Text text(std::min(most_text, packed.size * 1032 + 64));  // deflate shrinks to 1/1032 at best
  stream.next_in = const_cast<Bytef*>(packed.data);
  stream.avail_in = static_cast<uInt>(packed.size);
  stream.next_out = text.data();
  stream.avail_out = static_cast<uInt>(text.size());
  if (packed.size == 0 || inflateInit(&stream) != Z_OK) return {};
  const int status = inflate(&stream, Z_SYNC_FLUSH);
  inflateEnd(&stream);
  if (status != Z_OK && status != Z_STREAM_END && status != Z_BUF_ERROR) return {};
  text.resize(text.size() - stream.avail_out);
  return text;
}

/// Bytes of the file; unpacked only when they are wanted, since there may be many such texts.
struct Stretch {
  Bytes bytes;
  bool packed = false;

  Text text() const { return packed ? inflated(bytes) : Text(bytes.data, bytes.data + bytes.size); }
};

/// Where a picture says which side is up; what comes later in the file replaces what came before.
struct Metadata {
  Stretch exif, raw_exif, xmp;
  bool has_exif = false;

  void take(const char* type, Bytes contents);
  int orientation() const;

 private:
  void take_text(const std::string& key, Stretch text);
};

Bytes view(const Text& text) { return {text.data(), text.size()}; }

/// The contents behind the first zero byte; empty if there is none.
Bytes after_zero(Bytes contents) {
  const auto* end = contents.data + contents.size;
  const auto* zero = std::find(contents.data, end, std::uint8_t{0});
  return contents.from(static_cast<std::size_t>(zero - contents.data) + 1);
}

void Metadata::take(const char* type, Bytes contents) {
  if (std::memcmp(type, "eXIf", 4) == 0) {
    exif = {contents};
    has_exif = true;
    return;
  }
  const Bytes rest = after_zero(contents);
  if (rest.size == 0) return;
  const std::string key(reinterpret_cast<const char*>(contents.data),
                        contents.size - rest.size - 1);
  if (key != "exif" && key != "Raw profile type exif" && key != "XML:com.adobe.xmp") return;
  if (std::memcmp(type, "tEXt", 4) == 0) {
    take_text(key, {rest});
  } else if (std::memcmp(type, "zTXt", 4) == 0 && rest.data[0] == 0) {
    take_text(key, {rest.from(1), true});
  } else if (std::memcmp(type, "iTXt", 4) == 0 && rest.size > 2) {
    const Bytes text = after_zero(after_zero(rest.from(2)));  // behind language and translation
    const bool packed = rest.data[0] != 0;
    if (packed && rest.data[1] != 0) return;
    take_text(key, {text, packed});
  }
}

void Metadata::take_text(const std::string& key, Stretch text) {
  if (key == "exif") {
    exif = text;
    has_exif = true;
  } else {
    (key == "XML:com.adobe.xmp" ? xmp : raw_exif) = text;
  }
}

/// Bytes of what ImageMagick writes: three lines of head, then hexadecimal digits.
Text raw_profile(const Text& text) {
  auto at = text.begin();
  for (int line = 0; line < 3; ++line) {
    at = std::find(at, text.end(), std::uint8_t{'\n'});
    if (at == text.end()) return {};
    ++at;
  }
  Text bytes;
  int high = -1;
  for (; at != text.end(); ++at) {
    if (std::isspace(*at) != 0) continue;
    if (std::isxdigit(*at) == 0) return {};
    const int digit = std::isdigit(*at) != 0 ? *at - '0' : std::tolower(*at) - 'a' + 10;
    if (high >= 0) bytes.push_back(static_cast<std::uint8_t>(high << 4 | digit));
    high = high >= 0 ? -1 : digit;
  }
  return bytes;
}

int Metadata::orientation() const {
  const int found = exif_orientation(view(has_exif ? exif.text() : raw_profile(raw_exif.text())));
  if (found != 0 || xmp.bytes.size == 0) return std::max(found, 1);
  return std::max(xmp_orientation(view(xmp.text())), 1);
}

struct Chunk {
  const char* type = nullptr;
  Bytes contents;
  Bytes whole;  // with length, type and, where it is there, checksum

  bool is(const char* name) const { return std::memcmp(type, name, 4) == 0; }

  bool is_sound() const {
    if (whole.size < contents.size + 12) return false;
    const auto* bytes = reinterpret_cast<const Bytef*>(type);
    uLong sum = crc32(0, bytes, 4);
    sum = crc32(sum, contents.data, static_cast<uInt>(contents.size));
    return sum == big_endian(contents.data + contents.size);
  }
};

/// The chunk at the beginning of `rest`. False where none begins there.
bool next_chunk(Bytes rest, Chunk& chunk) {
  if (rest.size < 8) return false;
  chunk.type = reinterpret_cast<const char*>(rest.data + 4);
  const auto fits = [](unsigned char letter) { return std::isalnum(letter) != 0 || letter == '_'; };
  if (!std::all_of(rest.data + 4, rest.data + 8, fits)) return false;
  const std::size_t length = big_endian(rest.data);
  if (length > rest.size - 8) {
    // Pixels may be cut off: whether enough are there, libpng finds out.
    if (!chunk.is("IDAT")) return false;
    chunk.contents = {rest.data + 8, rest.size - 8};
  } else {
    chunk.contents = {rest.data + 8, length};
  }
  chunk.whole = {rest.data, std::min(rest.size, length + 12)};
  return true;
}

void take_header(const Chunk& chunk, PngFile& file) {
  if (!chunk.is("IHDR") || chunk.contents.size != 13) {
    fail_decoding("the first chunk is no IHDR of 13 bytes");
  }
  const std::uint8_t* fields = chunk.contents.data;
  file.header = chunk.whole;
  file.width = big_endian(fields);
  file.height = big_endian(fields + 4);
  file.depth = fields[8];
  file.color = fields[9];
}

/// The chunks behind the first IDAT.
void read_tail(Bytes rest, Metadata& metadata) {
  Chunk chunk;
  while (next_chunk(rest, chunk) && !chunk.is("IEND")) {
    metadata.take(chunk.type, chunk.contents);
    rest = rest.from(chunk.whole.size);
  }
}

}  // namespace

PngFile read_chunks(Bytes file) {
  PngFile png;
  Metadata metadata;
  Bytes rest = file.from(8);
  Chunk chunk;
  for (bool first = true;; first = false, rest = rest.from(chunk.whole.size)) {
    if (!next_chunk(rest, chunk)) fail_decoding("the file is truncated");
    if (chunk.is("IDAT") && !first) break;
    if (chunk.is("IEND")) fail_decoding("it has no pixels");
    if ((chunk.is("IHDR") || chunk.is("PLTE")) && !chunk.is_sound()) {
      fail_decoding(words("the checksum of chunk ", std::string(chunk.type, 4), " is wrong"));
    }
    if (first) take_header(chunk, png);
    if (chunk.is("PLTE")) png.palette = chunk.contents;
    if (chunk.is("tRNS")) png.clear = chunk.contents;
    metadata.take(chunk.type, chunk.contents);
  }
  png.pixels = rest;
  read_tail(rest, metadata);
  png.orientation = metadata.orientation();
  return png;
}

}  // namespace libtame

#endif
