// Pictures become tensors in several threads, and the next batch does while one is explained.
#pragma once

#include <array>
#include <condition_variable>
#include <cstddef>
#include <exception>
#include <functional>
#include <limits>
#include <list>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "warning.hpp"

namespace libtame {

class Preparing;

/// The threads of an explainer that prepare pictures, for all calls; started when first needed.
class Preparers {
 public:
  /// At most `threads` work on one call, its own counted; 0 is one a core.
  explicit Preparers(int threads);
  Preparers(const Preparers&) = delete;
  Preparers& operator=(const Preparers&) = delete;
  ~Preparers();

 private:
  friend class Preparing;

  void start(std::size_t wanted);
  void work();
  Preparing* open_call() const;

  const std::size_t threads_;
  std::mutex lock_;
  std::condition_variable opened_;  // pictures that may be prepared, or the end
  std::list<Preparing*> calls_;
  std::vector<std::thread> helpers_;
  bool closed_ = false;
};

/// The pictures of one call, handed out in order to its own thread and to the helpers.
///
/// At most two batches are in memory: the one that is explained, and the one after it.
class Preparing {
 public:
  /// Prepares one picture; called by several threads at once.
  using Work = std::function<void(std::size_t index)>;

  Preparing(Preparers& preparers, std::size_t count, std::size_t batch_size, Work work);
  Preparing(const Preparing&) = delete;
  Preparing& operator=(const Preparing&) = delete;
  ~Preparing();  // waits for the helpers

  /// Where the picture lies among those in memory; a batch lies in one piece.
  std::size_t place(std::size_t index) const { return index % (2 * batch_size_); }

  /// How many pictures are in memory at most.
  std::size_t places() const { return warnings_.size(); }

  /// Return when the batch that begins with a picture is prepared, and let the next one be. What
  /// lay in the place of that next one is overwritten. Throws what the first bad picture threw.
  void wait_for_batch(std::size_t first);

 private:
  friend class Preparers;

  bool is_open() const { return next_ < limit_ && !error_; }
  bool is_settled(std::size_t end) const;
  void prepare_next(std::unique_lock<std::mutex>& guard) noexcept;

  Preparers& preparers_;
  const std::size_t count_;
  const std::size_t batch_size_;
  const Work work_;
  std::list<Preparing*>::iterator listed_;

  // Of all that follows, preparers_.lock_ is the lock.
  std::condition_variable settled_;
  std::size_t next_ = 0;                                          // to be handed out
  std::size_t limit_ = 0;                                         // where there is no memory yet
  std::vector<std::size_t> in_work_;                              // handed out, and not ready
  std::size_t failed_ = std::numeric_limits<std::size_t>::max();  // the first that is known to
  std::exception_ptr error_;                                      // why
  std::vector<std::array<char, sizeof last_warning>> warnings_;   // of each place
  std::string warned_;                                            // of the batches before
};

}  // namespace libtame
