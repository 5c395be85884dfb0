#include "artifact/text.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <iterator>

#include "error.hpp"

namespace libtame {

namespace {

unsigned byte_at(std::string_view bytes, std::size_t at) {
  return static_cast<unsigned char>(bytes[at]);
}

/// How many bytes a sequence has by its first byte; 0 for none that begins so.
std::size_t sequence_length(unsigned first) {
  if (first < 0x80) return 1;
  if (first < 0xc2) return 0;
  if (first < 0xe0) return 2;
  if (first < 0xf0) return 3;
  return first < 0xf5 ? 4 : 0;
}

/// Whether a byte may follow: the second byte also excludes surrogates and needless length.
bool may_follow(unsigned first, std::size_t place, unsigned byte) {
  unsigned low = 0x80;
  unsigned high = 0xbf;
  if (place == 1) {
    if (first == 0xe0) low = 0xa0;
    if (first == 0xed) high = 0x9f;
    if (first == 0xf0) low = 0x90;
    if (first == 0xf4) high = 0x8f;
  }
  return low <= byte && byte <= high;
}

std::string decode_error(std::string_view bytes, std::size_t at, std::size_t count,
                         const char* reason) {
  char found[40];
  if (count == 1) {
    std::snprintf(found, sizeof found, "byte 0x%02x in position ", byte_at(bytes, at));
    return words("'utf-8' codec can't decode ", found, at, ": ", reason);
  }
  return words("'utf-8' codec can't decode bytes in position ", at, "-", at + count - 1, ": ",
               reason);
}

/// Above ASCII, what str.isprintable() denies in every version of Unicode since 14.
bool is_printable(char32_t point) {
  static constexpr struct {
    char32_t first, last;
  } hidden[] = {{0x7f, 0xa0},       {0xad, 0xad},       {0x600, 0x605},     {0x61c, 0x61c},
                {0x6dd, 0x6dd},     {0x70f, 0x70f},     {0x890, 0x891},     {0x8e2, 0x8e2},
                {0x1680, 0x1680},   {0x180e, 0x180e},   {0x2000, 0x200f},   {0x2028, 0x202f},
                {0x205f, 0x206f},   {0x3000, 0x3000},   {0xd800, 0xf8ff},   {0xfeff, 0xfeff},
                {0xfff0, 0xfffb},   {0xfffe, 0xffff},   {0x110bd, 0x110bd}, {0x110cd, 0x110cd},
                {0x13430, 0x1343f}, {0x1bca0, 0x1bca3}, {0x1d173, 0x1d17a}, {0x40000, 0xe00ff},
                {0xe01f0, 0x10ffff}};
  const auto* range = std::find_if(std::begin(hidden), std::end(hidden),
                                   [&](const auto& item) { return point <= item.last; });
  return point >= 0x20 && (range == std::end(hidden) || point < range->first);
}

void append_escaped(std::string& out, char32_t point) {
  const char* format = point < 0x100 ? "\\x%02x" : point < 0x10000 ? "\\u%04x" : "\\U%08x";
  char text[16];
  std::snprintf(text, sizeof text, format, static_cast<unsigned>(point));
  out += text;
}

}  // namespace

char32_t next_code_point(std::string_view text, std::size_t& at) {
  const unsigned first = byte_at(text, at);
  const std::size_t length = sequence_length(first);
  if (length <= 1) {
    ++at;
    return first;
  }
  char32_t point = first & (0xffU >> (length + 1));
  const std::size_t end = std::min(at + length, text.size());
  for (++at; at < end; ++at) {
    point = (point << 6) | (byte_at(text, at) & 0x3fU);
  }
  return point;
}

std::string_view cut(std::string_view text, std::size_t code_points) {
  std::size_t at = 0;
  for (; code_points > 0 && at < text.size(); --code_points) {
    next_code_point(text, at);
  }
  return text.substr(0, at);
}

std::optional<std::string> utf8_error(std::string_view bytes) {
  for (std::size_t at = 0; at < bytes.size();) {
    const unsigned first = byte_at(bytes, at);
    const std::size_t length = sequence_length(first);
    if (length == 0) {
      return decode_error(bytes, at, 1, "invalid start byte");
    }
    for (std::size_t place = 1; place < length; ++place) {
      if (at + place == bytes.size()) {
        return decode_error(bytes, at, place, "unexpected end of data");
      }
      if (!may_follow(first, place, byte_at(bytes, at + place))) {
        return decode_error(bytes, at, place, "invalid continuation byte");
      }
    }
    at += length;
  }
  return std::nullopt;
}

std::string repr(std::string_view text) {
  const bool has_single = text.find('\'') != std::string_view::npos;
  const char quote = has_single && text.find('"') == std::string_view::npos ? '"' : '\'';
  std::string out(1, quote);
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t start = at;
    const char32_t point = next_code_point(text, at);
    if (point == U'\n') {
      out += "\\n";
    } else if (point == U'\r') {
      out += "\\r";
    } else if (point == U'\t') {
      out += "\\t";
    } else if (point == U'\\' || point == static_cast<unsigned char>(quote)) {
      (out += '\\') += text[start];
    } else if (is_printable(point)) {
      out += text.substr(start, at - start);
    } else {
      append_escaped(out, point);
    }
  }
  return out += quote;
}

std::string repr(const std::vector<std::string>& texts) {
  std::vector<std::string> each;
  std::transform(texts.begin(), texts.end(), std::back_inserter(each),
                 [](const std::string& text) { return repr(std::string_view(text)); });
  return "[" + joined(each) + "]";
}

std::string float_text(double value) {
  if (!std::isfinite(value)) {
    return std::isnan(value) ? "nan" : value < 0 ? "-inf" : "inf";
  }
  char buffer[32] = {};
  const auto scientific =
      std::to_chars(std::begin(buffer), std::end(buffer), value, std::chars_format::scientific);
  const std::string_view text(buffer, static_cast<std::size_t>(scientific.ptr - buffer));
  const int exponent = std::atoi(buffer + text.find('e') + 1);
  if (exponent < -4 || exponent >= 16) {
    return std::string(text);
  }
  // Wide enough for 16 digits before the point, or 17 after four zeros.
  char plain[32];
  const auto fixed =
      std::to_chars(std::begin(plain), std::end(plain), value, std::chars_format::fixed);
  std::string out(plain, fixed.ptr);
  return out.find('.') == std::string::npos ? out + ".0" : out;
}

std::string joined(const std::vector<std::string>& texts) {
  std::string out;
  const char* between = "";
  for (const std::string& text : texts) {
    out.append(between).append(text);
    between = ", ";
  }
  return out;
}

std::vector<std::string> path_parts(std::string_view path) {
  std::vector<std::string> parts;
  while (!path.empty()) {
    const std::size_t end = std::min(path.find('/'), path.size());
    const std::string_view part = path.substr(0, end);
    if (!part.empty() && part != ".") {
      parts.emplace_back(part);
    }
    path.remove_prefix(std::min(end + 1, path.size()));
  }
  return parts;
}

std::string path_text(std::string_view path) {
  const std::size_t slashes = std::min(path.find_first_not_of('/'), path.size());
  std::string out(slashes == 2 ? 2 : std::min<std::size_t>(slashes, 1), '/');
  for (const std::string& part : path_parts(path)) {
    out += part;
    out += '/';
  }
  if (out.find_first_not_of('/') == std::string::npos) {
    return out.empty() ? "." : out;
  }
  out.pop_back();
  return out;
}

}  // namespace libtame
