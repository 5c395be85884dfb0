// The places of ONNX Runtime's functions are those of its own header.
#include <gtest/gtest.h>
#include <onnxruntime_c_api.h>

#include <cstddef>

#include "backends/onnxruntime_api.hpp"

namespace libtame {
namespace {

#define EXPECT_PLACE(Name) \
  EXPECT_EQ(ort::Name::position * sizeof(void*), offsetof(OrtApi, Name)) << #Name

TEST(OnnxRuntimeHeader, has_every_function_where_it_is_called) {
  EXPECT_PLACE(GetErrorMessage);
  EXPECT_PLACE(CreateEnv);
  EXPECT_PLACE(DisableTelemetryEvents);
  EXPECT_PLACE(CreateSession);
  EXPECT_PLACE(Run);
  EXPECT_PLACE(CreateSessionOptions);
  EXPECT_PLACE(SetSessionLogSeverityLevel);
  EXPECT_PLACE(SetSessionGraphOptimizationLevel);
  EXPECT_PLACE(SetIntraOpNumThreads);
  EXPECT_PLACE(CreateTensorWithDataAsOrtValue);
  EXPECT_PLACE(CreateCpuMemoryInfo);
  EXPECT_PLACE(ReleaseStatus);
  EXPECT_PLACE(ReleaseMemoryInfo);
  EXPECT_PLACE(ReleaseSession);
  EXPECT_PLACE(ReleaseValue);
  EXPECT_PLACE(ReleaseSessionOptions);
}

TEST(OnnxRuntimeHeader, has_the_numbers_that_are_passed) {
  EXPECT_EQ(static_cast<int>(ort::float32), static_cast<int>(ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT));
  EXPECT_EQ(static_cast<int>(ort::uint8), static_cast<int>(ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8));
  EXPECT_EQ(static_cast<int>(ort::int64), static_cast<int>(ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64));
  EXPECT_EQ(ort::error_severity, static_cast<int>(ORT_LOGGING_LEVEL_ERROR));
  EXPECT_EQ(ort::device_allocator, static_cast<int>(OrtDeviceAllocator));
  EXPECT_EQ(ort::default_memory, static_cast<int>(OrtMemTypeDefault));
}

}  // namespace
}  // namespace libtame
