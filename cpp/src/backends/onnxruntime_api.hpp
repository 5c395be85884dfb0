// The part of ONNX Runtime's C API that is used here.
//
// That API is one table of functions, to whose end new ones are added and in which nothing ever
// moves. So positions and signatures are all that a program must know: no header has to be found
// when libtame is built, and every library from 1.11 on can be loaded. `onnxruntime_header_test`
// holds the positions to the official header where that is installed.
#pragma once

#include <cstddef>
#include <cstdint>

namespace libtame::ort {

struct Env;
struct Status;
struct Session;
struct SessionOptions;
struct RunOptions;
struct MemoryInfo;
struct Value;

/// What `OrtGetApiBase` returns.
struct ApiBase {
  const void* (*get_api)(std::uint32_t version);
  const char* (*get_version)();
};

/// The version of the table that has all of the functions below: that of ONNX Runtime 1.11.
inline constexpr std::uint32_t api_version = 11;

enum ElementType { float32 = 1, uint8 = 2, uint16 = 4, int64 = 7 };
inline constexpr int error_severity = 3;  // ORT_LOGGING_LEVEL_ERROR
inline constexpr int extended = 2;        // ORT_ENABLE_EXTENDED
inline constexpr int device_allocator = 0;
inline constexpr int default_memory = 0;

/// A place in the table, and what stands there.
template <std::size_t Position, typename Signature>
struct Entry {
  static constexpr std::size_t position = Position;
  using Function = Signature*;
};

using GetErrorMessage = Entry<2, const char*(const Status*)>;
using CreateEnv = Entry<3, Status*(int severity, const char* name, Env** out)>;
using DisableTelemetryEvents = Entry<6, Status*(const Env*)>;
using CreateSession =
    Entry<7, Status*(const Env*, const char* path, const SessionOptions*, Session** out)>;
using Run =
    Entry<9, Status*(Session*, const RunOptions*, const char* const* input_names,
                     const Value* const* inputs, std::size_t input_count,
                     const char* const* output_names, std::size_t output_count, Value** outputs)>;
using CreateSessionOptions = Entry<10, Status*(SessionOptions** out)>;
using SetSessionLogSeverityLevel = Entry<22, Status*(SessionOptions*, int severity)>;
using SetSessionGraphOptimizationLevel = Entry<23, Status*(SessionOptions*, int level)>;
using SetIntraOpNumThreads = Entry<24, Status*(SessionOptions*, int threads)>;
using CreateTensorWithDataAsOrtValue =
    Entry<49, Status*(const MemoryInfo*, void* data, std::size_t bytes, const std::int64_t* shape,
                      std::size_t rank, int element_type, Value** out)>;
using CreateCpuMemoryInfo = Entry<69, Status*(int allocator, int memory, MemoryInfo** out)>;
using ReleaseStatus = Entry<93, void(Status*)>;
using ReleaseMemoryInfo = Entry<94, void(MemoryInfo*)>;
using ReleaseSession = Entry<95, void(Session*)>;
using ReleaseValue = Entry<96, void(Value*)>;
using ReleaseSessionOptions = Entry<100, void(SessionOptions*)>;

/// The table, as `ApiBase::get_api` gives it.
class Api {
 public:
  explicit Api(const void* table) : table_(static_cast<void* const*>(table)) {}

  template <typename Entry, typename... Arguments>
  auto call(Arguments... arguments) const {
    return reinterpret_cast<typename Entry::Function>(table_[Entry::position])(arguments...);
  }

 private:
  void* const* table_;
};

}  // namespace libtame::ort
