// What libtame and its TensorRT plugin know of each other: C structs and one table of C functions.
//
// Nothing of C++ crosses: no exception, no string, no allocation. So a plugin may be built by
// another compiler, against another standard library, than libtame; only `abi` has to agree.
#pragma once

#include <tame/tame.h>

#include <cstddef>
#include <cstdint>

#define TAME_PLUGIN_TEXT_(value) #value
#define TAME_PLUGIN_TEXT(value) TAME_PLUGIN_TEXT_(value)

/// Version of libtame, and a number that changes with the structs below.
#define TAME_PLUGIN_ABI                                                 \
  "libtame " TAME_PLUGIN_TEXT(TAME_VERSION_MAJOR) "." TAME_PLUGIN_TEXT( \
      TAME_VERSION_MINOR) "." TAME_PLUGIN_TEXT(TAME_VERSION_PATCH) " tensorrt 2"

/// The one symbol of a plugin.
#define TAME_PLUGIN_SYMBOL "tame_tensorrt_plugin"

extern "C" {

/// Free sizes in a tensor's shape.
enum { TAME_PLUGIN_BATCH = -1, TAME_PLUGIN_EXPLAINED = -2 };

typedef struct tame_plugin_error {
  char message[8192];  // one line; a command with long paths fits
} tame_plugin_error;

typedef struct tame_plugin_device {
  std::int32_t index;
  std::int32_t major, minor;  // compute capability
  std::int32_t driver;        // the CUDA version of the driver, such as 13050
  std::uint64_t memory_bytes;
  char name[256];
} tame_plugin_device;

typedef struct tame_plugin_tensor {
  const char* name;
  const char* dtype;  // numpy's name
  std::size_t rank;
  const std::int64_t* shape;
} tame_plugin_tensor;

/// Min, opt and max of each size; zeros where the graph takes no class ids.
typedef struct tame_plugin_profile {
  std::int64_t batch[3];
  std::int64_t explained[3];
} tame_plugin_profile;

/// An engine whose plan was checked. Nothing of it is kept after `open`.
typedef struct tame_plugin_engine {
  const void* plan;
  std::size_t plan_bytes;
  std::int32_t host_code;  // 1: it brings its own runtime, as machine code
  const char* folder;      // for messages
  const char* rebuild;     // the command that makes it again
  const tame_plugin_tensor* inputs;
  std::size_t input_count;
  const tame_plugin_tensor* outputs;
  std::size_t output_count;
  const tame_plugin_profile* profiles;
  std::size_t profile_count;
  std::int32_t device, streams, cuda_graphs;
} tame_plugin_engine;

/// libtame::Call.
typedef struct tame_plugin_call {
  std::int64_t count, explained;
  const void* images;
  const std::int64_t* class_ids;
  float* logits;
  std::int64_t* explained_ids;
  float* maps;
} tame_plugin_call;

/// Functions of a plugin; those with a status leave a message where it is not TAME_OK.
typedef struct tame_plugin {
  const char* abi;      // TAME_PLUGIN_ABI of what it was built with; always the first
  const char* flavour;  // "tensorrt" or "tensorrt-rtx"
  /// The GPU, asked before TensorRT is touched: parts of it crash without a driver.
  tame_status (*probe)(std::int32_t index, tame_plugin_device* device, tame_plugin_error* error);
  /// Version of the library that was loaded; an error where the plugin was built for another.
  tame_status (*version)(char* text, std::size_t size, tame_plugin_error* error);
  tame_status (*open)(const tame_plugin_engine* engine, void** backend, tame_plugin_error* error);
  tame_status (*run)(void* backend, const tame_plugin_call* call, tame_plugin_error* error);
  tame_status (*run_on_device)(void* backend, const tame_device_call* call,
                               tame_plugin_error* error);
  void (*close)(void* backend);
} tame_plugin;

}  // extern "C"
