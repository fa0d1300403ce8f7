#include "mole/estimate.hpp"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <set>

#include <mole/autodiff/no_grad.hpp>
#include <mole/backends/cpu.hpp>
#include <mole/ops/matmul.hpp>

#include "common/progress.hpp"

namespace program {

namespace {

std::string amount(double value, const char* unit) {
  const char* prefixes[] = {"", "k", "M", "G", "T"};
  std::size_t i = 0;
  while (value >= 1000 && i < 4) value /= 1000, ++i;
  char text[48];
  std::snprintf(text, sizeof text, "%.3g %s%s", value, prefixes[i], unit);
  return text;
}

/// Products of the model's own widths, in operations a second.
double operations_per_second(Index width) {
  using Tensor = mole::Tensor<float, mole::Cpu>;
  const mole::NoGrad off;
  constexpr Index rows = 256;
  const auto x = Tensor::full({rows, width}, 0.5F), w = Tensor::full({4 * width, width}, 0.25F);
  linear(x, w);
  const auto start = std::chrono::steady_clock::now();
  double seconds = 0;
  Index count = 0;
  constexpr double long_enough = 0.3;
  while (seconds < long_enough) {
    linear(x, w);
    ++count;
    seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  }
  return static_cast<double>(count) * 2 * static_cast<double>(rows * 4 * width * width) / seconds;
}

/// Parameters of the blocks, which every token passes.
double block_parameters(const ModelFiles& files) {
  Index sum = 0;
  for (const auto& tensor : files.tensors)
    if (tensor.shape.rank() == 2 && tensor.shape[0] != files.facts.vocabulary) sum += tensor.shape.size();
  return static_cast<double>(sum);
}

/// Parameters of an expert, and of the layers that it adapts.
struct ExpertSize {
  double own = 0;
  std::vector<std::pair<std::string, double>> layers;
};

ExpertSize size_of(const mole::LoraSet& expert) {
  ExpertSize size;
  for (const auto& slot : expert.slots) {
    const auto factors = expert.factors(slot);
    size.own += static_cast<double>(factors.rank * (factors.d_in + factors.d_out));
    size.layers.emplace_back(slot, static_cast<double>(factors.d_in * factors.d_out));
  }
  return size;
}

/// Of an example, on average: f of it.
template <class F>
double mean_of(const std::vector<mole::CausalExample>& examples, const F& f) {
  double sum = 0;
  for (const auto& example : examples) sum += static_cast<double>(f(example));
  return sum / static_cast<double>(examples.size());
}

}  // namespace

std::string description(const Workload& work) {
  std::size_t longest = 0, tests = 0;
  for (const auto& example : work.train) longest = std::max(longest, example.length());
  for (const auto& set : work.tests) tests += set.texts.size();
  std::string experts, tasks;
  for (const auto& expert : work.experts) experts += (experts.empty() ? "" : ", ") + expert.name;
  for (const auto& set : work.tests) tasks += (tasks.empty() ? "" : ", ") + set.task;
  return mole::message("base    ", work.files.path.string() + ":", work.files.facts.type + ",",
                       amount(static_cast<double>(work.files.parameters()), ""), "parameters") +
         "\n" + mole::message("experts ", experts) + "\n" + mole::message("tasks   ", tasks) + "\n" +
         mole::message("examples", work.train.size(), "to train on, the longest of", longest, "tokens;",
                       tests, "to test by") +
         "\n";
}

std::string estimate(const Workload& work, const ComposeOptions& options) {
  double expert_numbers = 0, merged = 0;
  std::set<std::string> adapted;
  for (const auto& expert : work.experts) {
    const auto size = size_of(expert);
    expert_numbers += size.own;
    for (const auto& [layer, numbers] : size.layers)
      if (adapted.insert(layer).second) merged += numbers;
  }
  if (options.only_mole || options.model.quantised) merged = 0;
  const double bytes = options.model.bf16 ? sizeof(mole::bf16) : sizeof(float);
  const auto weights =
      static_cast<double>(work.files.bytes_in_memory(options.model.quantised, static_cast<Index>(bytes)));
  const auto batch = static_cast<double>(options.run.batch);
  const double tokens = batch * mean_of(work.train, [](const auto& one) { return one.length(); });
  // What the tape of a block keeps of a token, in widths of the model: what both norms read, queries, keys and values as
  // attention reads them, what it gives, and two tensors of the feed-forward width. A rough count.
  const double kept_of_block = 20, kept_of_frugal_block = 2;
  const double kept = tokens * static_cast<double>(work.files.layers * work.files.width) *
                      (options.model.frugal ? kept_of_frugal_block : kept_of_block);
  std::string text =
      mole::message("memory  ", "weights", amount(weights, "B") + ",", "experts",
                    amount(bytes * expert_numbers, "B") + ",", "merged copies",
                    amount(bytes * merged, "B") + ",", "a training step about", amount(bytes * kept, "B")) +
      "\n";
  if (options.model.backend != "cpu" || options.model.bf16)
    return text + "time     is estimated for the processor alone, in f32\n";

  const double speed = operations_per_second(std::clamp<Index>(work.files.width, 64, 2048));
  const double per_token = 2 * block_parameters(work.files);
  // The head reads answers alone.
  const double per_answer = 2 * static_cast<double>(work.files.facts.vocabulary * work.files.width);
  const double answers = batch * mean_of(work.train, [](const auto& one) { return one.answer.size(); });
  // Forward, the gradient of the activations, and with --frugal the blocks once more; experts cost a fifth on top.
  const double passes = options.model.frugal ? 3 : 2, with_experts = 1.2;
  const double step = (passes * with_experts * per_token * tokens + 2 * per_answer * answers) / speed;
  double measure = 0;
  for (const auto& example : work.train)
    measure += per_token * static_cast<double>(example.length()) * with_experts / speed;
  if (options.gates.input_scale == mole::InputScale::unit) measure = 0;
  double test = 0;
  for (const auto& set : work.tests)
    for (const auto& example : set.tokens)
      test += 2 * static_cast<double>(work.rows) / speed *
              (per_token * static_cast<double>(example.length()) +
               per_answer * static_cast<double>(example.answer.size()));
  const auto clock = [](double seconds) { return common::Progress::clock_text(seconds); };
  return text +
         mole::message("time    ", "about",
                       clock(measure + step * static_cast<double>(options.run.steps) + test) + ":",
                       "training", clock(step * static_cast<double>(options.run.steps)),
                       "(" + amount(step, "s"), "a step), measuring the gates' input", clock(measure) + ",",
                       "testing", work.rows, "rows", clock(test)) +
         "\n" +
         mole::message("         from a product timed here at", amount(speed, "FLOP/s") + ";",
                       "without loading the model; expect it to be wrong by half") +
         "\n";
}

}  // namespace program
