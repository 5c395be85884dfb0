#include "artifact/value.hpp"

#include <algorithm>
#include <charconv>
#include <iterator>

#include "artifact/text.hpp"

namespace libtame {

const Value& Value::operator[](std::string_view key) const {
  return *find(std::get<Dict>(it), key);
}

const Value* find(const Dict& dict, std::string_view key) {
  const auto found =
      std::find_if(dict.begin(), dict.end(), [&](const Member& item) { return item.key == key; });
  return found == dict.end() ? nullptr : &found->value;
}

std::optional<std::int64_t> to_int64(const Integer& integer) {
  std::int64_t number = 0;
  const char* end = integer.digits.data() + integer.digits.size();
  const auto read = std::from_chars(integer.digits.data(), end, number);
  if (read.ec != std::errc() || read.ptr != end) {
    return std::nullopt;
  }
  return number;
}

bool operator==(const Value& one, const Value& other) {
  const Dict* dict = one.as<Dict>();
  const Dict* found = other.as<Dict>();
  if (dict == nullptr || found == nullptr) return one.it == other.it;
  return dict->size() == found->size() &&
         std::all_of(dict->begin(), dict->end(), [&](const Member& item) {
           const Value* same = find(*found, item.key);
           return same != nullptr && item.value == *same;
         });
}

bool operator==(const Member& one, const Member& other) {
  return one.key == other.key && one.value == other.value;
}

bool operator==(const Integer& one, const Integer& other) { return one.digits == other.digits; }

const char* type_name(const Value& value) {
  static constexpr const char* names[] = {"NoneType", "bool", "int", "float",
                                          "str",      "list", "dict"};
  static_assert(std::size(names) == std::variant_size_v<decltype(Value::it)>);
  return names[value.it.index()];
}

namespace {

// Recurses as deep as the value, which parse_object bounds.
struct ReprWriter {
  std::string out;

  void operator()(std::nullptr_t) { out += "None"; }
  void operator()(bool value) { out += value ? "True" : "False"; }
  void operator()(const Integer& value) { out += value.digits; }
  void operator()(double value) { out += float_text(value); }
  void operator()(const std::string& value) { out += repr(std::string_view(value)); }

  void operator()(const List& list) {
    out += '[';
    const char* between = "";
    for (const Value& item : list) {
      out += between;
      std::visit(*this, item.it);
      between = ", ";
    }
    out += ']';
  }

  void operator()(const Dict& dict) {
    out += '{';
    const char* between = "";
    for (const Member& item : dict) {
      out.append(between).append(repr(std::string_view(item.key))).append(": ");
      std::visit(*this, item.value.it);
      between = ", ";
    }
    out += '}';
  }
};

}  // namespace

std::string repr(const Value& value) {
  ReprWriter writer;
  std::visit(writer, value.it);
  return std::move(writer.out);
}

}  // namespace libtame
