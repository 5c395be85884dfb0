// For artifacts of schema 1 alone: they kept the hash of a text, but not the text, so it is made
// anew, in Python's spelling of JSON. Later schemas keep the text. This stays as it is.
#include "artifact/schema_1.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "artifact/text.hpp"

namespace libtame {

namespace {

/// json.dumps(value, sort_keys=True, separators=(",", ":")).
struct SortedWriter {
  std::string out;

  void operator()(std::nullptr_t) { out += "null"; }
  void operator()(bool value) { out += value ? "true" : "false"; }
  void operator()(const Integer& value) { out += value.digits; }
  void operator()(double value) { out += float_text(value); }
  void operator()(const std::string& value) { out += nlohmann::json(value).dump(-1, ' ', true); }

  void operator()(const List& list) {
    out += '[';
    for (const Value& item : list) {
      out += &item == &list.front() ? "" : ",";
      std::visit(*this, item.it);
    }
    out += ']';
  }

  void operator()(Dict dict) {
    // Bytes of UTF-8 sort as code points do, which is how Python sorts.
    std::sort(dict.begin(), dict.end(),
              [](const Member& one, const Member& other) { return one.key < other.key; });
    out += '{';
    for (const Member& item : dict) {
      out += &item == &dict.front() ? "" : ",";
      (*this)(item.key);
      out += ':';
      std::visit(*this, item.value.it);
    }
    out += '}';
  }
};

}  // namespace

std::string identity_text_of_schema_1(Dict manifest) {
  for (const char* later :
       {"name", "files", "parity", "fidelity", "calibration", "tool_versions"}) {
    const auto named = [&](const Member& item) { return item.key == later; };
    manifest.erase(std::remove_if(manifest.begin(), manifest.end(), named), manifest.end());
  }
  SortedWriter writer;
  writer(std::move(manifest));
  return std::move(writer.out);
}

}  // namespace libtame
