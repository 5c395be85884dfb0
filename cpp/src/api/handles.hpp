// Handles: numbers in the guise of pointers.
//
// A handle that was closed is noticed, because its number is never given again; an object lives on
// until the calls that are inside it have returned. An object that ended with another leaves its
// handle behind, empty, for the caller to close.
#pragma once

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

template <typename Handle, typename Object>
class Handles {
 public:
  explicit Handles(HandleKind kind) : kind_(kind) {}

  Handle* add(std::shared_ptr<Object> object) {
    const std::unique_lock guard(lock_);
    const std::uintptr_t number = ++last_;
    objects_.emplace(number, std::move(object));
    return reinterpret_cast<Handle*>(number << tag_bits | kind_.tag);
  }

  /// Throws Failure: TAME_BACKEND_ERROR after it was closed, TAME_INPUT_ERROR if it never was one.
  std::shared_ptr<Object> get(const Handle* handle) const {
    const std::shared_lock guard(lock_);
    const auto found = objects_.find(checked(handle));
    if (found == objects_.end() || !found->second) {
      fail(TAME_BACKEND_ERROR, "this ", kind_.name, " ", kind_.used_late);
    }
    return found->second;
  }

  bool has(const Handle* handle) const {
    const std::shared_lock guard(lock_);
    return objects_.count(reinterpret_cast<std::uintptr_t>(handle) >> tag_bits) > 0;
  }

  /// Forget a handle and return what it stood for, NULL if that ended before.
  /// Throws Failure: TAME_INPUT_ERROR for a handle that was forgotten before, or never was one.
  std::shared_ptr<Object> take(const Handle* handle) {
    const std::unique_lock guard(lock_);
    const auto found = objects_.find(checked(handle));
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
  mutable std::shared_mutex lock_;
  std::unordered_map<std::uintptr_t, std::shared_ptr<Object>> objects_;
  std::uintptr_t last_ = 0;
};

}  // namespace libtame
