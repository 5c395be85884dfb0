// Which backend runs an artifact.
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "backend.hpp"
#include "error.hpp"
#include "verify/trust.hpp"

namespace libtame {
namespace {

/// TensorRT for data centres, and TensorRT-RTX: one adapter, built for one of them.
bool is_tensorrt(const Options& options) {
  return options.backend == "tensorrt" || options.backend == "tensorrt-rtx";
}

/// Refuse what a backend would ignore.
void check_options(const Options& options) {
  const Options defaults;
  const bool tensorrt = is_tensorrt(options);
  const bool openvino = options.backend == "openvino";
  const auto check = [&](const char* option, bool given, bool has_meaning) {
    if (given && !has_meaning) {
      fail(TAME_INPUT_ERROR, option, " has no meaning for backend ", options.backend);
    }
  };
  check("threads", options.threads != defaults.threads, !tensorrt);
  check("streams", options.streams != defaults.streams, tensorrt || openvino);
  check("precision", !options.precision.empty(), openvino);
  check("engine", !options.engine.empty(), tensorrt);
  check("device", options.device != defaults.device, tensorrt);
  check("no_cuda_graphs", !options.cuda_graphs, tensorrt);
}

/// Whether sums of integer kernels saturate here: x86-64 without VNNI.
bool saturates() {
#if defined(__x86_64__)
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  constexpr unsigned avx_vnni = 1U << 4U;
  const bool narrow = __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 &&
                      (eax & avx_vnni) != 0 && __builtin_cpu_supports("avx2") != 0;
  return !narrow && __builtin_cpu_supports("avx512vnni") == 0;
#else
  return false;
#endif
}

void check_vnni(const Artifact& artifact) {
  if (artifact.manifest.target != "cpu-vnni" || !saturates()) return;
  fail(TAME_INCOMPATIBLE_ERROR, artifact.path.string(), " is ", artifact.manifest.precision,
       " for processors with VNNI, and this one has none: its integer kernels would saturate. "
       "Quantize the float32 artifact with --target cpu, for every processor");
}

}  // namespace

void Backend::run_on_device(const tame_device_call&) {
  fail(TAME_INPUT_ERROR, "backend ", name(), " takes no arrays on a GPU; expected tensorrt");
}

std::unique_ptr<Backend> open_backend(const Artifact& artifact, const Options& options) {
  const bool openvino = options.backend == "openvino";
  if (options.backend != "onnxruntime" && !openvino && !is_tensorrt(options)) {
    fail(TAME_NOT_INSTALLED_ERROR, "unknown backend '", options.backend,
         "'; expected onnxruntime, openvino, tensorrt, tensorrt-rtx");
  }
  check_options(options);
  // An engine's sidecar names the graph that it was built of.
  if (is_tensorrt(options)) return open_tensorrt(artifact, options);
  check_vnni(artifact);
  std::unique_ptr<Backend> opened =
      openvino ? open_openvino(artifact, options) : open_onnxruntime(artifact, options);
  if (!artifact.graph_is_checked) fail_foreign_graph(artifact);
  hold_to_reference(*opened, artifact,
                    [&] { return computed_by_processor(*opened, artifact, options); });
  return opened;
}

}  // namespace libtame
