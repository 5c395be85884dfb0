#include "stream.hpp"

#include <algorithm>
#include <iterator>

#include "error.hpp"

namespace libtame {

Stream::Stream(std::shared_ptr<const Explainer> explainer, Asked asked, std::size_t capacity)
    : explainer_(std::move(explainer)), asked_(std::move(asked)), capacity_(capacity) {
  if (asked_.rows != 1) {
    fail(TAME_INPUT_ERROR, "class_ids has ", asked_.rows,
         " rows; a stream explains the same classes of every picture, in one row");
  }
  check_map_size(asked_);
  choose_classes(explainer_->manifest(), asked_, 1);  // refused now, not with the first picture
  worker_ = std::thread([this] { work(); });
}

Stream::~Stream() { close(); }

/// Wait until `ready`; false when the time is over.
template <typename Ready>
bool Stream::wait(std::unique_lock<std::mutex>& guard, std::condition_variable& changed,
                  std::int64_t timeout_ms, Ready ready) {
  if (timeout_ms < 0) {
    changed.wait(guard, ready);
    return true;
  }
  // A year is for ever, and far from where the clock's numbers end.
  const auto most = std::chrono::hours(24 * 365);
  const auto asked = std::chrono::milliseconds(
      std::min<std::int64_t>(timeout_ms, std::chrono::milliseconds(most).count()));
  return changed.wait_for(guard, asked, ready);
}

/// Take a place in the stream; false, with the reason, if there is none to be had.
bool Stream::enter(std::int64_t timeout_ms, Waited& refused) {
  std::unique_lock guard(lock_);
  const auto settled = [this] { return closed_ || finished_ || on_their_way_ < capacity_; };
  const bool in_time = wait(guard, room_, timeout_ms, settled);
  refused = in_time ? Waited::ended : Waited::timed_out;
  if (!in_time || closed_) return false;
  if (finished_) fail(TAME_INPUT_ERROR, "this stream is finished and takes no more pictures");
  ++on_their_way_;
  ++preparing_;
  return true;
}

/// Give the place back that a picture could not use.
void Stream::leave() noexcept {
  const std::lock_guard guard(lock_);
  --on_their_way_;
  --preparing_;
  room_.notify_one();
  queued_.notify_one();
  ready_.notify_all();  // it may have been the last that was awaited
}

Waited Stream::push(const tame_image& image, std::int64_t timeout_ms, std::uint64_t* index) {
  Waited refused{};
  if (!enter(timeout_ms, refused)) return refused;
  Line made;
  try {
    made.emplace_back();
    made.back().tensor.resize(explainer_->manifest().image.input_bytes());
    explainer_->prepare(image, made.back().tensor.data());
  } catch (...) {
    leave();
    throw;
  }
  const std::lock_guard guard(lock_);
  --preparing_;
  made.back().streamed.index = next_++;
  if (index) *index = made.back().streamed.index;
  waiting_.splice(waiting_.end(), made);
  queued_.notify_one();
  return closed_ ? Waited::ended : Waited::done;
}

void Stream::finish() {
  const std::lock_guard guard(lock_);
  finished_ = true;
  room_.notify_all();
  queued_.notify_all();
  ready_.notify_all();
}

Waited Stream::pop(std::int64_t timeout_ms, Streamed& out) {
  std::unique_lock guard(lock_);
  const auto ended = [this] { return finished_ && on_their_way_ == 0; };
  const auto some = [&] { return closed_ || !done_.empty() || ended(); };
  if (!wait(guard, ready_, timeout_ms, some)) return Waited::timed_out;
  if (closed_ || done_.empty()) return Waited::ended;
  out = std::move(done_.front().streamed);
  done_.pop_front();
  --on_their_way_;
  room_.notify_one();
  if (ended()) ready_.notify_all();
  return Waited::done;
}

void Stream::close() {
  {
    const std::lock_guard guard(lock_);
    closed_ = true;
    room_.notify_all();
    queued_.notify_all();
    ready_.notify_all();
  }
  std::call_once(joined_, [this] { worker_.join(); });
}

void Stream::work() {
  std::unique_lock guard(lock_);
  const auto step = static_cast<std::size_t>(asked_.batch_size);
  while (true) {
    queued_.wait(guard,
                 [this] { return closed_ || !waiting_.empty() || (finished_ && preparing_ == 0); });
    if (closed_ || waiting_.empty()) break;
    Line batch;
    auto last = waiting_.begin();
    std::advance(last, static_cast<std::ptrdiff_t>(std::min(step, waiting_.size())));
    batch.splice(batch.end(), waiting_, waiting_.begin(), last);
    guard.unlock();
    explain(batch);
    guard.lock();
    done_.splice(done_.end(), batch);
    ready_.notify_all();
  }
  ready_.notify_all();
}

/// Explain a batch; what fails is told to each who takes one of it.
void Stream::explain(Line& batch) const noexcept {
  try {
    std::vector<std::uint8_t> tensor;
    for (const OnItsWay& one : batch) {
      tensor.insert(tensor.end(), one.tensor.begin(), one.tensor.end());
    }
    const Explanation whole = explainer_->explain_prepared(tensor.data(), batch.size(), asked_);
    std::size_t place = 0;
    for (OnItsWay& one : batch) one.streamed.explanation = whole.one(place++);
  } catch (...) {
    for (OnItsWay& one : batch) one.streamed.error = std::current_exception();
  }
}

}  // namespace libtame
