#include "artifact/decode.hpp"

#include <algorithm>

#include "artifact/text.hpp"
#include "error.hpp"

namespace libtame {

namespace {

void expect(bool fits, const std::string& where, const Value& value, const std::string& expected) {
  if (!fits) {
    fail(TAME_MANIFEST_ERROR, where, " is ", shown(value), "; expected ", expected);
  }
}

/// Name the place of a key, in one line whatever the key is.
std::string inside(const std::string& where, const std::string& key) {
  const std::string text = in_quotes(key);
  return where + "." + text.substr(1, text.size() - 2);
}

Decoder decode_plain(bool (Value::*is)() const noexcept, const char* expected) {
  return [is, expected](Value& value, const std::string& where) {
    expect((value.*is)(), where, value, expected);
  };
}

void decode_items(const Decoder& item, Value& list, const std::string& where) {
  for (std::size_t index = 0; index < list.size(); ++index) {
    item(list[index], words(where, "[", index, "]"));
  }
}

const Field* find_field(const std::vector<Field>& fields, const std::string& name) {
  const auto found = std::find_if(fields.begin(), fields.end(),
                                  [&](const Field& field) { return field.name == name; });
  return found == fields.end() ? nullptr : &*found;
}

void check_names(const std::vector<Field>& fields, const Value& object, const std::string& where) {
  std::vector<std::string> unknown;
  for (const auto& member : object.items()) {
    if (find_field(fields, member.key()) == nullptr) unknown.push_back(member.key());
  }
  std::vector<std::string> known;
  std::vector<std::string> missing;
  for (const Field& field : fields) {
    known.push_back(field.name);
    if (!field.fallback && !object.contains(field.name)) {
      missing.push_back(inside(where, field.name));
    }
  }
  if (!unknown.empty()) {
    std::sort(known.begin(), known.end());
    const std::string& first = *std::min_element(unknown.begin(), unknown.end());
    fail(TAME_MANIFEST_ERROR, "unknown key ", inside(where, first), "; known: ", joined(known));
  }
  if (!missing.empty()) {
    std::sort(missing.begin(), missing.end());
    fail(TAME_MANIFEST_ERROR, joined(missing), missing.size() == 1 ? " is" : " are", " missing");
  }
}

}  // namespace

Decoder decode_str() { return decode_plain(&Value::is_string, "a string"); }
Decoder decode_int() { return decode_plain(&Value::is_number_integer, "a whole number"); }
Decoder decode_bool() { return decode_plain(&Value::is_boolean, "true or false"); }

Decoder decode_float() {
  return [](Value& value, const std::string& where) {
    constexpr std::int64_t exact = std::int64_t{1} << 53;
    if (value.is_number_integer()) {
      const auto number = value.get<std::int64_t>();
      if (-exact < number && number < exact) value = static_cast<double>(number);
    }
    expect(value.is_number_float(), where, value, "a number");
  };
}

Decoder decode_int_or_str() {
  return [](Value& value, const std::string& where) {
    expect(value.is_number_integer() || value.is_string(), where, value, "a whole number");
  };
}

Decoder decode_choice(std::vector<std::string> choices) {
  return [choices = std::move(choices)](Value& value, const std::string& where) {
    const bool known = std::find(choices.begin(), choices.end(), value) != choices.end();
    expect(known, where, value, "one of " + joined(choices));
  };
}

Decoder decode_optional(Decoder item) {
  return [item = std::move(item)](Value& value, const std::string& where) {
    if (!value.is_null()) item(value, where);
  };
}

Decoder decode_list(Decoder item) {
  return [item = std::move(item)](Value& value, const std::string& where) {
    expect(value.is_array(), where, value, "a list");
    decode_items(item, value, where);
  };
}

Decoder decode_list_or(Decoder item, Decoder other) {
  return [list = decode_list(std::move(item)), other = std::move(other)](Value& value,
                                                                         const std::string& where) {
    if (value.is_array()) {
      list(value, where);
    } else {
      other(value, where);
    }
  };
}

Decoder decode_array(Decoder item, std::size_t count) {
  return [item = std::move(item), count](Value& value, const std::string& where) {
    expect(value.is_array(), where, value, "a list");
    if (value.size() != count) {
      fail(TAME_MANIFEST_ERROR, where, " has ", value.size(), " entries; expected ", count);
    }
    decode_items(item, value, where);
  };
}

Decoder decode_dict(Decoder item) {
  return [item = std::move(item)](Value& value, const std::string& where) {
    expect(value.is_object(), where, value, "an object");
    for (auto& member : value.items()) {
      item(member.value(), inside(where, member.key()));
    }
  };
}

Decoder decode_object(std::vector<Field> fields, Check check) {
  return [fields = std::move(fields), check](Value& value, const std::string& where) {
    expect(value.is_object(), where, value, "an object");
    check_names(fields, value, where);
    for (auto& member : value.items()) {
      find_field(fields, member.key())->decode(member.value(), inside(where, member.key()));
    }
    for (const Field& field : fields) {
      if (field.fallback && !value.contains(field.name)) value[field.name] = *field.fallback;
    }
    const std::string problem = check == nullptr ? "" : check(value);
    if (!problem.empty()) {
      fail(TAME_MANIFEST_ERROR, where, ": ", problem);
    }
  };
}

}  // namespace libtame
