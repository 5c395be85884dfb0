// Handles: numbers in the guise of pointers.
//
// A handle that was closed is noticed, because its number is never given again; an object lives on
// until the calls that are inside it have returned. An object that ended with another leaves its
// handle behind, empty, for the caller to close.
//
// A child of fork() has handles of its own. Those of its parent are refused and, where they are
// closed, left alone: the threads that would have to be waited for are not there.
#pragma once

#if !defined(_WIN32)
#include <unistd.h>
#endif

#include <atomic>
#include <cstdint>
#include <memory>
#include <shared_mutex>
#include <unordered_map>
#include <vector>

#include "error.hpp"

namespace libtame {

/// What a kind of handle is called, and what is said of one that is used, or closed, too late; and
/// the low bits of its numbers.
struct HandleKind {
  const char* name;
  const char* used_late;
  const char* closed_twice;
  std::uintptr_t tag;
};

/// The number of this process; 0 where none has children by fork().
inline std::intptr_t this_process() {
#if defined(_WIN32)
  return 0;
#else
  return getpid();
#endif
}

template <typename Handle, typename Object>
class Handles {
 public:
  /// Numbers go on from those of the process before fork(), if there was one.
  explicit Handles(HandleKind kind, const Handles* before = nullptr)
      : kind_(kind), before_(before), first_(before ? before->last_.load() : 0), last_(first_) {}

  /// The handles of this process, made anew in a child of fork(). Its parent's are never touched
  /// again: a thread that is not there may hold their lock.
  static Handles& of_this_process(std::atomic<Handles*>& current) {
    Handles* found = current;
    while (found->process_ != this_process()) {
      auto own = std::make_unique<Handles>(found->kind_, found);
      if (current.compare_exchange_strong(found, own.get())) return *own.release();
    }
    return *found;
  }

  Handle* add(std::shared_ptr<Object> object) {
    const std::unique_lock guard(lock_);
    const std::uintptr_t number = ++last_;
    objects_.emplace(number, std::move(object));
    return reinterpret_cast<Handle*>(number << tag_bits | kind_.tag);
  }

  /// Throws Failure: TAME_BACKEND_ERROR after it was closed, or in a child of the process that it
  /// is of; TAME_INPUT_ERROR if it never was one.
  std::shared_ptr<Object> get(const Handle* handle) const {
    const std::shared_lock guard(lock_);
    const std::uintptr_t number = checked(handle);
    if (number <= first_) {
      fail(TAME_BACKEND_ERROR, "this ", kind_.name,
           " is of the process before fork(); make another in this one");
    }
    const auto found = objects_.find(number);
    if (found == objects_.end() || !found->second) {
      fail(TAME_BACKEND_ERROR, "this ", kind_.name, " ", kind_.used_late);
    }
    return found->second;
  }

  bool has(const Handle* handle) const {
    const std::shared_lock guard(lock_);
    return objects_.count(reinterpret_cast<std::uintptr_t>(handle) >> tag_bits) > 0;
  }

  /// Forget a handle and return what it stood for: NULL if that ended before, or is of the process
  /// before fork().
  /// Throws Failure: TAME_INPUT_ERROR for a handle that was forgotten before, or never was one.
  std::shared_ptr<Object> take(const Handle* handle) {
    const std::unique_lock guard(lock_);
    const std::uintptr_t number = checked(handle);
    if (number <= first_) return nullptr;
    const auto found = objects_.find(number);
    if (found == objects_.end()) {
      fail(TAME_INPUT_ERROR, "this ", kind_.name, " ", kind_.closed_twice);
    }
    std::shared_ptr<Object> object = std::move(found->second);
    objects_.erase(found);
    return object;
  }

  /// Return all for which `chosen` holds; their handles stay, empty.
  template <typename Chosen>
  std::vector<std::shared_ptr<Object>> take_all(Chosen chosen) {
    const std::unique_lock guard(lock_);
    std::vector<std::shared_ptr<Object>> taken;
    taken.reserve(objects_.size());  // so that nothing fails half-way
    for (auto& [number, object] : objects_) {
      if (object && chosen(*object)) taken.push_back(std::move(object));
    }
    return taken;
  }

 private:
  static constexpr unsigned tag_bits = 4;

  std::uintptr_t checked(const Handle* handle) const {
    const auto value = reinterpret_cast<std::uintptr_t>(handle);
    const std::uintptr_t number = value >> tag_bits;
    if (!handle) fail(TAME_INPUT_ERROR, "the ", kind_.name, " is NULL");
    if ((value & ((1U << tag_bits) - 1)) != kind_.tag || number == 0 || number > last_) {
      fail(TAME_INPUT_ERROR, "found ", handle, ", which is no ", kind_.name, " of this process");
    }
    return number;
  }

  const HandleKind kind_;
  const std::intptr_t process_ = this_process();
  const Handles* const before_;  // so that what it has is not taken for lost
  const std::uintptr_t first_;   // the last number that was given before fork()
  mutable std::shared_mutex lock_;
  std::unordered_map<std::uintptr_t, std::shared_ptr<Object>> objects_;
  std::atomic<std::uintptr_t> last_;
};

}  // namespace libtame
