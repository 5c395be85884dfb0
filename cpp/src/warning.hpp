// What a call noticed and goes on with: a line for the thread that made it.
#pragma once

#include <cstddef>
#include <string>

namespace libtame {

/// The line of this thread; "" for none. Plain bytes, as destructors of static objects call libtame
/// after those of this thread's objects ran.
inline thread_local char last_warning[256] = "";

/// Keep a line, in place of an earlier one.
inline void warn(const std::string& line) {
  last_warning[line.copy(last_warning, sizeof last_warning - 1)] = '\0';
}

}  // namespace libtame
