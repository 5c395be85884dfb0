// Probabilities are what arithmetic of fifty digits gave, as in Python.
#include "explain/probabilities.hpp"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "explain/explainer.hpp"

namespace libtame {
namespace {

using nlohmann::json;

Task task_of(const std::string& name) {
  return name == "multilabel" ? Task::multilabel
         : name == "binary"   ? Task::binary
                              : Task::multiclass;
}

TEST(Probabilities, AreThoseOfTheTask) {
  const json cases = json::parse(std::ifstream(TAME_GOLDEN "/probabilities.json"));
  ASSERT_GE(cases.size(), 10U);
  for (const json& asked : cases) {
    SCOPED_TRACE(asked.dump());
    const std::vector<float> logits = asked["logits"];
    const std::vector<double> expected = asked["probabilities"];
    const auto found = probabilities(logits.data(), logits.size(), task_of(asked["task"]));
    ASSERT_EQ(found.size(), expected.size());
    for (std::size_t id = 0; id < found.size(); ++id) EXPECT_NEAR(found[id], expected[id], 1e-9);
  }
}

Explanation explanation_of(const std::vector<float>& logits, Task task) {
  Explanation made;
  made.count = 1;
  made.classes = logits.size();
  made.task = task;
  made.logits = logits;
  return made;
}

TEST(Probabilities, OfTheLikeliestLabelsAreSigmoids) {
  std::vector<tame_score> scores(2);
  explanation_of({8, -8, 8, -8}, Task::multilabel).top(0, 2, scores.data());
  EXPECT_EQ(scores[0].class_id, 0);
  EXPECT_EQ(scores[1].class_id, 2);
  EXPECT_NEAR(scores[0].probability, 0.99966F, 1e-5);
  EXPECT_NEAR(scores[1].probability, 0.99966F, 1e-5);
}

TEST(Probabilities, OfLabelsThatAreAllCertainKeepTheOrderOfTheirLogits) {
  std::vector<tame_score> scores(3);
  explanation_of({30, 60, 40}, Task::multilabel).top(0, 3, scores.data());
  EXPECT_EQ(scores[0].class_id, 1);
  EXPECT_EQ(scores[1].class_id, 2);
  EXPECT_EQ(scores[2].class_id, 0);
}

TEST(Probabilities, OfOnePictureAreOfItsTask) {
  tame_score score{};
  explanation_of({8, -8, 8}, Task::multilabel).one(0).top(0, 1, &score);
  EXPECT_NEAR(score.probability, 0.99966F, 1e-5);
}

}  // namespace
}  // namespace libtame
