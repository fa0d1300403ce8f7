#pragma once
// LanguageModel on backend B in numbers of type T, over either family of models.

#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <mole/autodiff/backward.hpp>
#include <mole/compose/compose.hpp>
#include <mole/io/save_lora_set.hpp>
#include <mole/models/causal/load.hpp>
#include <mole/models/t5/checkpoint.hpp>
#include <mole/optim/adamw.hpp>
#include <mole/train/replayed.hpp>

#include "common/gate_training.hpp"
#include "mole/language_model.hpp"

namespace program {

/// Text lengths are rounded up to this where steps are captured by shape.
template <class B>
inline constexpr Index length_step = mole::has_graphs<B> ? 16 : 1;

/// A length of `longest` tokens or the next that batches have.
template <class B>
Index rounded_length(std::size_t longest) {
  constexpr Index step = length_step<B>;
  return (static_cast<Index>(longest) + step - 1) / step * step;
}

/// A pass for prompts that may each name a set of gates.
template <class Pass, class Model>
Pass pass_for(const Model& model, const WriteOptions& options) {
  Pass pass;
  for (const auto& name : options.gates) pass.sets.push_back(name.empty() ? 0 : model.mixer().gate_set(name));
  return pass;
}

/// A decoder-only model and how it runs a batch.
template <class T, class B>
class CausalFamily {
 public:
  using Batch = mole::CausalBatch<T, B>;
  using Pass = mole::MolePass<T, B>;
  using Values = mole::Tensor<T, B>;

  CausalFamily(const std::filesystem::path& path, const MemoryOptions& memory,
               std::vector<std::string>* warnings)
      : model_(mole::load_causal<T, B>(path, warnings, {.keep_packed = memory.quantised})) {
    model_->checkpoint_blocks(memory.frugal);
  }

  mole::CausalModel<T, B>& model() { return *model_; }
  const mole::CausalModel<T, B>& model() const { return *model_; }

  ModelFacts facts() const {
    const auto& c = model_->config();
    return {c.model_type, false, c.vocab_size, c.max_position_embeddings, c.eos_token_ids};
  }
  Batch batch(const std::vector<mole::CausalExample>& examples) const {
    std::size_t longest = 0;
    for (const auto& example : examples) longest = std::max(longest, example.length());
    const Index length = std::min(rounded_length<B>(longest), model_->config().max_position_embeddings);
    return mole::causal_batch<T, B>(examples, padding(), length);
  }
  Values loss(const Batch& batch, Pass& pass) const { return model_->loss(batch, pass); }
  void run(const Batch& batch, Pass& pass) const { model_->states(batch, pass); }

  std::vector<std::vector<Index>> write(const std::vector<std::vector<Index>>& prompts,
                                        const WriteOptions& options) const {
    auto pass = pass_for<Pass>(*model_, options);
    std::size_t longest = 0;
    for (const auto& prompt : prompts) longest = std::max(longest, prompt.size());
    const Index room = model_->config().max_position_embeddings - static_cast<Index>(longest);
    return mole::generate(*model_, mole::pad_left<T, B>(prompts, padding()), pass,
                          {.max_new_tokens = std::min(options.max_new_tokens, room),
                           .beams = options.beams,
                           .sampling = options.sampling,
                           .on_token = options.on_token})
        .tokens;
  }

 private:
  /// The number that stands in padded places; masks hide it.
  Index padding() const { return std::max<Index>(0, model_->config().pad_token_id); }

  std::unique_ptr<mole::CausalModel<T, B>> model_;
};

/// A T5 and how it runs a batch.
template <class T, class B>
class T5Family {
 public:
  using Batch = mole::T5Batch<T, B>;
  using Pass = mole::MolePass<T, B>;
  using Values = mole::Tensor<T, B>;

  T5Family(const std::filesystem::path& path, const MemoryOptions& memory, std::vector<std::string>* warnings)
      : model_(mole::load_t5<T, B>(path, warnings, {.keep_packed = memory.quantised})) {}

  mole::T5<T, B>& model() { return model_; }
  const mole::T5<T, B>& model() const { return model_; }

  ModelFacts facts() const {
    const auto& c = model_.config();
    return {"t5", true, c.vocab_size, 0, c.generation_tokens().ends};
  }
  Batch batch(const std::vector<mole::CausalExample>& examples) const {
    std::vector<std::vector<Index>> inputs;
    std::size_t longest = 0;
    for (const auto& example : examples) {
      inputs.push_back(example.prompt);
      longest = std::max(longest, example.answer.size());
    }
    const auto source = input(inputs);
    const auto length = static_cast<std::size_t>(rounded_length<B>(longest));
    std::vector<Index> labels;
    for (const auto& example : examples) {
      labels.insert(labels.end(), example.answer.begin(), example.answer.end());
      labels.insert(labels.end(), length - example.answer.size(), Index{-100});
    }
    const mole::Shape shape{static_cast<Index>(examples.size()), static_cast<Index>(length)};
    return {source.ids, source.mask, mole::Tensor<Index, B>::from(shape, labels)};
  }
  Values loss(const Batch& batch, Pass& pass) const { return model_.loss(batch, pass); }
  void run(const Batch& batch, Pass& pass) const { model_.logits(batch, pass); }

