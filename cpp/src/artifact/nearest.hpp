// The name that was meant by a misspelt one.
#pragma once

#include <optional>
#include <string>
#include <vector>

namespace libtame {

/// The one of `names` that is most like `word`; none where none is much like it.
/// The same as difflib.get_close_matches(word, names, 1) in Python. All are valid UTF-8.
std::optional<std::string> nearest(const std::string& word, const std::vector<std::string>& names);

}  // namespace libtame
