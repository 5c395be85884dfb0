// A plugin that was built for another libtame.
#include "backends/tensorrt/plugin.hpp"

namespace {

constexpr tame_plugin table{
    "libtame 0.0.9 tensorrt 1", "tensorrt", nullptr, nullptr, nullptr, nullptr, nullptr, nullptr};

}  // namespace

extern "C" __attribute__((visibility("default"))) const tame_plugin* tame_tensorrt_plugin();

extern "C" const tame_plugin* tame_tensorrt_plugin() { return &table; }
