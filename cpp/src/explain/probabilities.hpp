// What logits mean (tame_deploy.artifact.task).
#pragma once

#include <cstddef>
#include <vector>

#include "artifact/manifest.hpp"

namespace libtame {

/// Probabilities of one picture's logits: a sigmoid each, or a softmax over all. A binary network's
/// logits are 0 and its own one, so that their softmax is a sigmoid.
std::vector<double> probabilities(const float* logits, std::size_t classes, Task task);

}  // namespace libtame
