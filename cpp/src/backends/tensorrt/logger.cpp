#include "logger.hpp"

#include <algorithm>
#include <mutex>
#include <sstream>

namespace libtame::trt {
namespace {

constexpr std::size_t most_errors = 16;
constexpr std::size_t most_characters = 300;

/// Who listens. Never destroyed: TensorRT may speak while the process ends.
struct Listeners {
  std::mutex lock;
  std::vector<Listening*> all;
};

Listeners& listeners() {
  static auto* const found = new Listeners;
  return *found;
}

/// One line, one blank between words.
std::string one_line(const std::string& message) {
  std::istringstream stream(message);
  std::string text;
  for (std::string word; stream >> word;) text += (text.empty() ? "" : " ") + word;
  return text;
}

}  // namespace

/// Passes on errors; the library calls it from any of its threads.
class Logger final : public nvinfer1::ILogger {
 public:
  void log(Severity severity, nvinfer1::AsciiChar const* message) noexcept override {
    if (severity > Severity::kERROR || message == nullptr) return;
    try {
      const std::lock_guard<std::mutex> hold(listeners().lock);
      for (Listening* one : listeners().all) {
        if (one->errors_.size() < most_errors) one->errors_.emplace_back(message);
      }
    } catch (...) {  // out of memory: the error itself is told by a status
    }
  }
};

Listening::Listening() {
  const std::lock_guard<std::mutex> hold(listeners().lock);
  listeners().all.push_back(this);
}

Listening::~Listening() {
  const std::lock_guard<std::mutex> hold(listeners().lock);
  auto& all = listeners().all;
  all.erase(std::remove(all.begin(), all.end(), this), all.end());
}

std::string Listening::first_error(const std::string& otherwise) const {
  const std::lock_guard<std::mutex> hold(listeners().lock);
  return errors_.empty() ? otherwise : plain(errors_.front()).substr(0, most_characters);
}

nvinfer1::ILogger& logger() {
  static auto* const found = new Logger;
  return *found;
}

std::string plain(const std::string& message) {
  std::string text = one_line(message);
  if (const auto end = text.find(']'); !text.empty() && text[0] == '[' && end != text.npos) {
    text = one_line(text.substr(end + 1));
  }
  static const std::string code = "Error Code ";
  if (const auto at = text.find(code); at != text.npos) {
    text = text.substr(at + code.size());
    const auto colon = text.find(": ");
    text = colon == text.npos ? "" : text.substr(colon + 2);
  }
  text = text.substr(0, text.find(" In "));
  text.erase(text.find_last_not_of(" .") + 1);
  return text.empty() ? one_line(message) : text;
}

}  // namespace libtame::trt
