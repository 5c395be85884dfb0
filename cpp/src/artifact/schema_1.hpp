// What only artifacts of schema 1 need.
#pragma once

#include <string>

#include "artifact/value.hpp"

namespace libtame {

/// The text whose hash the graph carries, from what manifest.json says.
std::string identity_text_of_schema_1(const Value& manifest);

}  // namespace libtame
