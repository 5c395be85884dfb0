// JSON text into values, with nlohmann's parser: it does not recurse, and gives numbers as written.
#include <algorithm>
#include <charconv>
#include <cstring>
#include <nlohmann/json.hpp>

#include "artifact/text.hpp"
#include "artifact/value.hpp"
#include "error.hpp"

namespace libtame {

namespace {

// A manifest has seven levels and some hundred values; what is far beyond costs memory and stack.
constexpr std::size_t max_depth = 500;
constexpr std::size_t max_values = std::size_t{1} << 20;

/// Keep the last of members of one name, in the place of the first, as Python does.
void drop_duplicates(Dict& dict) {
  std::vector<std::size_t> order(dict.size());
  for (std::size_t index = 0; index < order.size(); ++index) {
    order[index] = index;
  }
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return dict[a].key < dict[b].key; });
  std::vector<bool> stale(dict.size());
  std::size_t first = 0;
  for (std::size_t index = 1; index < order.size(); ++index) {
    if (dict[order[index]].key == dict[order[first]].key) {
      dict[order[first]].value = std::move(dict[order[index]].value);
      stale[order[index]] = true;
    } else {
      first = index;
    }
  }
  std::size_t kept = 0;
  for (std::size_t index = 0; index < dict.size(); ++index) {
    if (!stale[index] && kept++ != index) {
      dict[kept - 1] = std::move(dict[index]);
    }
  }
  dict.resize(kept);
}

/// The number that a text means. The parser's own follows the program's locale, and so does the mark
/// that it puts for the decimal point.
double number_of(std::string text, double parsed) {
  for (char& letter : text) {
    if (std::strchr("0123456789+-eE", letter) == nullptr) letter = '.';
  }
  double value = 0;
  const auto read = std::from_chars(text.data(), text.data() + text.size(), value);
  return read.ec == std::errc() ? value : parsed;  // too small for a float: both give 0
}

/// Builds the value; every event returns whether to go on.
class Builder : public nlohmann::json_sax<nlohmann::json> {
 public:
  Value root;
  std::string problem;

  bool null() override { return add(Value{nullptr}); }
  bool boolean(bool value) override { return add(Value{value}); }
  bool number_integer(std::int64_t value) override { return add_integer(std::to_string(value)); }
  bool number_unsigned(std::uint64_t value) override { return add_integer(std::to_string(value)); }

  bool number_float(double value, const std::string& text) override {
    const bool whole = text.find_first_not_of("-0123456789") == std::string::npos;
    return whole ? add_integer(text) : add(Value{number_of(text, value)});
  }

  bool string(std::string& value) override { return add(Value{std::move(value)}); }
  bool binary(nlohmann::json::binary_t&) override { return false; }  // JSON text has none
  bool start_object(std::size_t) override { return open(Value{Dict()}); }
  bool start_array(std::size_t) override { return open(Value{List()}); }

  bool key(std::string& name) override {
    std::get<Dict>(open_.back().it).push_back({std::move(name), Value{nullptr}});
    return true;
  }

  bool end_object() override {
    drop_duplicates(std::get<Dict>(open_.back().it));
    return close();
  }

  bool end_array() override { return close(); }

  bool parse_error(std::size_t, const std::string&,
                   const nlohmann::json::exception& error) override {
    std::string text = error.what();
    text.erase(0, text.find("] ") + 2);  // the name of the exception
    if (utf8_error(text)) {              // it shows what it read, which may end inside a letter
      std::replace_if(
          text.begin(), text.end(), [](unsigned char byte) { return byte >= 0x80; }, '?');
    }
    problem = cut(text, 300);
    return false;
  }

 private:
  bool add_integer(std::string digits) { return add(Value{Integer{std::move(digits)}}); }

  bool add(Value&& value) {
    if (++count_ > max_values) {
      problem = words("found more than ", max_values, " values");
      return false;
    }
    if (open_.empty()) {
      root = std::move(value);
    } else if (List* list = std::get_if<List>(&open_.back().it)) {
      list->push_back(std::move(value));
    } else {
      std::get<Dict>(open_.back().it).back().value = std::move(value);
    }
    return true;
  }

  bool open(Value&& container) {
    if (open_.size() == max_depth) {
      problem = words("it is nested over ", max_depth, " levels");
      return false;
    }
    open_.push_back(std::move(container));
    return true;
  }

  bool close() {
    Value done = std::move(open_.back());
    open_.pop_back();
    return add(std::move(done));
  }

  std::vector<Value> open_;
  std::size_t count_ = 0;
};

}  // namespace

Dict parse_object(const std::string& text, const std::string& name) {
  Builder builder;
  // The parser skips a byte order mark and takes NUL for the end; Python refuses both.
  if (text.compare(0, 3, "\xef\xbb\xbf") == 0) {
    builder.problem = "Unexpected UTF-8 BOM (decode using utf-8-sig): line 1 column 1 (char 0)";
  } else if (text.find('\0') != std::string::npos) {
    builder.problem = "found a NUL byte";
  } else {
    nlohmann::json::sax_parse(text, &builder);
  }
  if (!builder.problem.empty()) {
    fail(TAME_MANIFEST_ERROR, name, " is not valid JSON: ", builder.problem);
  }
  if (builder.root.as<Dict>() == nullptr) {
    fail(TAME_MANIFEST_ERROR, name, " holds a ", type_name(builder.root), "; expected an object");
  }
  return std::get<Dict>(std::move(builder.root.it));
}

}  // namespace libtame
