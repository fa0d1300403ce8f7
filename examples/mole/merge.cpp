// `mole merge` and `mole bake`: one adapter of several.

#include <algorithm>
#include <iostream>
#include <map>
#include <memory>
#include <utility>

#include <mole/compose/compose.hpp>
#include <mole/io/save_lora_set.hpp>

#include "common/files.hpp"
#include "common/progress.hpp"
#include "mole/commands.hpp"
#include "mole/experts.hpp"
#include "mole/gate_pictures.hpp"
#include "mole/session.hpp"

namespace program {

namespace {

/// What the first of the adapters says of base and task.
mole::LoraConfig settings_like(const std::filesystem::path& adapter) {
  std::vector<std::string> warnings;
  const auto config = mole::read_lora_config(adapter / "adapter_config.json", warnings);
  mole::LoraConfig like;
  like.base_model_name_or_path = config.base_model_name_or_path;
  like.task_type = config.task_type;
  return like;
}

/// One adapter that does what the experts do with these weights at each layer: their ranks side by side.
mole::LoraSet weighed(const std::vector<mole::LoraSet>& experts,
                      const std::map<std::string, std::vector<double>>& weights) {
  mole::LoraSet set;
  set.name = "baked";
  for (const auto& [slot, own] : weights) set.slots.push_back(slot);
  set.factors = [experts, weights](const std::string& slot) {
    mole::SlotExperts adapting;
    for (std::size_t i = 0; i < experts.size(); ++i) {
      const auto& slots = experts[i].slots;
      if (std::find(slots.begin(), slots.end(), slot) == slots.end()) continue;
      adapting.places.push_back(i);
      adapting.lora.push_back(experts[i].factors(slot));
    }
    return mole::concatenate(adapting, adapting.pick(weights.at(slot)));
  };
  return set;
}

}  // namespace

void merge(const MergeCommandOptions& options) {
  MOLE_CHECK_ARG(!options.out.empty(), "--out is missing: the folder of the merged adapter");
  const auto paths = expert_paths(options.experts);
  check_adapter_folder(options.out, paths);
  const auto experts = load_experts(paths);
  const auto merging = common::mergings({options.merging.method}, options.merging, experts).front();
  MOLE_CHECK_ARG(!common::chooses_weights(merging) || !options.weights.empty(), "--method",
                 merging.method + ": its weights are chosen by examples, which `mole compose --methods",
                 merging.method + "` does; give --weights here");
  auto how = common::composition(merging, experts.size());
  if (!options.weights.empty()) how.options.weights = options.weights;
  const common::OutputFolder out(options.out);
  mole::save_lora_set(options.out, mole::compose(how.method, experts, how.options),
                      settings_like(paths.front().folder));
  std::cout << "merged adapter written to " << options.out.string() << "\n";
}

void bake(const BakeOptions& options) {
  MOLE_CHECK_ARG(!options.out.empty(), "--out is missing: the folder of the baked adapter");
  auto texts = read_examples(options.data);
  if (!options.task.empty()) texts = of_task(texts, options.task);
  check_adapter_folder(options.out, experts_of(mole::read_gates(options.gates), options.experts));
  const common::OutputFolder out(options.out);
  auto with = load_gated(options.model, options.gates, options.experts);
  MOLE_CHECK_ARG(with.model->gates_of_slots().size() > 0, "bake: the gates weigh no layer");
  const auto sets = test_sets(*with.coder, texts);
  std::vector<mole::CausalExample> examples;
  for (const auto& set : sets) examples.insert(examples.end(), set.tokens.begin(), set.tokens.end());

  std::map<std::string, std::vector<double>> by_gate;
  for (const auto& gate :
       mean_gates(gate_statistics(*with.model, examples, options.batch), with.model->experts().size()))
    by_gate[gate.scope] = gate.weights;
  std::map<std::string, std::vector<double>> weights;
  for (const auto& slot : with.model->gates_of_slots()) {
    const auto found = by_gate.find(slot.gate);
    MOLE_CHECK_ARG(found != by_gate.end(), "bake: the gate", slot.gate, "decided nothing on these examples");
    weights[slot.slot] = found->second;
  }
  const auto baked = weighed(with.experts, weights);
  auto like = settings_like(experts_of(with.gates, options.experts).front().folder);
  mole::save_lora_set(options.out, baked, std::move(like));
  std::cout << "baked adapter written to " << options.out.string() << "\n";

  std::vector<std::string> columns;
  for (const auto& set : sets) columns.push_back(set.task);
  Scoreboard table(columns);
  common::Progress bar("test", 2 * static_cast<Index>(examples.size()));
  table.add("gates",
            judge(*with.model, *with.coder, sets, {.batch = options.batch}, [&](Index n) { bar.update(n); }));
  // As the file has it, not as it was made.
  with.model->detach();
  with.model->merge("sum", load_experts({{"baked", options.out}}), {});
  const auto before = static_cast<Index>(examples.size());
  table.add("baked", judge(*with.model, *with.coder, sets, {.batch = options.batch},
                           [&](Index n) { bar.update(before + n); }));
  bar.finish();
  common::write_text(options.out / "baked.csv", table.csv());
  std::cout << "\n" << table.text();
}

}  // namespace program
