// With nlohmann's parser of events: it does not recurse, and gives numbers as written.
#include "artifact/value.hpp"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <limits>

#include "error.hpp"

namespace libtame {

namespace {

// A manifest has seven levels and some hundred values; what is far beyond costs memory and time.
constexpr std::size_t max_depth = 500;
constexpr std::size_t max_values = std::size_t{1} << 14;
constexpr std::size_t max_shown = 60;

using Limits = std::numeric_limits<std::int64_t>;

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
class Builder : public nlohmann::json_sax<Value> {
 public:
  Value root;
  std::string problem;

  bool null() override { return put(nullptr) != nullptr; }
  bool boolean(bool value) override { return put(value) != nullptr; }
  bool number_integer(std::int64_t value) override { return put(value) != nullptr; }

  bool number_unsigned(std::uint64_t value) override {
    return number_integer(static_cast<std::int64_t>(std::min<std::uint64_t>(value, Limits::max())));
  }

  bool number_float(double value, const std::string& text) override {
    const bool whole = text.find_first_not_of("-0123456789") == std::string::npos;
    if (whole) return number_integer(text.front() == '-' ? Limits::min() : Limits::max());
    return put(number_of(text, value)) != nullptr;
  }

  bool string(std::string& value) override { return put(std::move(value)) != nullptr; }
  bool binary(Value::binary_t&) override { return false; }  // JSON text has none
  bool start_object(std::size_t) override { return open(Value::object()); }
  bool start_array(std::size_t) override { return open(Value::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool key(std::string& name) override {
    member_ = &(*open_.back())[name];  // the last of one name counts, in the place of the first
    return true;
  }

  bool parse_error(std::size_t, const std::string&,
                   const nlohmann::json::exception& error) override {
    problem = error.what();
    problem.erase(0, problem.find("] ") + 2);  // the name of the exception
    problem.resize(std::min<std::size_t>(problem.size(), 300));
    const auto is_foreign = [](unsigned char byte) { return byte >= 0x80; };
    std::replace_if(problem.begin(), problem.end(), is_foreign, '?');  // of what it read last
    return false;
  }

 private:
  /// Put a value where it belongs; null if there are too many.
  Value* put(Value&& value) {
    if (++count_ > max_values) {
      problem = words("found more than ", max_values, " values");
      return nullptr;
    }
    Value* place = open_.empty() ? &root : member_;
    if (!open_.empty() && open_.back()->is_array()) {
      open_.back()->push_back(nullptr);
      place = &open_.back()->back();
    }
    *place = std::move(value);
    return place;
  }

  bool open(Value&& container) {
    if (open_.size() == max_depth) {
      problem = words("it is nested over ", max_depth, " levels");
      return false;
    }
    Value* const place = put(std::move(container));
    open_.push_back(place);
    return place != nullptr;
  }

  bool close() {
    open_.pop_back();
    return true;
  }

  std::vector<Value*> open_;  // from outside to inside; only the last one changes
  Value* member_ = nullptr;
  std::size_t count_ = 0;
};

}  // namespace

Value parse_object(const std::string& text, const std::string& name) {
  Builder builder;
  // The parser skips a byte order mark and takes NUL for the end; Python refuses both.
  if (text.compare(0, 3, "\xef\xbb\xbf") == 0) {
    builder.problem = "it begins with a byte order mark";
  } else if (text.find('\0') != std::string::npos) {
    builder.problem = "found a NUL byte";
  } else {
    Value::sax_parse(text, &builder);
  }
  if (!builder.problem.empty()) {
    fail(TAME_MANIFEST_ERROR, name, " is not valid JSON: ", builder.problem);
  }
  if (!builder.root.is_object()) {
    fail(TAME_MANIFEST_ERROR, name, " holds ", shown(builder.root), "; expected an object");
  }
  return std::move(builder.root);
}

std::string shown(const Value& value) {
  std::string text = value.dump(-1, ' ', true, Value::error_handler_t::replace);
  if (text.size() > max_shown) text.replace(max_shown, text.npos, "…");
  return text;
}

}  // namespace libtame
