// Pictures flow by: some are prepared while others are explained, in order and in bounded memory.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <list>
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
  /// A picture on its way, in one node of a list from its push until it is taken: moving it from
  /// list to list wants no memory, so nothing can fail between two threads.
  struct OnItsWay {
    Streamed streamed;
    std::vector<std::uint8_t> tensor;
  };
  using Line = std::list<OnItsWay>;

  bool enter(std::int64_t timeout_ms, Waited& refused);
  void leave() noexcept;

  template <typename Ready>
  bool wait(std::unique_lock<std::mutex>& guard, std::condition_variable& changed,
            std::int64_t timeout_ms, Ready ready);
  void work();
  void explain(Line& batch) const noexcept;

  const std::shared_ptr<const Explainer> explainer_;
  const Asked asked_;
  const std::size_t capacity_;

  std::mutex lock_;
  std::condition_variable room_;    // a place came free, or the stream was closed
  std::condition_variable queued_;  // something to explain, or nothing more will come
  std::condition_variable ready_;   // something to take, or nothing more will come
  Line waiting_;
  Line done_;
  std::size_t on_their_way_ = 0;  // pushed, or about to be, and not taken
  std::size_t preparing_ = 0;
  std::uint64_t next_ = 0;
  bool finished_ = false;
  bool closed_ = false;
  std::thread worker_;
  std::once_flag joined_;
};

}  // namespace libtame
