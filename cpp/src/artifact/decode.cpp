#include "artifact/decode.hpp"

#include <algorithm>
#include <cmath>

#include "artifact/nearest.hpp"
#include "artifact/text.hpp"
#include "error.hpp"

namespace libtame {

namespace {

[[noreturn]] void mismatch(const std::string& where, const Value& value,
                           const std::string& expected) {
  fail(TAME_MANIFEST_ERROR, where, " is ", cut(repr(value), 60), "; expected ", expected);
}

/// Name the place of a key, in one line whatever the key is.
std::string inside(const std::string& where, const std::string& key) {
  const std::string quoted = repr(std::string_view(key));
  return where + "." + quoted.substr(1, quoted.size() - 2);
}

template <typename T>
Decoder decode_plain(const char* expected) {
  return [expected](Value&& value, const std::string& where) {
    if (value.as<T>() == nullptr) {
      mismatch(where, value, expected);
    }
    return std::move(value);
  };
}

List take_list(Value&& value, const std::string& where) {
  if (value.as<List>() == nullptr) {
    mismatch(where, value, "a list");
  }
  return std::get<List>(std::move(value.it));
}

Dict take_dict(Value&& value, const std::string& where) {
  if (value.as<Dict>() == nullptr) {
    mismatch(where, value, "an object");
  }
  return std::get<Dict>(std::move(value.it));
}

Value decode_items(const Decoder& item, List&& list, const std::string& where) {
  for (std::size_t index = 0; index < list.size(); ++index) {
    list[index] = item(std::move(list[index]), words(where, "[", index, "]"));
  }
  return Value{std::move(list)};
}

const Field* find_field(const std::vector<Field>& fields, const std::string& name) {
  const auto found = std::find_if(fields.begin(), fields.end(),
                                  [&](const Field& field) { return field.name == name; });
  return found == fields.end() ? nullptr : &*found;
}

void check_names(const std::vector<Field>& fields, const Dict& dict, const std::string& where) {
  const std::string* unknown = nullptr;  // the first by name
  for (const Member& item : dict) {
    if (find_field(fields, item.key) == nullptr && (unknown == nullptr || item.key < *unknown)) {
      unknown = &item.key;
    }
  }
  std::vector<std::string> known;
  std::vector<std::string> missing;
  for (const Field& field : fields) {
    known.push_back(field.name);
    if (!field.fallback && find(dict, field.name) == nullptr) {
      missing.push_back(inside(where, field.name));
    }
  }
  std::sort(known.begin(), known.end());
  std::sort(missing.begin(), missing.end());
  if (unknown != nullptr) {
    const std::optional<std::string> near = nearest(*unknown, known);
    fail(TAME_MANIFEST_ERROR, "unknown key ", inside(where, *unknown), "; ",
         near ? words("did you mean ", inside(where, *near), "?") : "known: " + joined(known));
  }
  if (!missing.empty()) {
    fail(TAME_MANIFEST_ERROR, joined(missing), missing.size() == 1 ? " is" : " are", " missing");
  }
}

}  // namespace

Decoder decode_str() { return decode_plain<std::string>("a string"); }
Decoder decode_int() { return decode_plain<Integer>("a whole number"); }
Decoder decode_bool() { return decode_plain<bool>("true or false"); }

Decoder decode_float() {
  return [](Value&& value, const std::string& where) {
    constexpr std::int64_t exact = std::int64_t{1} << 53;
    if (const Integer* integer = value.as<Integer>()) {
      const std::optional<std::int64_t> number = to_int64(*integer);
      if (number && -exact < *number && *number < exact) {
        return Value{static_cast<double>(*number)};
      }
    }
    if (value.as<double>() == nullptr) {
      mismatch(where, value, "a number");
    }
    return std::move(value);
  };
}

Decoder decode_int_or_str() {
  return [](Value&& value, const std::string& where) {
    if (value.as<Integer>() == nullptr && value.as<std::string>() == nullptr) {
      mismatch(where, value, "a whole number");
    }
    return std::move(value);
  };
}

Decoder decode_choice(std::vector<std::string> choices) {
  return [choices = std::move(choices)](Value&& value, const std::string& where) {
    const std::string* text = value.as<std::string>();
    if (text == nullptr || std::find(choices.begin(), choices.end(), *text) == choices.end()) {
      mismatch(where, value, "one of " + joined(choices));
    }
    return std::move(value);
  };
}

Decoder decode_optional(Decoder item) {
  return [item = std::move(item)](Value&& value, const std::string& where) {
    return value.as<std::nullptr_t>() != nullptr ? std::move(value) : item(std::move(value), where);
  };
}

Decoder decode_list(Decoder item) {
  return [item = std::move(item)](Value&& value, const std::string& where) {
    return decode_items(item, take_list(std::move(value), where), where);
  };
}

Decoder decode_array(Decoder item, std::size_t count) {
  return [item = std::move(item), count](Value&& value, const std::string& where) {
    List list = take_list(std::move(value), where);
    if (list.size() != count) {
      fail(TAME_MANIFEST_ERROR, where, " has ", list.size(), " entries; expected ", count);
    }
    return decode_items(item, std::move(list), where);
  };
}

Decoder decode_dict(Decoder item) {
  return [item = std::move(item)](Value&& value, const std::string& where) {
    Dict dict = take_dict(std::move(value), where);
    for (Member& member : dict) {
      member.value = item(std::move(member.value), inside(where, member.key));
    }
    return Value{std::move(dict)};
  };
}

Decoder decode_object(std::vector<Field> fields, Check check) {
  return [fields = std::move(fields), check](Value&& value, const std::string& where) {
    Dict dict = take_dict(std::move(value), where);
    check_names(fields, dict, where);
    for (Member& member : dict) {
      const Field& field = *find_field(fields, member.key);
      member.value = field.decode(std::move(member.value), inside(where, member.key));
    }
    for (const Field& field : fields) {
      if (field.fallback && find(dict, field.name) == nullptr) {
        dict.push_back({field.name, *field.fallback});
      }
    }
    Value object{std::move(dict)};
    const std::string problem = check == nullptr ? "" : check(object);
    if (!problem.empty()) {
      fail(TAME_MANIFEST_ERROR, where, ": ", problem);
    }
    return object;
  };
}

}  // namespace libtame
