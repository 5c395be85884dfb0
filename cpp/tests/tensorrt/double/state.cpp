#include "state.hpp"

namespace tame_double {

State& state() {
  static auto* const found = new State;
  return *found;
}

int& thread_device() {
  static thread_local int device = 0;
  return device;
}

cudaError_t& last_error() {
  static thread_local cudaError_t error = cudaSuccess;
  return error;
}

bool State::holds(const void* address, std::size_t size) const {
  const auto at = reinterpret_cast<std::uintptr_t>(address);
  for (const auto& [start, block] : blocks) {
    const auto from = reinterpret_cast<std::uintptr_t>(start);
    if (from <= at && at + size <= from + block.size) return true;
  }
  return false;
}

void push(Handle stream, const Operation& operation) {
  State& gpu = state();
  const auto captured = gpu.capturing.find(stream);
  if (captured != gpu.capturing.end()) {
    captured->second.operations.push_back(operation);
  } else {
    gpu.streams[stream].waiting.push_back(operation());
  }
}

void drain(Handle stream, std::size_t until) {
  State& gpu = state();
  const auto found = gpu.streams.find(stream);
  if (found == gpu.streams.end()) return;
  Queue& queue = found->second;
  while (!queue.waiting.empty() && queue.done < until) {
    const Work work = std::move(queue.waiting.front());
    queue.waiting.erase(queue.waiting.begin());
    work();
    ++queue.done;
  }
}

void reset(const Settings& settings) {
  State& gpu = state();
  const std::lock_guard<std::recursive_mutex> hold(gpu.lock);
  gpu.blocks.clear();
  gpu.streams.clear();
  gpu.events.clear();
  gpu.graphs.clear();
  gpu.capturing.clear();
  gpu.scratches.clear();
  gpu.contexts.clear();
  gpu.engines.clear();
  gpu.calls.clear();
  gpu.faults.clear();
  gpu.complaints.clear();
  gpu.settings = settings;
  thread_device() = 0;
  last_error() = cudaSuccess;
}

void change(const Settings& settings) {
  const std::lock_guard<std::recursive_mutex> hold(state().lock);
  state().settings = settings;
}

void fail_next(const std::string& function, cudaError_t error, int after) {
  const std::lock_guard<std::recursive_mutex> hold(state().lock);
  state().faults[function] = {after, error};
}

int calls(const std::string& function) {
  const std::lock_guard<std::recursive_mutex> hold(state().lock);
  return state().calls[function];
}

std::vector<std::string> complaints() {
  const std::lock_guard<std::recursive_mutex> hold(state().lock);
  return state().complaints;
}

std::vector<std::string> leftovers() {
  State& gpu = state();
  const std::lock_guard<std::recursive_mutex> hold(gpu.lock);
  std::vector<std::string> found;
  const auto count = [&](const char* what, std::size_t number) {
    if (number > 0) found.push_back(std::to_string(number) + " " + what);
  };
  count("blocks", gpu.blocks.size());
  count("events", gpu.events.size());
  count("graphs", gpu.graphs.size());
  count("captures", gpu.capturing.size());
  count("contexts", gpu.contexts.size());
  count("engines", gpu.engines.size());
  gpu.streams.erase(nullptr);  // the default one
  count("streams", gpu.streams.size());
  return found;
}

std::size_t used_memory() {
  State& gpu = state();
  const std::lock_guard<std::recursive_mutex> hold(gpu.lock);
  std::size_t used = 0;
  for (const auto& [start, block] : gpu.blocks) used += block.host ? 0 : block.size;
  return used;
}

}  // namespace tame_double
