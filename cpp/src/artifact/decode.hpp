// Plain JSON into known shapes, checked field by field: what a file says is not believed.
// The counterpart of tame_deploy/artifact/decoding.py: it refuses the same at the same places.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "artifact/value.hpp"

namespace libtame {

/// Checks a value, and changes it into what is kept; `where` names the place in messages.
/// Throws Failure: TAME_MANIFEST_ERROR naming the place, what was found and what was expected.
using Decoder = std::function<void(Value& value, const std::string& where)>;

Decoder decode_str();
Decoder decode_int();
Decoder decode_float();  // takes whole numbers too
Decoder decode_bool();
Decoder decode_int_or_str();
Decoder decode_choice(std::vector<std::string> choices);
Decoder decode_optional(Decoder item);                  // or null
Decoder decode_list(Decoder item);                      // of any length
Decoder decode_list_or(Decoder item, Decoder other);    // what is no list is the other
Decoder decode_array(Decoder item, std::size_t count);  // of one length
Decoder decode_dict(Decoder item);                      // by any names

struct Field {
  std::string name;
  Decoder decode;
  std::optional<Value> fallback;  // none: the field has to be there
};

/// Says what is wrong with an object whose fields are right one by one; "" for nothing.
using Check = std::string (*)(const Value& object);

/// An object with these fields and no others; absent ones get their fallback.
Decoder decode_object(std::vector<Field> fields, Check check = nullptr);

}  // namespace libtame
