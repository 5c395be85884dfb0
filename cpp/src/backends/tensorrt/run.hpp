// An engine that runs calls of any size, on the host's memory or on the GPU's.
#pragma once

#include "engine.hpp"
#include "lanes.hpp"

namespace libtame::trt {

/// Safe for threads: each takes a lane. Destroyed when none is inside.
class Runner {
 public:
  Runner(const tame_plugin_engine& wanted, const Device& device);

  /// More pictures or classes than the largest profile are split, fewer than the smallest are
  /// filled up. Throws Failure: TAME_INPUT_ERROR, TAME_BACKEND_ERROR, TAME_DEVICE_ERROR.
  void run(const tame_plugin_call& call);

  /// Queue a call that fits one profile on the caller's stream. Throws as `run` does.
  void run_on_device(const tame_device_call& call);

  int device() const { return device_; }

 private:
  Sizes sizes_of(std::int64_t count, std::int64_t explained, const std::int64_t* ids) const;
  void check_places(const tame_plugin_call& call) const;
  Addresses addresses_of(const tame_device_call& call) const;
  void check_address(const char* name, const void* address) const;

  int device_;
  Engine engine_;
  Sizes largest_;
  bool takes_ids_;
  std::int64_t classes_;
  std::int64_t places_;  // how many classes are explained where the graph does not take ids
  Lanes lanes_;
};

}  // namespace libtame::trt
