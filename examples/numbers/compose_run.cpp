#include "numbers/compose_run.hpp"

#include <algorithm>
#include <variant>

#include <mole/compose/compose.hpp>

#include "numbers/assets.hpp"
#include "numbers/merging.hpp"
#include "numbers/spell.hpp"
#include "numbers/split.hpp"

namespace numbers {

namespace {

std::string own_options(const mole::XLoraOptions& x) {
  return mole::message("depth", x.depth, "width", x.width, "softmax", x.softmax, "renormalise",
                       static_cast<int>(x.renormalize), "weight", x.weight, "first pass", x.first_pass);
}

}  // namespace

mole::RouterOptions router_of(const ComposeOptions& options) {
  auto router = mole::router_named(options.router, options.gates);
  if (auto* placed = std::get_if<mole::XLoraOptions>(&router)) {
    auto xlora = options.xlora;
    xlora.scope = placed->scope;
    xlora.pooling = placed->pooling;
    xlora.top_k = placed->top_k;
    xlora.temperature = placed->temperature;
    xlora.input_scale = placed->input_scale;
    router = xlora;
  }
  return router;
}

bool has_shares(const ComposeOptions& options) { return options.router != "xlora" || options.xlora.softmax; }

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
  if (options.router == "xlora" && own_options(options.xlora) != own_options({}))
    text += " " + own_options(options.xlora);
  if (g.input_scale != mole::InputScale::unit)
    text += std::string(" input scale ") + to_string(g.input_scale);
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

std::vector<MergeOptions> mergings(const ComposeOptions& options, const std::vector<mole::LoraSet>& experts) {
  auto known = mole::composition_methods();
  known.insert(known.end(), {"mean", "pems"});
  std::string names;
  for (const auto& name : known) names += " " + name;
  std::vector<MergeOptions> list;
  for (const auto& method : options.methods) {
    MOLE_CHECK_ARG(std::find(known.begin(), known.end(), method) != known.end(), "--methods", method,
                   "is unknown; choose of" + names);
    auto merging = options.merging;
    merging.method = method;
    // Of an option that a method does not know its row says nothing.
    if (method != "svd" && !method.ends_with("_svd")) merging.rank = {};
    for (const char* weighs_itself : {"pems", "lorahub", "mean", "normalised"})
      if (method == weighs_itself) merging.tuned = false;
    merging.seed = options.run.seed;
    check_merging(merging, experts);
    list.push_back(merging);
  }
  return list;
}

std::vector<std::vector<Example>> judging_examples(const ComposeOptions& options) {
  std::vector<std::vector<Example>> sets;
  for (const auto& task : options.tasks)
    sets.push_back(options.validation ? validation_examples(task, options.test, options.run.seed)
                                      : held_out_examples(task, options.test));
  return sets;
}

std::string method_name(const std::string& router, const mole::GateOptions& gates) {
  if (router == "arrow") return "Arrow";
  std::string method = (router == "xlora" ? "X-LoRA " : "MoLE ") + std::string(to_string(gates.scope));
  if (gates.pooling != mole::Pooling::mean) method += std::string(", ") + to_string(gates.pooling) + " gate";
  if (router == "hidden" || gates.input == mole::GateInput::hidden) method += ", hidden input";
  if (gates.input_scale == mole::InputScale::common) method += ", one spread";
  return method;
}

void draw(const ComposeOptions& options, const common::GateHeat& heat, const common::ExpertLoads& loads,
          const mole::Curves& curves) {
  mole::Curves losses{curves.step, {}}, entropies{curves.step, {}};
  const std::string prefix = "entropy ";
  for (const auto& [name, series] : curves.series) {
    if (name.starts_with(prefix))
      entropies.series.emplace_back(name.substr(prefix.size()), series);
    else
      losses.series.emplace_back(name == "loss" ? "total" : name, series);
  }
  const auto experts = static_cast<int>(heat.experts.size());
  std::vector<common::Plot> plots{common::plot_gates(options.run.out, "gates", heat),
                                  common::plot_load(options.run.out, "load", loads)};
  if (!curves.step.empty()) {
    plots.push_back(common::plot_entropy(options.run.out, "entropy", entropies, experts));
    plots.push_back(common::plot_loss(options.run.out, "loss", losses, experts));
  }
  for (const auto& plot : plots) report(plot);
}

}  // namespace numbers
