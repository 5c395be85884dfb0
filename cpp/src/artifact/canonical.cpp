// The text that an artifact's identity is the hash of.
#include <algorithm>
#include <cstdio>

#include "artifact/text.hpp"
#include "artifact/value.hpp"

namespace libtame {

namespace {

void append_unit(std::string& out, unsigned unit) {
  char text[16];
  std::snprintf(text, sizeof text, "\\u%04x", unit);
  out += text;
}

void append_string(std::string& out, std::string_view text) {
  static constexpr std::string_view plain = "\"\\\b\f\n\r\t";
  static constexpr std::string_view letters = "\"\\bfnrt";
  out += '"';
  for (std::size_t at = 0; at < text.size();) {
    const char32_t point = next_code_point(text, at);
    const std::size_t short_form =
        point < 0x80 ? plain.find(static_cast<char>(point)) : std::string_view::npos;
    if (short_form != std::string_view::npos) {
      (out += '\\') += letters[short_form];
    } else if (point >= 0x20 && point < 0x7f) {
      out += static_cast<char>(point);
    } else if (point < 0x10000) {
      append_unit(out, static_cast<unsigned>(point));
    } else {
      const unsigned rest = static_cast<unsigned>(point) - 0x10000;
      append_unit(out, 0xd800 + (rest >> 10));
      append_unit(out, 0xdc00 + (rest & 0x3ff));
    }
  }
  out += '"';
}

struct CanonicalWriter {
  std::string out;

  void operator()(std::nullptr_t) { out += "null"; }
  void operator()(bool value) { out += value ? "true" : "false"; }
  void operator()(const Integer& value) { out += value.digits; }
  void operator()(double value) { out += float_text(value); }
  void operator()(const std::string& value) { append_string(out, value); }

  void operator()(const List& list) {
    out += '[';
    for (const Value& item : list) {
      out += &item == &list.front() ? "" : ",";
      std::visit(*this, item.it);
    }
    out += ']';
  }

  void operator()(const Dict& dict) {
    // Bytes of UTF-8 sort as code points do, which is how Python sorts.
    std::vector<const Member*> sorted;
    for (const Member& item : dict) {
      sorted.push_back(&item);
    }
    std::sort(sorted.begin(), sorted.end(),
              [](const Member* one, const Member* other) { return one->key < other->key; });
    out += '{';
    for (const Member* item : sorted) {
      out += item == sorted.front() ? "" : ",";
      append_string(out, item->key);
      out += ':';
      std::visit(*this, item->value.it);
    }
    out += '}';
  }
};

}  // namespace

std::string canonical_json(const Value& value) {
  CanonicalWriter writer;
  std::visit(writer, value.it);
  return std::move(writer.out);
}

}  // namespace libtame
