// Version of the double of TensorRT (see NvInferRuntime.h).
#pragma once

#ifdef TAME_DOUBLE_RTX
#define TRT_MAJOR_RTX 1
#define NV_TENSORRT_MAJOR TRT_MAJOR_RTX
#define NV_TENSORRT_MINOR 7
#define NV_TENSORRT_PATCH 1
#else
#define TRT_MAJOR_ENTERPRISE 10
#define NV_TENSORRT_MAJOR TRT_MAJOR_ENTERPRISE
#define NV_TENSORRT_MINOR 13
#define NV_TENSORRT_PATCH 2
#endif
