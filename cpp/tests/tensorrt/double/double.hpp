// A simulated GPU of host memory, and TensorRT on it, for the code between libtame and the real
// ones: what the tests turn and read.
//
// Work waits in its stream until somebody synchronises, as on a device: what reads too early finds
// old bytes. What a real device would punish at some other time is noted as a complaint.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <string>
#include <vector>

#define TAME_DOUBLE_API __attribute__((visibility("default")))

namespace tame_double {

struct Settings {
  int devices = 1;
  int driver = 13050;  // 0: none
  int major = 8;
  int minor = 6;
  std::size_t memory = std::size_t{1} << 30;
#ifdef TAME_DOUBLE_RTX
  int library = 10701;  // of TensorRT-RTX, as getInferLibVersion has it
#else
  int library = 101302;
#endif
  int most_contexts = 1000;
  bool capturable = true;      // whether an engine can be captured
  int failing_executions = 0;  // how many of the next ones fail
};

/// Forget everything, and begin anew.
TAME_DOUBLE_API void reset(const Settings& settings = {});

TAME_DOUBLE_API void change(const Settings& settings);

/// Let the next call of a function fail, after some that do not.
TAME_DOUBLE_API void fail_next(const std::string& function, cudaError_t error, int after = 0);

/// How often a function was called.
TAME_DOUBLE_API int calls(const std::string& function);

/// What a real device would have punished.
TAME_DOUBLE_API std::vector<std::string> complaints();

/// What was not freed.
TAME_DOUBLE_API std::vector<std::string> leftovers();

/// Bytes of the GPU that are allocated.
TAME_DOUBLE_API std::size_t used_memory();

// ------------------------------------------------------------------ the network

struct Network {
  int classes = 10;
  int map_height = 2;
  int map_width = 3;
};

/// Logits of a picture.
TAME_DOUBLE_API std::vector<float> logits_of(const Network& network, const void* picture,
                                             std::size_t bytes);

/// The class in a place: an id, or for -1 the likeliest but `place`.
TAME_DOUBLE_API std::int64_t explained_of(const std::vector<float>& logits, std::int64_t id,
                                          std::int64_t place);

/// The map of a class.
TAME_DOUBLE_API std::vector<float> map_of(const Network& network, const void* picture,
                                          std::size_t bytes, std::int64_t id);

}  // namespace tame_double