  std::vector<std::vector<Index>> write(const std::vector<std::vector<Index>>& prompts,
                                        const WriteOptions& options) const {
    MOLE_CHECK_ARG(!options.sampling.draw && options.sampling.repetition_penalty == 1 &&
                       options.sampling.no_repeat_ngram == 0,
                   "T5 writes greedily or by beams here; leave the options of sampling and penalties out");
    auto pass = pass_for<Pass>(model_, options);
    auto tokens = mole::generate(model_, input(prompts), pass,
                                 {.max_new_tokens = options.max_new_tokens, .beams = options.beams});
    // Each begins with the token that starts the decoder.
    for (auto& row : tokens) row.erase(row.begin());
    return tokens;
  }

 private:
  /// Texts padded on the right, which is what T5 was trained with.
  mole::TokenBatch<T, B> input(const std::vector<std::vector<Index>>& texts) const {
    std::size_t longest = 0;
    for (const auto& text : texts) longest = std::max(longest, text.size());
    const auto length = static_cast<std::size_t>(rounded_length<B>(longest));
    std::vector<Index> ids;
    std::vector<T> mask;
    for (const auto& text : texts) {
      ids.insert(ids.end(), text.begin(), text.end());
      ids.insert(ids.end(), length - text.size(), model_.config().pad_token_id);
      mask.insert(mask.end(), text.size(), T(1));
      mask.insert(mask.end(), length - text.size(), T(0));
    }
    const mole::Shape shape{static_cast<Index>(texts.size()), static_cast<Index>(length)};
    return {mole::Tensor<Index, B>::from(shape, ids), Values::from(shape, mask)};
  }

  mole::T5<T, B> model_;
};

/// See LanguageModel.
template <class T, class B, class Family>
class ModelOn final : public LanguageModel {
 public:
  ModelOn(const std::filesystem::path& path, const MemoryOptions& memory, std::vector<std::string>* warnings)
      : family_(path, memory, warnings), facts_(family_.facts()) {}

  const ModelFacts& facts() const override { return facts_; }
  std::vector<std::string> slots() const override {
    std::vector<std::string> names;
    for (const auto& slot : table().slots) names.push_back(slot.name);
    return names;
  }

  void attach(const std::vector<mole::LoraSet>& experts, const mole::RouterOptions& router) override {
    family_.model().attach(experts, router);
  }
  void attach(const std::vector<mole::LoraSet>& experts, const mole::GatesFile& gates) override {
    mole::attach_gates(family_.model(), experts, gates);
  }
  void add_gates(const std::string& name, const mole::GatesFile& gates) override {
    mole::add_gates(family_.model(), name, gates);
  }
  void detach() override { family_.model().detach(); }
  void merge(const std::string& method, const std::vector<mole::LoraSet>& adapters,
             const mole::ComposeOptions& options) override {
    mole::merge(family_.model().layers().table, method, adapters, options);
  }

  const std::vector<std::string>& experts() const override { return mixer().names(); }
  std::vector<std::string> gates() const override {
    std::vector<std::string> names;
    for (const auto& gate : mixer().gates()) names.push_back(gate.name);
    return names;
  }
  std::vector<SlotGate> gates_of_slots() const override {
    std::vector<SlotGate> list;
    for (std::size_t i = 0; i < table().slots.size(); ++i) {
      if (mixer().experts_at(i).experts.empty()) continue;
      list.push_back({table().slots[i].name, mixer().gates().at(mixer().gate_of(i)).name});
    }
    return list;
  }
  void mask(const std::vector<bool>& keep) override { family_.model().mixer().set_mask(keep); }
  void save_gates(const std::filesystem::path& path,
                  const std::map<std::string, std::string>& notes) const override {
    mole::save_gates(path, mixer(), notes);
  }

  void standardise(const std::vector<std::vector<mole::CausalExample>>& batches,
                   const std::function<void(Index)>& tick) override {
    if (mixer().policies().input_scale == mole::InputScale::unit) return;
    Index done = 0;
    // One batch at a time is on the device.
    family_.model().mixer().standardise(batches,
                                        [&](const std::vector<mole::CausalExample>& batch, Pass& pass) {
                                          family_.run(family_.batch(batch), pass);
                                          tick(++done);
                                        });
  }

