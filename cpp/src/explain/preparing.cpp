#include "preparing.hpp"

#include <algorithm>
#include <cstring>
#include <system_error>
#include <utility>

#include "../backends/cores.hpp"

namespace libtame {
namespace {

/// Each thread may hold a decoded picture, so more cores than this do not help one call.
constexpr std::size_t most_threads = 16;

std::size_t thread_count(int asked) {
  const auto count = static_cast<std::size_t>(asked > 0 ? asked : usable_processors());
  return std::clamp<std::size_t>(count, 1, most_threads);
}

}  // namespace

Preparers::Preparers(int threads) : threads_(thread_count(threads)) {
  helpers_.reserve(threads_ - 1);
}

Preparers::~Preparers() {
  {
    const std::lock_guard guard(lock_);
    closed_ = true;
    opened_.notify_all();
  }
  for (std::thread& helper : helpers_) helper.join();
}

/// Have as many helpers as are wanted, or as the system gives: a call gets by without.
void Preparers::start(std::size_t wanted) {
  while (helpers_.size() < std::min(wanted, threads_ - 1)) {
    try {
      helpers_.emplace_back([this] { work(); });
    } catch (const std::system_error&) {
      return;
    }
  }
}

/// A call with a picture to be prepared; null for none.
Preparing* Preparers::open_call() const {
  const auto found = std::find_if(calls_.begin(), calls_.end(),
                                  [](const Preparing* call) { return call->is_open(); });
  return found == calls_.end() ? nullptr : *found;
}

void Preparers::work() {
  std::unique_lock guard(lock_);
  while (true) {
    Preparing* call = nullptr;
    opened_.wait(guard, [&] { return closed_ || (call = open_call()) != nullptr; });
    if (closed_) return;
    call->prepare_next(guard);
  }
}

Preparing::Preparing(Preparers& preparers, std::size_t count, std::size_t batch_size, Work work)
    : preparers_(preparers),
      count_(count),
      batch_size_(batch_size),
      work_(std::move(work)),
      warnings_(std::min(count, 2 * batch_size)) {
  in_work_.reserve(preparers.threads_);
  const std::lock_guard guard(preparers.lock_);
  preparers.start(count - 1);
  listed_ = preparers.calls_.insert(preparers.calls_.end(), this);
}

Preparing::~Preparing() {
  std::unique_lock guard(preparers_.lock_);
  limit_ = 0;
  settled_.wait(guard, [this] { return in_work_.empty(); });
  preparers_.calls_.erase(listed_);
}

/// Whether nothing more will become of the pictures before `end`: pictures are handed out in
/// order, and none after a bad one, so all before it were.
bool Preparing::is_settled(std::size_t end) const {
  return (next_ >= end || failed_ < end) &&
         std::all_of(in_work_.begin(), in_work_.end(),
                     [end](std::size_t index) { return index >= end; });
}

void Preparing::wait_for_batch(std::size_t first) {
  const std::size_t end = std::min(first + batch_size_, count_);
  std::unique_lock guard(preparers_.lock_);
  limit_ = std::min(end + batch_size_, count_);
  preparers_.opened_.notify_all();
  while (!is_settled(end)) {
    if (is_open()) {
      prepare_next(guard);
    } else {
      settled_.wait(guard);
    }
  }
  // The last warning of the call counts, as if the pictures had come one after the other.
  warn(warned_);
  for (std::size_t index = first; index < end && index <= failed_; ++index) {
    if (const char* line = warnings_[place(index)].data(); *line) warn(warned_ = line);
  }
  if (failed_ < end) std::rethrow_exception(error_);
}

void Preparing::prepare_next(std::unique_lock<std::mutex>& guard) noexcept {
  const std::size_t index = next_++;
  in_work_.push_back(index);
  guard.unlock();
  std::exception_ptr error;
  last_warning[0] = '\0';
  try {
    work_(index);
  } catch (...) {
    error = std::current_exception();
  }
  guard.lock();
  std::memcpy(warnings_[place(index)].data(), last_warning, sizeof last_warning);
  in_work_.erase(std::find(in_work_.begin(), in_work_.end(), index));
  if (error && index < failed_) {
    failed_ = index;
    error_ = std::move(error);
  }
  settled_.notify_all();
}

}  // namespace libtame
