// What JSON text says, as Python's json module gives it.
//
// Not nlohmann::json's own tree: integers of any size keep their digits, objects their order, and
// both show in messages, and in the identity of artifacts of schema 1.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace libtame {

struct Value;
struct Member;

/// A whole number as decimal digits, such as "-12".
struct Integer {
  std::string digits;
};

using List = std::vector<Value>;
using Dict = std::vector<Member>;  // in the order of the text; no key is there twice

struct Value {
  std::variant<std::nullptr_t, bool, Integer, double, std::string, List, Dict> it;

  template <typename T>
  const T* as() const {
    return std::get_if<T>(&it);
  }

  /// A member of an object that is known to be there.
  const Value& operator[](std::string_view key) const;
};

struct Member {
  std::string key;
  Value value;
};

/// The member with a name; null where there is none.
const Value* find(const Dict& dict, std::string_view key);

/// The number, where 64 bits hold it.
std::optional<std::int64_t> to_int64(const Integer& integer);

/// Whether two values say the same; the order of an object's members says nothing.
bool operator==(const Value& one, const Value& other);
bool operator==(const Member& one, const Member& other);
bool operator==(const Integer& one, const Integer& other);

/// How Python calls the value's type, such as "NoneType".
const char* type_name(const Value& value);

/// The value as Python's repr() writes it.
std::string repr(const Value& value);

/// Read the JSON object in a text of valid UTF-8.
///
/// Throws Failure: TAME_MANIFEST_ERROR if it is none, or nested or large beyond any manifest.
Dict parse_object(const std::string& text, const std::string& name);

}  // namespace libtame
