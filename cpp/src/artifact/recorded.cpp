#include "artifact/recorded.hpp"

#include <nlohmann/json.hpp>

namespace libtame {

std::optional<RecordedErrors> recorded_errors(const std::string& text) {
  const auto manifest = nlohmann::json::parse(text, nullptr, false);
  if (!manifest.is_object()) return {};
  const auto parity = manifest.find("parity");
  if (parity == manifest.end() || !parity->is_object()) return {};
  return RecordedErrors{parity->at("logit_error"), parity->at("map_error")};
}

}  // namespace libtame
