// The part of OpenVINO's C API that is used here, found by name when the library is loaded.
#pragma once

#include <cstddef>
#include <cstdint>

#include "library.hpp"

namespace libtame::ov {

struct Core;
struct Model;
struct Compiled;
struct Request;
struct Tensor;
struct Port;

struct Shape {
  std::int64_t rank;
  std::int64_t* sizes;
};

struct Version {
  const char* build;
  const char* description;
};

using Status = int;  // 0 is success

/// Numbers of element types differ between versions, so they are asked for and passed on.
using ElementType = int;

struct Api {
  Status (*get_version)(Version*);
  void (*version_free)(Version*);
  const char* (*last_error)();
  const char* (*error_info)(Status);
  void (*free_text)(const char*);
  Status (*core_create)(Core**);
  void (*core_free)(Core*);
  Status (*core_get_property)(const Core*, const char* device, const char* key, char** value);
  Status (*read_model)(const Core*, const char* path, const char* weights, Model**);
  void (*model_free)(Model*);
  Status (*compile)(const Core*, const Model*, const char* device, std::size_t arguments,
                    Compiled**, ...);
  void (*compiled_free)(Compiled*);
  Status (*get_property)(const Compiled*, const char* key, char** value);
  Status (*input)(const Compiled*, const char* name, Port**);
  Status (*output)(const Compiled*, const char* name, Port**);
  Status (*element_type)(const Port*, ElementType*);
  void (*port_free)(Port*);
  Status (*create_request)(const Compiled*, Request**);
  void (*request_free)(Request*);
  Status (*set_tensor)(Request*, const char* name, const Tensor*);
  Status (*get_tensor)(const Request*, const char* name, Tensor**);
  Status (*infer)(Request*);
  Status (*wrap)(ElementType, Shape, void* data, Tensor**);
  Status (*tensor_data)(const Tensor*, void** data);
  Status (*tensor_bytes)(const Tensor*, std::size_t*);
  void (*tensor_free)(Tensor*);
};

/// Throws Failure: TAME_INCOMPATIBLE_ERROR naming the first function that is not there.
Api load_api(const Library& library);

}  // namespace libtame::ov
