// TensorRT's messages. It keeps one logger a process, whichever came first: so there is one here.
#pragma once

#include <NvInferRuntime.h>

#include <string>
#include <vector>

namespace libtame::trt {

/// Hears what TensorRT says while it lives, other threads' doings included.
class Listening {
 public:
  Listening();
  Listening(const Listening&) = delete;
  Listening& operator=(const Listening&) = delete;
  ~Listening();

  /// The first error, without the places in TensorRT's source; or another text.
  std::string first_error(const std::string& otherwise = "no reason was given") const;

 private:
  friend class Logger;
  std::vector<std::string> errors_;
};

nvinfer1::ILogger& logger();

/// A message without what only TensorRT's developers can read.
std::string plain(const std::string& message);

}  // namespace libtame::trt
