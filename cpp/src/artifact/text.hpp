// Text in messages and files.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace libtame {

/// Whether bytes are valid UTF-8.
bool is_utf8(const std::string& bytes);

/// A text as JSON writes it in ASCII, quotes included: one harmless line, whatever it holds.
std::string in_quotes(std::string_view text);

/// Texts in a row, with a comma between.
std::string joined(const std::vector<std::string>& texts);

}  // namespace libtame