  mole::Curves train_gates(const Training& training) override {
    const auto parameters = mixer().parameters();
    if (parameters.empty()) return {};
    if constexpr (mole::Narrow<T>)
      MOLE_CHECK_ARG(!training.ranks.in_shares(), shares_in_bf16);
    else if (training.ranks.in_shares())
      return train_in_shares(training);
    const auto step = [&](const Batch& batch) {
      Pass pass;
      const auto task = family_.loss(batch, pass);
      return common::gate_step(family_.model(), task, pass, training.balanced, training.alpha);
    };
    mole::Replayed<T, B, Batch, common::GateStep<T, B>> gradients(parameters, step,
                                                                  {.notice = common::report_uncaptured});
    return train(parameters, training, [&](Index index) {
      return common::step_result(gradients(family_.batch(training.batch(index))));
    });
  }

  mole::Curves train_lora(const Training& training, const LoraShape& shape) override {
    auto& table = family_.model().layers().table;
    mole::Generator generator{shape.seed};
    table.add_lora(shape.rank, shape.alpha, generator,
                   shape.targets.empty() ? table.names_in_blocks() : shape.targets);
    const auto parameters = table.lora_parameters();
    const auto step = [&](const Batch& batch) {
      Pass pass;
      const auto value = family_.loss(batch, pass);
      mole::backward(value);
      return value.detach();
    };
    mole::Replayed<T, B, Batch, Values> gradients(parameters, step, {.notice = common::report_uncaptured});
    return train(parameters, training, [&](Index index) {
      return mole::StepResult{static_cast<double>(gradients(family_.batch(training.batch(index))).item())};
    });
  }
  std::vector<mole::HostLora<float>> trained_lora() const override { return mole::trained_loras(table()); }

  double loss(const std::vector<mole::CausalExample>& examples) const override {
    const mole::NoGrad off;
    Pass pass;
    return static_cast<double>(family_.loss(family_.batch(examples), pass).item());
  }
  void gather_gates(const std::vector<mole::CausalExample>& examples,
                    std::vector<mole::GateStatistics>& all) const override {
    const mole::NoGrad off;
    Pass pass;
    family_.run(family_.batch(examples), pass);
    mole::gather_statistics(all, mixer().records(pass));
  }
  std::vector<std::vector<Index>> write(const std::vector<std::vector<Index>>& prompts,
                                        const WriteOptions& options) const override {
    return family_.write(prompts, options);
  }

 private:
  using Batch = typename Family::Batch;
  using Pass = typename Family::Pass;
  using Values = typename Family::Values;

  const mole::Mixer<T, B>& mixer() const { return family_.model().mixer(); }
  const mole::SlotTable<T, B>& table() const { return family_.model().layers().table; }

  /// Each rank computes its share of every batch.
  mole::Curves train_in_shares(const Training& training) {
    mole::DataParallel<T, B> ranks(training.ranks.group, mixer(),
                                   {.balanced = training.balanced,
                                    .alpha = training.alpha,
                                    .fixed_shards = training.ranks.fixed_shards});
    return train(
        mixer().parameters(), training,
        [&](Index index) {
          return common::step_in_shares(ranks, family_.model(), training.batch(index),
                                        [&](const std::vector<mole::CausalExample>& some, Pass& pass) {
                                          const auto batch = family_.batch(some);
                                          const auto task = family_.loss(batch, pass);
                                          return std::pair(task, mole::counted_labels(batch.labels));
                                        });
        },
        ranks);
  }

  /// Training by step(index); on `ranks`, where there are some.
  template <class F, class... Ranks>
  mole::Curves train(const std::vector<Values>& parameters, const Training& training, F step,
                     Ranks&... ranks) const {
    auto options = common::training_options(training.run, training.label);
    options.clip = training.clip;
    mole::AdamW<T, B> optimizer(parameters, {.weight_decay = training.weight_decay});
    const auto checkpoints = common::checkpoints_of(training.run, training.fingerprint);
    return common::train(optimizer, options, checkpoints, step, ranks...);
  }

  Family family_;
  ModelFacts facts_;
};

/// Whether a T5 lies at a path.
inline bool is_t5(const std::filesystem::path& path) {
  return path.extension() != ".gguf" && mole::detail::is_t5_type(mole::read_model_type(path));
}

/// See Models::load.
template <class T, class B>
std::unique_ptr<LanguageModel> load_model(const std::filesystem::path& path, const MemoryOptions& memory,
                                          std::vector<std::string>* warnings) {
  if (is_t5(path)) return std::make_unique<ModelOn<T, B, T5Family<T, B>>>(path, memory, warnings);
  return std::make_unique<ModelOn<T, B, CausalFamily<T, B>>>(path, memory, warnings);
}

/// See Models::faults.
template <class T, class B>
std::vector<std::string> model_faults(const std::filesystem::path& path) {
  return is_t5(path) ? mole::t5_faults<T, B>(path) : mole::causal_faults<T, B>(path);
}

/// The models on backend B, in float.
template <class B>
const Models* models_of() {
  static constexpr Models models{load_model<float, B>, model_faults<float, B>};
  return &models;
}

/// And in bf16.
template <class B>
const Models* models_bf16_of() {
  static constexpr Models models{load_model<mole::bf16, B>, model_faults<mole::bf16, B>};
  return &models;
}

}  // namespace program
