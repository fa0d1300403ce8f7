#pragma once
// `numbers train-base`, `train-expert` and `evaluate`: how the shipped assets were made.

#include <filesystem>
#include <iostream>
#include <string>
#include <vector>

#include <mole/autodiff/backward.hpp>
#include <mole/compose/linear.hpp>
#include <mole/io/save_lora_set.hpp>
#include <mole/models/t5/checkpoint.hpp>
#include <mole/optim/adamw.hpp>
#include <mole/train/replayed.hpp>

#include "common/files.hpp"
#include "common/progress.hpp"
#include "common/table.hpp"
#include "common/training.hpp"
#include "numbers/assets.hpp"
#include "numbers/commands.hpp"
#include "numbers/spell.hpp"
#include "numbers/split.hpp"

namespace numbers {

/// All that the weights depend on, beside what is trained.
inline std::string fingerprint(const std::string& what, const RunOptions& run) {
  return mole::message(what, "steps", run.steps, "batch", run.batch, "rate", run.rate, "seed", run.seed);
}

/// Trains parameters of a model by its loss on the run's batches; `label` and `what` are its name and all that
/// its result depends on beside the run's options. Throws as common::train().
template <class B>
void train_on(const Model<B>& model, const std::vector<Values<B>>& parameters, const RunOptions& run,
              const std::string& label, const std::string& what, const Sampler& sampler) {
  const auto step = [&](const mole::T5Batch<Scalar, B>& batch) {
    Pass<B> pass;
    const auto value = model.loss(batch, pass);
    mole::backward(value);
    return value.detach();
  };
  mole::Replayed<Scalar, B, mole::T5Batch<Scalar, B>, Values<B>> loss(parameters, step,
                                                                      {.notice = common::report_uncaptured});
  mole::AdamW<Scalar, B> optimizer(parameters, {.weight_decay = 0});
  common::train(optimizer, common::training_options(run, label),
                common::checkpoints_of(run, fingerprint(what, run)), [&](Index index) {
                  const auto value = loss({batch_for(model, sampler.batch(index, run.batch))});
                  return mole::StepResult{static_cast<double>(value.item())};
                });
}

/// See commands.hpp.
template <class B>
void train_base(const TrainBaseOptions& options) {
  const common::OutputFolder folder(options.run.out);
  mole::T5Config config;
  config.vocab_size = vocabulary_size;
  config.d_model = options.width;
  config.d_kv = options.head_width;
  config.d_ff = options.feed_forward;
  config.num_heads = options.heads;
  config.num_layers = config.num_decoder_layers = options.layers;
  config.dropout_rate = 0;
  Model<B> model(config);
  mole::Generator generator{options.run.seed};
  model.initialize(generator);

  const Sampler sampler(base_tasks(), train_numbers(options.numbers), options.run.seed);
  const auto what = mole::message("train-base", config.d_model, config.d_kv, config.num_heads, config.d_ff,
                                  config.num_layers, "numbers", options.numbers, "spelling",
                                  spelling_digest(base_languages()));
  train_on(model, model.trainable_parameters(), options.run, "base", what, sampler);
  mole::save_t5(options.run.out, model, mole::Dtype::BF16);
  std::cout << "base written to " << options.run.out.string() << "\n";
}

/// See commands.hpp.
template <class B>
void train_expert(const TrainExpertOptions& options) {
  const auto task = parse_task(options.task);
  const auto out = options.run.out.empty() ? std::filesystem::path(folder_name(task)) : options.run.out;
  const common::OutputFolder folder(out);
  auto model = load_base<B>(options.base);
  auto& table = model.layers().table;
  mole::Generator generator{options.run.seed};
  table.add_lora(options.rank, options.alpha, generator);

  const Sampler sampler({task}, Split::train(), options.run.seed);
  const auto what = mole::message("train-expert", task.name(), "rank", options.rank, "alpha", options.alpha,
                                  "base", base_digest(options.base), "spelling",
                                  spelling_digest(std::vector<std::string>{task.source, task.target}));
  train_on(model, table.lora_parameters(), options.run, "expert " + task.name(), what, sampler);

  mole::LoraConfig config;
  config.rank = options.rank;
  config.alpha = options.alpha;
  mole::save_adapter(out, config, mole::trained_loras(table), mole::Dtype::BF16);
  std::cout << "expert for " << task.name() << " written to " << out.string() << "\n";
}

/// See commands.hpp.
template <class B>
void evaluate(const EvaluateOptions& options) {
  auto model = load_base<B>(options.base);
  if (!options.experts.empty()) {
    const auto experts = load_experts(options.experts, shipped_experts());
    mole::merge(model.layers().table, experts, mole::sum_weights(experts.size()));
  }
  std::vector<std::string> columns;
  for (const auto& task : options.tasks) columns.push_back(task.name());
  common::ResultTable table(columns);
  {
    common::Progress bar("test", options.test * static_cast<Index>(options.tasks.size()));
    std::string name = "base";
    for (const auto& expert : options.experts) name += " + " + expert;
    std::vector<std::vector<Example>> sets;
    for (const auto& task : options.tasks) sets.push_back(held_out_examples(task, options.test));
    table.add(name, exact_match(model, sets, [&](Index done) { bar.update(done); }));
  }
  std::cout << table.text();
}

}  // namespace numbers
