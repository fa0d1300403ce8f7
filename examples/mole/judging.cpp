#include "mole/judging.hpp"

#include <algorithm>
#include <cstdio>

#include <mole/core/error.hpp>
#include <mole/io/csv.hpp>

#include "common/files.hpp"
#include "common/table.hpp"
#include "mole/token_examples.hpp"

namespace program {

namespace {

/// Any row of a set as one line of numbers, in the order of the CSV.
std::vector<double> numbers(const Judged& j) {
  return {j.text.exact, j.text.f1, j.text.rouge_l, j.text.bleu, j.loss};
}

std::string fixed(double value, int digits) {
  char text[32];
  std::snprintf(text, sizeof text, "%.*f", digits, value);
  return text;
}

}  // namespace

std::vector<TestSet> test_sets(const TextCoder& coder, const std::vector<TextExample>& examples) {
  std::vector<TestSet> sets;
  for (const auto& [task, own] : examples_by_task(examples)) {
    TestSet set{task, {}, {}};
    const auto tokens = coder.examples(own);
    for (const auto& batch : mole::batches_by_length(tokens, 1)) {
      set.texts.push_back(own[batch.front()]);
      set.tokens.push_back(tokens[batch.front()]);
    }
    sets.push_back(std::move(set));
  }
  return sets;
}

double mean_loss(const LanguageModel& model, const std::vector<mole::CausalExample>& examples, Index batch) {
  double sum = 0, tokens = 0;
  for (const auto& some : in_batches(examples, batch)) {
    double labels = 0;
    for (const auto& example : some) labels += static_cast<double>(example.answer.size());
    sum += labels * model.loss(some);
    tokens += labels;
  }
  return sum / tokens;
}

std::vector<Judged> judge(const LanguageModel& model, const TextCoder& coder,
                          const std::vector<TestSet>& sets, const JudgeOptions& options,
                          const std::function<void(Index)>& tick) {
  std::size_t longest = 0;
  for (const auto& set : sets)
    for (const auto& example : set.tokens) longest = std::max(longest, example.answer.size());
  constexpr Index beyond = 8;
  WriteOptions write;
  write.max_new_tokens =
      options.max_new_tokens > 0 ? options.max_new_tokens : static_cast<Index>(longest) + beyond;
  // Prompts of all tasks go together by their length, so that a batch is seldom short.
  std::vector<mole::CausalExample> all;
  std::vector<std::pair<std::size_t, std::size_t>> places;  // the set of each, and its number there
  std::vector<std::vector<Answer>> answers(sets.size());
  for (std::size_t s = 0; s < sets.size(); ++s) {
    answers[s].resize(sets[s].tokens.size());
    for (std::size_t i = 0; i < sets[s].tokens.size(); ++i) {
      all.push_back(sets[s].tokens[i]);
      places.emplace_back(s, i);
    }
  }
  Index done = 0;
  for (const auto& batch : mole::batches_by_length(all, options.batch)) {
    std::vector<std::vector<Index>> prompts;
    for (const std::size_t i : batch) prompts.push_back(all[i].prompt);
    const auto written = model.write(prompts, write);
    for (std::size_t k = 0; k < batch.size(); ++k) {
      const auto& [s, i] = places[batch[k]];
      answers[s][i] = {coder.answer(written[k]), sets[s].texts[i].answer};
    }
    tick(done += static_cast<Index>(batch.size()));
  }
  std::vector<Judged> judged;
  for (std::size_t s = 0; s < sets.size(); ++s)
    judged.push_back({score(answers[s]), mean_loss(model, sets[s].tokens, options.batch)});
  return judged;
}

void Scoreboard::add(const std::string& method, std::vector<Judged> scores) {
  MOLE_CHECK_ARG(scores.size() == tasks_.size(), "Scoreboard: row", method, "has", scores.size(),
                 "scores, expected one for each of", tasks_.size(), "tasks");
  rows_.emplace_back(method, std::move(scores));
}

std::string Scoreboard::text() const {
  common::ResultTable exact(tasks_);
  std::vector<std::vector<std::string>> means{{"means over tasks", "exact", "F1", "ROUGE-L", "BLEU", "loss"}};
  for (const auto& [method, scores] : rows_) {
    std::vector<double> rates, sums(5);
    for (const auto& score : scores) {
      rates.push_back(score.text.exact);
      const auto own = numbers(score);
      for (std::size_t i = 0; i < own.size(); ++i) sums[i] += own[i] / static_cast<double>(scores.size());
    }
    exact.add(method, rates);
    means.push_back({method});
    for (std::size_t i = 0; i < sums.size(); ++i)
      means.back().push_back(i + 1 < sums.size() ? fixed(100 * sums[i], 1) : fixed(sums[i], 3));
  }
  return "Exact match in per cent:\n\n" + exact.text() + "\n" + common::aligned_text(means);
}

std::string Scoreboard::csv() const {
  std::string text = "method,task,exact_match,token_f1,rouge_l,bleu,loss\n";
  for (const auto& [method, scores] : rows_)
    for (std::size_t i = 0; i < scores.size(); ++i) {
      text += mole::csv_field(method) + "," + mole::csv_field(tasks_[i]);
      for (const double value : numbers(scores[i])) text += "," + common::csv_number(value);
      text += "\n";
    }
  return text;
}

}  // namespace program
