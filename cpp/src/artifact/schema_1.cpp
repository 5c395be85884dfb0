// For artifacts of schema 1 alone: they kept the hash of a text, but not the text, so it is made
// anew, in Python's spelling of JSON. Later schemas keep the text. This stays as it is.
#include "artifact/schema_1.hpp"

#include <charconv>
#include <cstdlib>

namespace libtame {

namespace {

using Sorted = nlohmann::json;  // by bytes of UTF-8, and so by code points, as Python sorts

/// The shortest text that reads the same, with an exponent where Python has one.
std::string float_text(double value) {
  char text[32];
  const auto end = std::to_chars(text, text + sizeof text, value, std::chars_format::scientific);
  std::string scientific(text, end.ptr);
  const int exponent = std::atoi(scientific.c_str() + scientific.find('e') + 1);
  if (exponent < -4 || exponent >= 16) return scientific;
  const auto fixed = std::to_chars(text, text + sizeof text, value, std::chars_format::fixed);
  std::string plain(text, fixed.ptr);
  return plain.find('.') == std::string::npos ? plain + ".0" : plain;
}

/// json.dumps(value, sort_keys=True, separators=(",", ":")).
void write(const Sorted& value, std::string& out) {
  const char* between = "";
  if (value.is_array()) {
    out += '[';
    for (const Sorted& item : value) {
      out += between;
      write(item, out);
      between = ",";
    }
    out += ']';
  } else if (value.is_object()) {
    out += '{';
    for (const auto& member : value.items()) {
      out += between + Sorted(member.key()).dump(-1, ' ', true) + ":";
      write(member.value(), out);
      between = ",";
    }
    out += '}';
  } else {
    out += value.is_number_float() ? float_text(value.get<double>()) : value.dump(-1, ' ', true);
  }
}

}  // namespace

std::string identity_text_of_schema_1(const Value& manifest) {
  Sorted said(manifest);
  for (const char* later :
       {"name", "files", "parity", "fidelity", "calibration", "tool_versions"}) {
    said.erase(later);
  }
  std::string text;
  write(said, text);
  return text;
}

}  // namespace libtame
