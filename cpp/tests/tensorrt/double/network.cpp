// The network of the double: every answer depends on the picture and the class alone.
#include <algorithm>

#include "double.hpp"

namespace tame_double {
namespace {

std::uint64_t mixed(std::uint64_t value) {
  value ^= value >> 31U;
  value *= 0x9e3779b97f4a7c15ULL;
  value ^= value >> 29U;
  value *= 0xbf58476d1ce4e5b9ULL;
  return value ^ (value >> 32U);
}

std::uint64_t hash_of(const void* picture, std::size_t bytes) {
  std::uint64_t hash = 1469598103934665603ULL;
  const auto* at = static_cast<const unsigned char*>(picture);
  for (std::size_t place = 0; place < bytes; ++place) hash = (hash ^ at[place]) * 1099511628211ULL;
  return hash;
}

float fraction(std::uint64_t value) {
  return static_cast<float>(mixed(value) >> 40U) / static_cast<float>(1U << 24U);
}

}  // namespace

std::vector<float> logits_of(const Network& network, const void* picture, std::size_t bytes) {
  const std::uint64_t hash = hash_of(picture, bytes);
  std::vector<float> logits;
  for (int id = 0; id < network.classes; ++id) {
    logits.push_back(fraction(hash + static_cast<std::uint64_t>(id) * 7919));
  }
  return logits;
}

std::int64_t explained_of(const std::vector<float>& logits, std::int64_t id, std::int64_t place) {
  if (id >= 0) return id;
  std::vector<std::int64_t> order(logits.size());
  for (std::size_t at = 0; at < order.size(); ++at) order[at] = static_cast<std::int64_t>(at);
  std::stable_sort(order.begin(), order.end(), [&](std::int64_t one, std::int64_t other) {
    return logits[static_cast<std::size_t>(one)] > logits[static_cast<std::size_t>(other)];
  });
  return order[static_cast<std::size_t>(place)];
}

std::vector<float> map_of(const Network& network, const void* picture, std::size_t bytes,
                          std::int64_t id) {
  const std::uint64_t hash = hash_of(picture, bytes) + static_cast<std::uint64_t>(id) * 104729;
  std::vector<float> map;
  for (int place = 0; place < network.map_height * network.map_width; ++place) {
    map.push_back(fraction(hash + static_cast<std::uint64_t>(place) * 31337 + 1));
  }
  return map;
}

}  // namespace tame_double
