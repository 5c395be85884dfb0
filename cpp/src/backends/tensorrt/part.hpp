// What of a caller's tensors one execution takes: copied in and filled up, and copied out.
#pragma once

#include <cstddef>

#include "plugin.hpp"
#include "sizes.hpp"

namespace libtame::trt {

/// A window of a call.
struct Part {
  const tame_plugin_call* call = nullptr;
  std::int64_t first_picture = 0;
  std::int64_t first_place = 0;
  Sizes sizes;  // of the window
};

/// Copy an input of a part; its last entries are repeated up to `filled`.
void gather(const Part& part, const Tensor& tensor, const Sizes& filled, void* target);

/// Copy what was asked for of an output of `filled` sizes to where the caller wants it.
void scatter(const Part& part, const Tensor& tensor, const Sizes& filled, const void* source);

}  // namespace libtame::trt
