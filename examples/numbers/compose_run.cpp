#include "numbers/compose_run.hpp"

#include <algorithm>

#include "numbers/assets.hpp"
#include "numbers/spell.hpp"
#include "numbers/split.hpp"

namespace numbers {

std::string fingerprint(const ComposeOptions& options, const std::vector<mole::LoraSet>& experts) {
  std::vector<std::string> languages;
  for (const auto& task : options.tasks) languages.insert(languages.end(), {task.source, task.target});
  const auto& g = options.gates;
  auto text = mole::message("compose router", options.router, "scope", to_string(g.scope), "input",
                            to_string(g.input), "pooling", to_string(g.pooling), "length", g.length, "top-k",
                            g.top_k, "temperature", g.temperature, "alpha", options.alpha, "examples",
                            options.examples, "steps", options.run.steps, "batch", options.run.batch, "rate",
                            options.run.rate, "weight decay", options.weight_decay, "seed", options.run.seed,
                            "base", base_digest(options.base), "spelling", spelling_digest(languages));
  // Left out where they are as ever, so that older checkpoints are still known.
  if (const auto own = common::own_options(options); !own.empty()) text += " " + own;
  if (g.input_scale != mole::InputScale::unit)
    text += std::string(" input scale ") + to_string(g.input_scale);
  if (options.ranks.fixed_shards > 0) text += " fixed shards " + std::to_string(options.ranks.fixed_shards);
  for (const auto& task : options.tasks) text += " " + task.name();
  for (const auto& expert : experts) text += " " + expert.name + "=" + expert.digest;
  return text;
}

void check_length(const ComposeOptions& options) {
  if (options.gates.pooling != mole::Pooling::flatten) {
    MOLE_CHECK_ARG(options.gates.length == 0, "--length is for --pooling flatten alone; leave it out");
    return;
  }
  std::size_t longest = 0;
  auto look = [&](const std::vector<Example>& examples) {
    for (const auto& example : examples) longest = std::max(longest, example.input.size() + 1);
  };
  look(few_shot_examples(options.tasks, options.examples, options.run.seed));
  for (const auto& examples : judging_examples(options)) look(examples);
  MOLE_CHECK_ARG(options.gates.length >= static_cast<Index>(longest),
                 "--pooling flatten reads inputs of one length: give --length of", longest,
                 "tokens or more, which the longest input of these tasks has; got", options.gates.length);
}

std::vector<std::vector<Example>> judging_examples(const ComposeOptions& options) {
  std::vector<std::vector<Example>> sets;
  for (const auto& task : options.tasks)
    sets.push_back(options.validation ? validation_examples(task, options.test, options.run.seed)
                                      : held_out_examples(task, options.test));
  return sets;
}

}  // namespace numbers
