#include "probabilities.hpp"

#include <algorithm>
#include <cmath>

namespace libtame {

std::vector<double> probabilities(const float* logits, std::size_t classes, Task task) {
  std::vector<double> shares(logits, logits + classes);
  if (task == Task::multilabel) {
    for (double& share : shares) {
      const double less = std::exp(-std::abs(share));  // at most 1, whatever the logit
      share = (share >= 0 ? 1 : less) / (1 + less);
    }
    return shares;
  }
  const double highest = *std::max_element(shares.begin(), shares.end());
  double sum = 0;
  for (double& share : shares) sum += share = std::exp(share - highest);
  for (double& share : shares) share /= sum;
  return shares;
}

}  // namespace libtame
