// Pictures flow by: some are prepared while others are explained, in order and in bounded memory.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <exception>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>

#include "explainer.hpp"

namespace libtame {

/// One explanation of a stream, or why there is none.
struct Streamed {
  std::uint64_t index = 0;
  Explanation explanation;
  std::exception_ptr error;
};

enum class Waited { done, timed_out, ended };

/// A queue in front of an explainer. Every function may be called from any thread.
///
/// A picture counts against `capacity` from its push until its explanation is taken, so whoever
/// does not take makes the others wait; nothing grows.
class Stream {
 public:
  Stream(std::shared_ptr<const Explainer> explainer, Asked asked, std::size_t capacity);
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream();

  /// Prepare a picture in this thread and queue it; a negative timeout waits for ever.
  /// Throws Failure: TAME_INPUT_ERROR for a picture that cannot be read, or after `finish`.
  Waited push(const tame_image& image, std::int64_t timeout_ms, std::uint64_t* index);

  /// No more pictures will come.
  void finish();

  /// Take the next explanation.
  Waited pop(std::int64_t timeout_ms, Streamed& out);

  /// End at once; those who wait are woken, and the batch that runs is waited for.
  void close();

  const Explainer* explainer() const { return explainer_.get(); }

 private:
  struct Prepared {
    std::uint64_t index;
    std::vector<std::uint8_t> tensor;
  };

  template <typename Ready>
  bool wait(std::unique_lock<std::mutex>& guard, std::condition_variable& changed,
            std::int64_t timeout_ms, Ready ready);
  void work();
  std::deque<Streamed> explained(const std::deque<Prepared>& batch) const;

  const std::shared_ptr<const Explainer> explainer_;
  const Asked asked_;
  const std::size_t capacity_;

  std::mutex lock_;
  std::condition_variable room_;    // a place came free, or the stream was closed
  std::condition_variable queued_;  // something to explain, or nothing more will come
  std::condition_variable ready_;   // something to take, or nothing more will come
  std::deque<Prepared> waiting_;
  std::deque<Streamed> done_;
  std::size_t on_their_way_ = 0;  // pushed, or about to be, and not taken
  std::size_t preparing_ = 0;
  std::uint64_t next_ = 0;
  bool finished_ = false;
  bool closed_ = false;
  std::thread worker_;
  std::once_flag joined_;
};

}  // namespace libtame
