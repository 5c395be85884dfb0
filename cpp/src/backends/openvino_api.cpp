#include "openvino_api.hpp"

namespace libtame::ov {
namespace {

template <typename Function>
void find(const Library& library, const char* name, Function*& out) {
  out = library.function<Function>(name);
}

}  // namespace

Api load_api(const Library& library) {
  Api api{};
  find(library, "ov_get_openvino_version", api.get_version);
  find(library, "ov_version_free", api.version_free);
  find(library, "ov_get_last_err_msg", api.last_error);
  find(library, "ov_get_error_info", api.error_info);
  find(library, "ov_free", api.free_text);
  find(library, "ov_core_create", api.core_create);
  find(library, "ov_core_free", api.core_free);
  find(library, "ov_core_get_property", api.core_get_property);
  find(library, "ov_core_read_model", api.read_model);
  find(library, "ov_model_free", api.model_free);
  find(library, "ov_core_compile_model", api.compile);
  find(library, "ov_compiled_model_free", api.compiled_free);
  find(library, "ov_compiled_model_get_property", api.get_property);
  find(library, "ov_compiled_model_input_by_name", api.input);
  find(library, "ov_compiled_model_output_by_name", api.output);
  find(library, "ov_port_get_element_type", api.element_type);
  find(library, "ov_output_const_port_free", api.port_free);
  find(library, "ov_compiled_model_create_infer_request", api.create_request);
  find(library, "ov_infer_request_free", api.request_free);
  find(library, "ov_infer_request_set_tensor", api.set_tensor);
  find(library, "ov_infer_request_get_tensor", api.get_tensor);
  find(library, "ov_infer_request_infer", api.infer);
  find(library, "ov_tensor_create_from_host_ptr", api.wrap);
  find(library, "ov_tensor_data", api.tensor_data);
  find(library, "ov_tensor_get_byte_size", api.tensor_bytes);
  find(library, "ov_tensor_free", api.tensor_free);
  return api;
}

}  // namespace libtame::ov
