// What JSON text says: nlohmann's values, read within bounds.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

namespace libtame {

/// Objects keep the order of the text: of two faults, both languages name the same one.
using Value = nlohmann::ordered_json;

/// Read the JSON object in a text. Whole numbers that 64 bits do not hold become the nearest that
/// they do; whoever uses one checks its range.
///
/// Throws Failure: TAME_MANIFEST_ERROR if it is none, or nested or large beyond any manifest.
Value parse_object(const std::string& text, const std::string& name);

/// A value for a message: JSON in ASCII, cut where it is long.
std::string shown(const Value& value);

}  // namespace libtame
