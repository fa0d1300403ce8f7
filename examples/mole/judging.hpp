#pragma once
// How good a model's answers are: text scores and loss by task, and the table of all methods.

#include <cstddef>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "mole/language_model.hpp"
#include "mole/prompt.hpp"
#include "mole/text_metrics.hpp"

namespace program {

/// A task's examples to test by.
struct TestSet {
  std::string task;
  std::vector<TextExample> texts;
  std::vector<mole::CausalExample> tokens;
};

/// The examples by task, the longest first within each, so that batches are of like length. Throws as
/// TextCoder::example().
std::vector<TestSet> test_sets(const TextCoder& coder, const std::vector<TextExample>& examples);

/// How answers are judged.
struct JudgeOptions {
  Index batch = 32;          ///< examples at a time
  Index max_new_tokens = 0;  ///< of an answer; 0: eight more than the longest that is wanted
};

/// A task's scores, from 0 to 1, and the mean loss of the wanted answers' tokens.
struct Judged {
  TextScores text;
  double loss = 0;
};

/// What a model makes of each set. tick(n) is told how many examples of all sets are done.
std::vector<Judged> judge(const LanguageModel& model, const TextCoder& coder,
                          const std::vector<TestSet>& sets, const JudgeOptions& options,
                          const std::function<void(Index)>& tick);

/// The mean loss over the tokens of the answers, by batches of like length.
double mean_loss(const LanguageModel& model, const std::vector<mole::CausalExample>& examples, Index batch);

/// A row a method, a column a task.
class Scoreboard {
 public:
  explicit Scoreboard(std::vector<std::string> tasks) : tasks_(std::move(tasks)) {}

  /// Throws mole::ArgumentError for another number of scores than tasks.
  void add(const std::string& method, std::vector<Judged> scores);
  /// The exact matches by task in per cent, and of each method the means over the tasks of all scores.
  std::string text() const;
  /// method,task,exact_match,token_f1,rouge_l,bleu,loss; scores from 0 to 1.
  std::string csv() const;

 private:
  std::vector<std::string> tasks_;
  std::vector<std::pair<std::string, std::vector<Judged>>> rows_;
};

}  // namespace program
