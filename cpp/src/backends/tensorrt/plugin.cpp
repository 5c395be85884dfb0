// The plugin's one symbol: a table of C functions that throw nothing.
#include "plugin.hpp"

#include <cstdio>
#include <cstring>
#include <memory>
#include <new>
#include <optional>

#include "error.hpp"
#include "run.hpp"

namespace libtame::trt {
namespace {

void tell(tame_plugin_error* error, const char* message) noexcept {
  std::snprintf(error->message, sizeof error->message, "%s", message);
}

/// Do something; what it throws becomes a status and a message.
template <typename Work>
tame_status guarded(tame_plugin_error* error, const Work& work) noexcept {
  try {
    work();
    return TAME_OK;
  } catch (const Failure& failure) {
    tell(error, failure.what());
    return failure.status();
  } catch (const std::bad_alloc&) {
    tell(error, "out of memory");
    return TAME_MEMORY_ERROR;
  } catch (const std::exception& unforeseen) {
    tell(error, unforeseen.what());
    return TAME_ERROR;
  } catch (...) {
    tell(error, "an exception of no known kind");
    return TAME_ERROR;
  }
}

tame_status probe_device(std::int32_t index, tame_plugin_device* device, tame_plugin_error* error) {
  return guarded(error, [&] {
    const Device found = probe(index);
    *device = {found.index, found.major, found.minor, found.driver, found.memory_bytes, {}};
    std::snprintf(device->name, sizeof device->name, "%s", found.name.c_str());
  });
}

tame_status version(char* text, std::size_t size, tame_plugin_error* error) {
  return guarded(error, [&] { std::snprintf(text, size, "%s", library_version().c_str()); });
}

tame_status open(const tame_plugin_engine* engine, void** backend, tame_plugin_error* error) {
  *backend = nullptr;
  return guarded(error, [&] {
    const Device device = probe(engine->device);
    const CurrentDevice current(device.index);
    *backend = std::make_unique<Runner>(*engine, device).release();
  });
}

tame_status run(void* backend, const tame_plugin_call* call, tame_plugin_error* error) {
  return guarded(error, [&] { static_cast<Runner*>(backend)->run(*call); });
}

tame_status run_on_device(void* backend, const tame_device_call* call, tame_plugin_error* error) {
  return guarded(error, [&] { static_cast<Runner*>(backend)->run_on_device(*call); });
}

void close(void* backend) {
  std::unique_ptr<Runner> runner(static_cast<Runner*>(backend));
  tame_plugin_error unheard;
  // Freed on its own GPU; where that cannot be had any more, wherever.
  std::optional<CurrentDevice> current;
  guarded(&unheard, [&] { current.emplace(runner->device()); });
  runner.reset();
}

constexpr tame_plugin table{
    TAME_PLUGIN_ABI, TAME_TENSORRT_FLAVOUR, &probe_device, &version, &open, &run, &run_on_device,
    &close};

}  // namespace
}  // namespace libtame::trt

extern "C" __attribute__((visibility("default"))) const tame_plugin* tame_tensorrt_plugin();

extern "C" const tame_plugin* tame_tensorrt_plugin() { return &libtame::trt::table; }
