// The lanes of an engine, lent to threads.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <vector>

#include "lane.hpp"

namespace libtame::trt {

class Lanes {
 public:
  /// Makes the first lane now: what does not fit on the GPU is said before the first picture.
  Lanes(Engine& engine, const Sizes& largest, bool capture, std::size_t most);

  /// A lane for this thread alone, given back when it goes.
  class Lent {
   public:
    /// For work on a stream of the caller's, or on the lane's own.
    explicit Lent(Lanes& lanes, const cudaStream_t* stream = nullptr)
        : lanes_(lanes), lane_(lanes.take(stream)) {}
    Lent(const Lent&) = delete;
    Lent& operator=(const Lent&) = delete;
    ~Lent() { lanes_.give_back(std::move(lane_)); }
    Lane* operator->() const { return lane_.get(); }

   private:
    Lanes& lanes_;
    std::unique_ptr<Lane> lane_;
  };

 private:
  std::unique_ptr<Lane> take(const cudaStream_t* stream);
  std::unique_ptr<Lane> make();
  void give_back(std::unique_ptr<Lane> lane) noexcept;

  Engine& engine_;
  Sizes largest_;
  bool capture_;
  std::mutex lock_;
  std::condition_variable free_;
  std::vector<std::unique_ptr<Lane>> idle_;
  std::size_t made_ = 1;
  std::size_t most_;
};

}  // namespace libtame::trt
