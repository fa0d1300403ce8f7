#pragma once
// A language model as the commands see it: decoder-only or T5, on whichever backend. Tokens go in and come out as
// numbers on the host, so that only what implements this (model_on.hpp) is compiled for each backend.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <mole/compose/composition.hpp>
#include <mole/experts/gate_statistics.hpp>
#include <mole/io/gates.hpp>
#include <mole/models/causal/examples.hpp>
#include <mole/models/causal/sampling.hpp>
#include <mole/nn/lora.hpp>
#include <mole/train/curves.hpp>

#include "common/ranks.hpp"
#include "common/training.hpp"

namespace program {

using mole::Index;

/// What must be known of a model to make its texts.
struct ModelFacts {
  std::string type;  ///< llama, mistral, ..., opt, t5
  bool encoder_decoder = false;
  Index vocabulary = 0;     ///< tokens it has numbers for
  Index context = 0;        ///< tokens of the longest text; 0: it has no limit
  std::vector<Index> ends;  ///< tokens that end a text
};

/// How answers are written.
struct WriteOptions {
  Index max_new_tokens = 64;
  Index beams = 1;                      ///< 1: greedy, or draws
  mole::SamplingOptions sampling = {};  ///< decoder-only models alone
  std::vector<std::string> gates =
      {};  ///< a set of gates by prompt, "" for the model's own; empty: that for all
  std::function<void(Index row, Index token)> on_token =
      {};  ///< told each token at once; decoder-only, without beams
};

/// A training run: its options and where its examples come from.
struct Training {
  common::RunOptions run;
  std::string label;        ///< in front of messages and the progress bar
  std::string fingerprint;  ///< all that the result depends on beside the run's options
  std::function<std::vector<mole::CausalExample>(Index step)> batch;  ///< the examples of a step
  double clip = 0;                 ///< largest norm of the gradients; 0 does not clip
  double weight_decay = 0;         ///< of AdamW
  double alpha = 0;                ///< gates: weight of the balance loss
  bool balanced = false;           ///< gates: whether there is a balance loss
  common::RankOptions ranks = {};  ///< gates: the processes that train together
};

/// Which LoRAs are trained.
struct LoraShape {
  Index rank = 8;
  double alpha = 16;
  std::vector<std::string>
      targets;  ///< names of layers, or their ends; empty: all linear layers of the blocks
  std::uint64_t seed = 1;
};

/// How the experts of a layer are weighed, for one adapter that stands for a mixture.
struct SlotGate {
  std::string slot;
  std::string gate;  ///< the name of the gate that weighs the slot's experts
};

/// A model with its weights. Examples are prompt and answer in tokens; T5 reads the prompt in its encoder.
class LanguageModel {
 public:
  virtual ~LanguageModel() = default;

  virtual const ModelFacts& facts() const = 0;
  /// The linear layers that can be adapted.
  virtual std::vector<std::string> slots() const = 0;

  /// Attaches experts by a router, by saved gates, or takes off all that was attached or merged. Throw as
  /// mole::ExpertModel::attach() and mole::attach_gates() do.
  virtual void attach(const std::vector<mole::LoraSet>& experts, const mole::RouterOptions& router) = 0;
  virtual void attach(const std::vector<mole::LoraSet>& experts, const mole::GatesFile& gates) = 0;
  /// Adds a set of gates by a name; see mole::add_gates().
  virtual void add_gates(const std::string& name, const mole::GatesFile& gates) = 0;
  virtual void detach() = 0;
  /// Puts a combination of adapters into the weights, in place of what was merged before. Throws as mole::merge().
  virtual void merge(const std::string& method, const std::vector<mole::LoraSet>& adapters,
                     const mole::ComposeOptions& options) = 0;

  /// The names of the attached experts.
  virtual const std::vector<std::string>& experts() const = 0;
  /// The names of the gates, in the model's order.
  virtual std::vector<std::string> gates() const = 0;
  /// The gate of each adapted layer.
  virtual std::vector<SlotGate> gates_of_slots() const = 0;
  /// Leaves out the experts that are false; see mole::Mixer::set_mask().
  virtual void mask(const std::vector<bool>& keep) = 0;
  /// Writes the gates; see mole::save_gates().
  virtual void save_gates(const std::filesystem::path& path,
                          const std::map<std::string, std::string>& notes) const = 0;

  /// Measures the scale of what the gates read on batches of examples; does nothing where they read their input as it
  /// is. tick(n) is told how many batches are done.
  virtual void standardise(const std::vector<std::vector<mole::CausalExample>>& batches,
                           const std::function<void(Index)>& tick) = 0;
  /// Trains the gates; nothing where the router has none to train. Returns loss, balance and "entropy GATE" by step.
  /// Throws as common::train().
  virtual mole::Curves train_gates(const Training& training) = 0;
  /// Trains a fresh LoRA on the frozen weights; trained_lora() has it afterwards. Throws as common::train(), and
  /// mole::ArgumentError for a target that the model lacks.
  virtual mole::Curves train_lora(const Training& training, const LoraShape& shape) = 0;
  virtual std::vector<mole::HostLora<float>> trained_lora() const = 0;

  /// The mean loss over the tokens of the answers.
  virtual double loss(const std::vector<mole::CausalExample>& examples) const = 0;
  /// Adds what the gates decide on these examples, which are run as one batch.
  virtual void gather_gates(const std::vector<mole::CausalExample>& examples,
                            std::vector<mole::GateStatistics>& all) const = 0;
  /// The tokens written to each prompt, the end token among them. Throws mole::ArgumentError for options that the
  /// family lacks.
  virtual std::vector<std::vector<Index>> write(const std::vector<std::vector<Index>>& prompts,
                                                const WriteOptions& options) const = 0;
};

/// How memory is spared.
struct MemoryOptions {
  bool frugal =
      false;  ///< training keeps of each block its input alone and runs it again on the way back; T5 does not
  bool quantised = false;  ///< weights stay in the blocks of their file; see mole::LoadOptions::keep_packed
};

/// What a backend offers in numbers of one type.
struct Models {
  /// Loads the model of a folder or GGUF file; weights that look wrong are told in *warnings. Throws as
  /// mole::load_causal() and mole::load_t5(), and mole::DeviceError for packed weights on a backend that lacks them.
  std::unique_ptr<LanguageModel> (*load)(const std::filesystem::path& path, const MemoryOptions& memory,
                                         std::vector<std::string>* warnings);
  /// What load() would refuse of the tensors there, each by its name; reads none. Throws as load() does for the rest.
  std::vector<std::string> (*faults)(const std::filesystem::path& path);
};

/// The backend called "cpu" or "cuda", in float, or with frozen weights, activations and experts in bf16. Throw
/// mole::ArgumentError for any other name, and for what this build lacks, with what to do about it.
const Models& models_on(const std::string& backend);
const Models& models_bf16_on(const std::string& backend);

/// Why gates do not train so.
inline constexpr const char* shares_in_bf16 =
    "--dtype bf16 trains in one process, without --fixed-shards: the counts that shares add up are no numbers of bf16; "
    "leave one of the two out";

}  // namespace program
