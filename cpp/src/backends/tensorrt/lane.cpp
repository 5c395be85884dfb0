#include "lane.hpp"

#include <algorithm>

#include "error.hpp"
#include "logger.hpp"

namespace libtame::trt {
namespace {

/// Each captured graph keeps a context; of more, the one that was used longest ago goes.
constexpr std::size_t most_graphs = 16;
constexpr std::size_t most_seen = 64;

nvinfer1::Dims dims_of(const std::vector<std::int64_t>& shape) {
  nvinfer1::Dims dims{};
  dims.nbDims = static_cast<std::int32_t>(shape.size());
  std::copy(shape.begin(), shape.end(), dims.d);
  return dims;
}

std::vector<const Tensor*> all_tensors(const Engine& engine) {
  std::vector<const Tensor*> all;
  for (const Tensor& tensor : engine.inputs()) all.push_back(&tensor);
  for (const Tensor& tensor : engine.outputs()) all.push_back(&tensor);
  return all;
}

}  // namespace

Lane::Lane(Engine& engine, const Sizes& largest, bool capture)
    : engine_(engine),
      capture_(capture && !engine.own_graphs()),
      stream_(make_stream()),
      done_(make_event()),
      scratch_(device_memory(engine.scratch_bytes())) {
  for (const Tensor* tensor : all_tensors(engine)) {
    const std::size_t size = tensor->bytes(largest);
    device_.push_back(device_memory(size));
    host_.push_back(pinned_memory(size));
    own_.push_back(device_.back().get());
  }
}

Lane::~Lane() {
  try {
    finish();
  } catch (...) {  // a GPU that is lost: what is freed next is the driver's
  }
}

void Lane::run(const Fit& fit, const Part& part) {
  try {
    queue_run(fit, part);
  } catch (...) {
    // What was queued before still reads and writes the pinned memory.
    if (cudaStreamSynchronize(stream_.get()) != cudaSuccess) cudaGetLastError();
    throw;
  }
  check(cudaStreamSynchronize(stream_.get()), "cudaStreamSynchronize");
  std::size_t place = engine_.inputs().size();
  for (const Tensor& tensor : engine_.outputs()) {
    scatter(part, tensor, fit.sizes, host_[place++].get());
  }
}

void Lane::queue_run(const Fit& fit, const Part& part) {
  cudaStream_t const stream = stream_.get();
  check(cudaStreamWaitEvent(stream, done_.get(), 0), "cudaStreamWaitEvent");
  std::size_t place = 0;
  for (const Tensor& tensor : engine_.inputs()) {
    gather(part, tensor, fit.sizes, host_[place].get());
    copy(own_[place], host_[place].get(), tensor.bytes(fit.sizes), stream);
    ++place;
  }
  enqueue({fit.profile, fit.sizes, own_}, stream);
  for (const Tensor& tensor : engine_.outputs()) {
    copy(host_[place].get(), own_[place], tensor.bytes(fit.sizes), stream);
    ++place;
  }
}

void Lane::run_on(cudaStream_t stream, const Fit& fit, const Addresses& addresses) {
  check(cudaStreamWaitEvent(stream, done_.get(), 0), "cudaStreamWaitEvent");
  try {
    enqueue({fit.profile, fit.sizes, addresses}, stream);
  } catch (...) {
    // Part of it may have been queued.
    if (cudaEventRecord(done_.get(), stream) != cudaSuccess) cudaGetLastError();
    throw;
  }
  mark_done(stream);
}

bool Lane::is_free_for(const cudaStream_t* stream) const noexcept {
  if (stream != nullptr && *stream == last_) return true;  // it would wait for itself alone
  const bool done = cudaEventQuery(done_.get()) == cudaSuccess;
  if (!done) cudaGetLastError();  // "not ready" is no fault for others to find
  return done;
}

void Lane::mark_done(cudaStream_t stream) {
  last_ = stream;
  check(cudaEventRecord(done_.get(), stream), "cudaEventRecord");
}

/// As a CUDA graph, where the same was asked for twice before. The first time runs plainly. The
/// second runs in a context of its own and is captured from it: a graph refers to its context,
/// which must not see other sizes afterwards.
void Lane::enqueue(const Key& key, cudaStream_t stream) {
  if (launch_captured(key, stream)) return;
  if (worth_capturing(key)) {
    capture_now(key, stream);
  } else {
    execute(context(key.profile, stream), key, stream);
  }
}

bool Lane::launch_captured(const Key& key, cudaStream_t stream) {
  const auto found = std::find_if(captured_.begin(), captured_.end(),
                                  [&](const Captured& one) { return one.key == key; });
  if (found == captured_.end()) return false;
  captured_.splice(captured_.begin(), captured_, found);
  check(cudaGraphLaunch(captured_.front().graph.get(), stream), "cudaGraphLaunch");
  return true;
}

bool Lane::worth_capturing(const Key& key) {
  if (!capture_) return false;
  if (std::find(seen_.begin(), seen_.end(), key) != seen_.end()) return true;
  seen_.push_back(key);
  if (seen_.size() > most_seen) seen_.pop_front();
  return false;
}

void Lane::capture_now(const Key& key, cudaStream_t stream) {
  Context own = own_context(key.profile, stream);
  if (own == nullptr) {
    execute(context(key.profile, stream), key, stream);
    return;
  }
  kept_contexts_.push_back(std::move(own));
  nvinfer1::IExecutionContext& made = *kept_contexts_.back();
  execute(made, key, stream);
  // Once for each size: a context is not to be used on a second stream while the first is in it.
  check(cudaStreamSynchronize(stream), "cudaStreamSynchronize");
  Graph graph;
  try {
    // On the lane's own stream: the caller's may be the default one, which takes no capture, and
    // other threads may give it work meanwhile.
    graph = capture(stream_.get(), [&] { start(made, stream_.get()); });
  } catch (const Failure&) {
    // What was asked for has run; it goes on as well, if slower.
    capture_ = false;
    return;
  }
  if (captured_.size() == most_graphs) {
    finish();
    captured_.pop_back();
  }
  captured_.push_front({key, std::move(kept_contexts_.back()), std::move(graph)});
  kept_contexts_.pop_back();
}

/// A context for a graph; none where there is no room for more, and no use in trying again.
Context Lane::own_context(std::int32_t profile, cudaStream_t stream) {
  try {
    return engine_.context(profile, scratch_.get(), stream);
  } catch (const Failure&) {
    capture_ = false;
    return nullptr;
  }
}

nvinfer1::IExecutionContext& Lane::context(std::int32_t profile, cudaStream_t stream) {
  auto found = contexts_.find(profile);
  if (found == contexts_.end()) {
    found = contexts_.emplace(profile, engine_.context(profile, scratch_.get(), stream)).first;
  }
  return *found->second;
}

void Lane::execute(nvinfer1::IExecutionContext& context, const Key& key, cudaStream_t stream) {
  set_tensors(context, key);
  start(context, stream);
}

void Lane::set_tensors(nvinfer1::IExecutionContext& context, const Key& key) {
  const Listening said;
  for (const Tensor& tensor : engine_.inputs()) {
    const auto shape = tensor.shape_of(key.sizes);
    if (!context.setInputShape(tensor.name.c_str(), dims_of(shape))) {
      fail(TAME_BACKEND_ERROR, tensor.name, " ", described(shape),
           " was refused: ", said.first_error());
    }
  }
  const char* missing = "its inputs";
  if (context.inferShapes(1, &missing) != 0) {
    fail(TAME_BACKEND_ERROR, "the engine needs more to know the shape of ", missing);
  }
  std::size_t place = 0;
  for (const Tensor* tensor : all_tensors(engine_)) {
    const char* name = tensor->name.c_str();
    const auto expected = tensor->shape_of(key.sizes);
    if (const auto found = shape_of(context.getTensorShape(name)); found != expected) {
      fail(TAME_BACKEND_ERROR, "the engine gives ", name, " ", described(found), "; expected ",
           described(expected));
    }
    if (!context.setTensorAddress(name, key.addresses[place++])) {
      fail(TAME_BACKEND_ERROR, "the memory of ", name, " was refused: ", said.first_error());
    }
  }
}

void Lane::start(nvinfer1::IExecutionContext& context, cudaStream_t stream) {
  const Listening said;
  if (!context.enqueueV3(stream)) {
    fail(TAME_BACKEND_ERROR, TAME_TENSORRT_FLAVOUR, " failed: ", said.first_error());
  }
}

/// Wait for all that this lane was given, on whichever stream.
void Lane::finish() {
  check(cudaStreamSynchronize(stream_.get()), "cudaStreamSynchronize");
  check(cudaEventSynchronize(done_.get()), "cudaEventSynchronize");
}

}  // namespace libtame::trt
