// The one exception of the library: a status and a message of one line.
#pragma once

#include <tame/tame.h>

#include <locale>
#include <sstream>
#include <stdexcept>
#include <string>

namespace libtame {

class Failure : public std::runtime_error {
 public:
  Failure(tame_status status, const std::string& message)
      : std::runtime_error(message), status_(status) {}

  tame_status status() const noexcept { return status_; }

 private:
  tame_status status_;
};

/// The parts of a message, one after the other.
template <typename... Parts>
std::string words(const Parts&... parts) {
  std::ostringstream stream;
  stream.imbue(std::locale::classic());  // the program's own would put marks between digits
  (stream << ... << parts);
  return stream.str();
}

template <typename... Parts>
[[noreturn]] void fail(tame_status status, const Parts&... parts) {
  throw Failure(status, words(parts...));
}

}  // namespace libtame
