#include "artifact/text.hpp"

#include <nlohmann/json.hpp>

namespace libtame {

using nlohmann::json;

bool is_utf8(const std::string& bytes) {
  try {
    (void)json(bytes).dump();
    return true;
  } catch (const json::type_error&) {
    return false;
  }
}

std::string in_quotes(std::string_view text) {
  return json(text).dump(-1, ' ', true, json::error_handler_t::replace);
}

std::string joined(const std::vector<std::string>& texts) {
  std::string out;
  const char* between = "";
  for (const std::string& text : texts) {
    out.append(between).append(text);
    between = ", ";
  }
  return out;
}

}  // namespace libtame
