// Text as Python writes it: the messages, and the bytes that are hashed, are to be the same.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace libtame {

/// The code point that begins at a place of valid UTF-8; moves the place past it.
char32_t next_code_point(std::string_view text, std::size_t& at);

/// The first code points of valid UTF-8.
std::string_view cut(std::string_view text, std::size_t code_points);

/// What is wrong with bytes that are to be UTF-8, in the words of Python's UnicodeDecodeError.
std::optional<std::string> utf8_error(std::string_view bytes);

/// repr() of a str. Code points that no version of Unicode assigns may be escaped otherwise.
std::string repr(std::string_view text);

/// repr() of a list of str.
std::string repr(const std::vector<std::string>& texts);

/// repr() of a float, which is json.dumps() of it too: the shortest text that reads the same.
std::string float_text(double value);

/// Texts in a row, with a comma between.
std::string joined(const std::vector<std::string>& texts);

/// A path as pathlib writes it: "a//b/./c/" is "a/b/c".
std::string path_text(std::string_view path);

/// The parts of a relative path, without empty ones and ".".
std::vector<std::string> path_parts(std::string_view path);

}  // namespace libtame
