// One number names what a map is asked for: a class alone, or one class and not another.
// The counterpart of tame_deploy/artifact/contrast.py, which says how.
#pragma once

#include <cstdint>

namespace libtame {

/// In place of the other class, where a class is explained alone; in place of a class, the likeliest
/// of its place.
inline constexpr std::int64_t alone_id = -1;
inline constexpr std::int64_t likeliest_id = -1;
/// Graphs of more classes have no contrasts: some runtimes compute integers in 32 bits.
inline constexpr std::int64_t most_contrasted = 46'339;

/// A class, and the other that it is contrasted with.
struct Question {
  std::int64_t own = likeliest_id;
  std::int64_t versus = alone_id;
};

/// What `class_ids` of a graph of so many classes says for a question.
constexpr std::int64_t encode_contrast(const Question& question, std::int64_t classes) {
  if (question.versus == alone_id) return question.own;
  return -1 - (question.versus + 1 + (classes + 1) * (question.own + 1));
}

/// The question that a number names: the inverse of `encode_contrast`.
constexpr Question decode_contrast(std::int64_t number, std::int64_t classes) {
  if (number >= 0) return {number, alone_id};
  const std::int64_t code = -1 - number;
  return {code / (classes + 1) - 1, code % (classes + 1) - 1};
}

/// Whether a number means something to a graph that has contrasts.
constexpr bool is_question(std::int64_t number, std::int64_t classes) {
  const Question question = decode_contrast(number, classes);
  return question.own < classes && (question.versus != alone_id || number >= likeliest_id);
}

}  // namespace libtame
