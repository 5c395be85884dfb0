#include "lanes.hpp"

#include <algorithm>

#include "error.hpp"

namespace libtame::trt {

Lanes::Lanes(Engine& engine, const Sizes& largest, bool capture, std::size_t most)
    : engine_(engine), largest_(largest), capture_(capture), most_(most) {
  idle_.reserve(most);  // so that giving one back needs no memory
  idle_.push_back(std::make_unique<Lane>(engine, largest, capture));
}

/// An idle lane that has run all it was given, a new one, or the first to come free.
std::unique_ptr<Lane> Lanes::take(const cudaStream_t* stream) {
  while (true) {
    {
      std::unique_lock<std::mutex> hold(lock_);
      free_.wait(hold, [this] { return !idle_.empty() || made_ < most_; });
      const auto ready = std::find_if(idle_.rbegin(), idle_.rend(),
                                      [&](const auto& lane) { return lane->is_free_for(stream); });
      if (ready != idle_.rend()) std::iter_swap(ready, idle_.rbegin());
      if (ready != idle_.rend() || (!idle_.empty() && made_ == most_)) {
        std::unique_ptr<Lane> lane = std::move(idle_.back());
        idle_.pop_back();
        return lane;
      }
      ++made_;
    }
    if (std::unique_ptr<Lane> lane = make()) return lane;
  }
}

/// Null where there is no room for another: threads share those there are.
std::unique_ptr<Lane> Lanes::make() {
  try {
    return std::make_unique<Lane>(engine_, largest_, capture_);
  } catch (const std::exception&) {
    const std::lock_guard<std::mutex> hold(lock_);
    --made_;
    most_ = made_;
    free_.notify_all();
  }
  return nullptr;
}

void Lanes::give_back(std::unique_ptr<Lane> lane) noexcept {
  const std::lock_guard<std::mutex> hold(lock_);
  idle_.push_back(std::move(lane));
  free_.notify_one();
}

}  // namespace libtame::trt
