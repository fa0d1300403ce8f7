// `mole train-expert`: a LoRA for one task on a frozen base, as PEFT stores it.

#include <algorithm>
#include <iostream>
#include <set>

#include <mole/io/peft.hpp>

#include "common/files.hpp"
#include "mole/commands.hpp"
#include "mole/experts.hpp"
#include "mole/judging.hpp"
#include "mole/session.hpp"
#include "mole/token_examples.hpp"

namespace program {

namespace {

/// The last parts of the layers' names, as PEFT's target_modules list them, where those name just these layers of the
/// model; else the whole names.
std::vector<std::string> target_modules(const std::vector<std::string>& all,
                                        const std::vector<mole::HostLora<float>>& entries) {
  const auto last = [](const std::string& name) { return name.substr(name.rfind('.') + 1); };
  std::set<std::string> ends, adapted;
  for (const auto& entry : entries) {
    ends.insert(last(entry.slot));
    adapted.insert(entry.slot);
  }
  const bool exact = std::all_of(all.begin(), all.end(), [&](const auto& slot) {
    return adapted.contains(slot) || !ends.contains(last(slot));
  });
  return exact ? std::vector<std::string>(ends.begin(), ends.end())
               : std::vector<std::string>(adapted.begin(), adapted.end());
}

/// Short names as people say them, q and v, where the model has no layer called so.
std::vector<std::string> full_targets(const LanguageModel& model, std::vector<std::string> targets) {
  const auto slots = model.slots();
  for (auto& target : targets) {
    const auto has = [&](const std::string& name) {
      return std::any_of(slots.begin(), slots.end(),
                         [&](const auto& slot) { return mole::is_named(slot, name); });
    };
    if (!has(target) && has(target + "_proj")) target += "_proj";
    MOLE_CHECK_ARG(has(target), "--targets: this model has no linear layer",
                   target + "; one of its blocks has", [&] {
                     std::set<std::string> names;
                     for (const auto& slot : slots) names.insert(slot.substr(slot.rfind('.') + 1));
                     std::string text;
                     for (const auto& name : names) text += (text.empty() ? "" : ", ") + name;
                     return text;
                   }());
  }
  return targets;
}

}  // namespace

void train_expert(const TrainExpertOptions& options) {
  MOLE_CHECK_ARG(!options.run.out.empty(), "--out is missing: the folder of the new expert");
  check_adapter_folder(options.run.out, {});
  const auto base = utf8_name(options.model.base);
  auto texts = read_examples(options.train);
  if (!options.task.empty()) texts = of_task(texts, options.task);
  std::vector<TextExample> held_out;
  if (!options.test.empty()) {
    held_out = read_examples(options.test);
    if (!options.task.empty()) held_out = of_task(held_out, options.task);
  }
  const auto files = read_model_files(options.model.base);
  const auto form = prompt_template(options.model.form, options.model.system);
  const auto coder = text_coder(files, options.model, form);
  const auto examples = coder.examples(texts);
  const auto tests = test_sets(coder, held_out);
  warn_without_end(files);
  check_start(options.model, options.run);
  const common::OutputFolder out(options.run.out);
  const auto model = load(files, options.model);

  const LoraShape shape{options.rank, options.alpha, full_targets(*model, options.targets), options.run.seed};
  std::string targets;
  for (const auto& target : shape.targets) targets += " " + target;
  Training training;
  training.run = options.run;
  training.label = "expert " + options.run.out.filename().string();
  training.clip = 1;
  training.fingerprint =
      mole::message("mole train-expert steps", options.run.steps, "batch", options.run.batch, "rate",
                    options.run.rate, "seed", options.run.seed, "rank", shape.rank, "alpha", shape.alpha,
                    "targets" + targets, "base", files.digest, "examples", digest_of(examples)) +
      (options.model.bf16 ? " in bf16\n" : "\n") + form.fingerprint();
  training.batch = step_batches(examples, options.run);
  model->train_lora(training, shape);

  const auto entries = model->trained_lora();
  mole::LoraConfig config;
  config.rank = options.rank;
  config.alpha = options.alpha;
  config.base_model_name_or_path = base;
  config.task_type = files.facts.encoder_decoder ? "SEQ_2_SEQ_LM" : "CAUSAL_LM";
  config.target_modules = target_modules(model->slots(), entries);
  mole::save_adapter(options.run.out, config, entries, mole::Dtype::BF16);
  std::cout << "expert written to " << options.run.out.string() << "\n";
  if (tests.empty()) return;

  std::vector<std::string> columns;
  for (const auto& set : tests) columns.push_back(set.task);
  Scoreboard table(columns);
  table.add(options.run.out.filename().string(), judge(*model, coder, tests, {}, [](Index) {}));
  std::cout << "\n" << table.text();
}

}  // namespace program
