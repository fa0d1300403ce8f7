#pragma once
// A router over a whole model: the gates of a pass, and the mixing of every adapted slot in one forward pass.
//
// MoLE's gates and Arrow's read the experts' outputs (or the hidden input) on the way; X-LoRA's are known
// before the pass starts, from a first pass.

#include <algorithm>
#include <array>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <mole/experts/mole_linear.hpp>
#include <mole/experts/plan.hpp>
#include <mole/experts/routers/xlora.hpp>
#include <mole/nn/slots.hpp>

namespace mole {

/// The state of one forward pass: the masks of its streams and the gates computed so far.
template <class T, class B>
struct MolePass {
  Tensor<T, B> encoder_mask;                                  ///< [S, L] of 0 and 1, or undefined: no padding
  Tensor<T, B> decoder_mask;                                  ///< [S, Lt], or undefined
  std::vector<std::optional<GateValue<T, B>>> gates;          ///< by gate number
  std::map<std::size_t, std::vector<Tensor<T, B>>> readings;  ///< h of each slot of a group that was read
  std::map<std::size_t, ChosenExperts<T, B>> used;            ///< by gate, what top-k left to each sequence
  bool bare = false;                                          ///< leave all experts out
  bool all_experts = false;                                   ///< the gates are not limited by top-k
};

/// What a pass decided at one gate, for losses and pictures.
template <class T, class B>
struct GateRecord {
  std::string name;
  GateValue<T, B> value;
  Tensor<T, B> row_mask;            ///< [S, L] for a token gate with padding, else undefined
  std::vector<Index> experts;       ///< the model's expert of each column
  Stream stream = Stream::encoder;  ///< whose tokens the rows of a token gate are
};

/// The experts and gates of a model.
template <class T, class B>
class Mixer {
 public:
  /// Plans gates for the slots of `table` (weights are read for their extents alone) and loads the experts,
  /// one slot after another: no more than one slot's factors are on the host at a time. Throws FormatError
  /// for an adapter of another base, ArgumentError for an empty list or as check_router does.
  Mixer(const SlotTable<T, B>& table, const std::vector<LoraSet>& sets, RouterOptions router)
      : router_(std::move(router)),
        policies_(policies_of(router_)),
        stacks_(table.slots.size()),
        blocks_(table.slots.size()) {
    const Index N = static_cast<Index>(sets.size());
    MOLE_CHECK_ARG(N > 0, "attach: the list of experts is empty; give at least one adapter");
    check_router(router_, N);
    for (const auto& set : sets) {
      table.check_layers(set);
      MOLE_CHECK_ARG(std::find(names_.begin(), names_.end(), set.name) == names_.end(),
                     "attach: two experts are named", set.name);
      names_.push_back(set.name);
      digests_.push_back(set.digest);
    }
    std::vector<std::vector<Index>> adapters(table.slots.size());
    for (std::size_t i = 0; i < sets.size(); ++i)
      for (const auto& name : sets[i].slots) adapters[table.find(name)].push_back(static_cast<Index>(i));
    auto plan = plan_gates(table, adapters, policies_);
    gates_ = std::move(plan.gates);
    gate_of_ = std::move(plan.gate_of);
    for (std::size_t slot = 0; slot < adapters.size(); ++slot) load(table, sets, slot, adapters[slot]);
    if (detail::has_gate_kernels<T, B> && comes_with_mixture()) gather_groups(table);
    std::visit([&](const auto& options) { make_gates(options, table); }, router_);
  }

  /// Which router this is, with its options.
  const RouterOptions& router() const { return router_; }
  /// The policies by which this router's gates are placed, whichever it is.
  const GateOptions& policies() const { return policies_; }
  /// The options of MoLE's gates. Throws ArgumentError for another router: it has no such gates.
  const GateOptions& options() const {
    MOLE_CHECK_ARG(std::holds_alternative<GateOptions>(router_), "mixer: these experts are routed by",
                   router_name(router_), "and have no MoLE gates; ask for router() or policies()");
    return policies_;
  }
  Index n_experts() const { return static_cast<Index>(names_.size()); }
  const std::vector<std::string>& names() const { return names_; }
  const std::vector<std::string>& digests() const { return digests_; }
  const std::vector<PlacedGate<T, B>>& gates() const { return gates_; }
  /// The experts of a slot; undefined tensors where none adapts it.
  const ExpertStack<T, B>& experts_at(std::size_t slot) const { return stacks_[slot]; }

  /// What trains: F and log_tau of every gate, in the order of gates(); X-LoRA's classifier; nothing of
  /// Arrow's.
  std::vector<Tensor<T, B>> parameters() const {
    if (classifier_) return classifier_->parameters();
    std::vector<Tensor<T, B>> list;
    for (const auto& placed : gates_)
      for (const auto& parameter : std::array{placed.gate.weight, placed.gate.log_tau})
        if (parameter.requires_grad()) list.push_back(parameter);
    return list;
  }

  /// Whether a first pass has to come before a pass; its last hidden state then goes to classify().
  bool two_passes() const { return classifier_.has_value(); }

  /// That first pass, for S sequences with the masks of `pass`: every expert at the same scaling.
  /// Throws ArgumentError unless two_passes(), as classify() does.
  MolePass<T, B> first_pass(Index S, const MolePass<T, B>& pass) const {
    MolePass<T, B> first;
    first.encoder_mask = pass.encoder_mask;
    first.decoder_mask = pass.decoder_mask;
    const auto& options = classifier().options();
    first.bare = options.first_pass == 0;
    first.all_experts = true;
    for (const auto& placed : gates_) {
      const auto all = Tensor<T, B>::full({S, placed.gate.n_experts()},
                                          static_cast<T>(options.first_pass * options.weight));
      first.gates.push_back(GateValue<T, B>{all, all});
    }
    return first;
  }

  /// Sets all gates of a pass by the first pass's last hidden state z [S, L, d] on the encoder's tokens; to
  /// be called before anything of the pass is read.
  void classify(const Tensor<T, B>& z, MolePass<T, B>& pass) const {
    const auto mean = classifier().logits(pool_tokens(z.detach(), pass.encoder_mask, Pooling::mean));
    const bool by_token = policies_.pooling == Pooling::token;
    const auto tokens = by_token ? classifier_->logits(z.detach()) : mean;
    pass.gates.resize(gates_.size());
    for (std::size_t i = 0; i < gates_.size(); ++i)
      pass.gates[i] = classifier_->gate(gates_[i].stream == Stream::decoder ? mean : tokens, i, mask_of(i));
  }

  /// The second inference mode: experts set to false get no weight, the rest are renormalised. The gates
  /// still read all experts.    Throws ArgumentError for a list of another length or without a single true.
  void set_mask(const std::vector<bool>& keep) {
    MOLE_CHECK_ARG(keep.size() == names_.size(), "set_mask: expected", names_.size(), "entries, got",
                   keep.size());
    MOLE_CHECK_ARG(std::find(keep.begin(), keep.end(), true) != keep.end(),
                   "set_mask: all experts are masked; leave at least one");
    keep_.clear();
    if (std::find(keep.begin(), keep.end(), false) == keep.end()) return;
    for (const auto& placed : gates_) {
      std::vector<T> row;
      for (const Index expert : placed.gate.experts)
        row.push_back(keep[static_cast<std::size_t>(expert)] ? T(1) : T(0));
      keep_.push_back(Tensor<T, B>::from({static_cast<Index>(row.size())}, row));
    }
  }

  /// Reads a group's input x [S, L, d_in]: the experts' h (for mean pooling, that of the mean), and every
  /// gate that has its source here. A decoder calls it for a block's cross-attention k, v before the block
  /// starts. Where no gate waits for the group, or it was read already, there is nothing to do.
  void read(const SlotTable<T, B>& table, std::size_t group, const Tensor<T, B>& x,
            MolePass<T, B>& pass) const {
    pass.gates.resize(gates_.size());
    if (pass.bare || two_passes() || comes_with_mixture()) return;
    for (std::size_t i = 0; i < gates_.size(); ++i) {
      const auto& placed = gates_[i];
      if (placed.source != group || pass.gates[i]) continue;
      const auto& slots = table.groups[group].slots;
      std::vector<Tensor<T, B>> inputs;
      for (std::size_t k = 0; k < slots.size(); ++k)
        if (std::find(placed.reads.begin(), placed.reads.end(), slots[k]) != placed.reads.end())
          detail::append_columns(inputs, reading(table, group, x, pass)[k], stacks_[slots[k]],
                                 placed.gate.experts);
      if (inputs.empty()) inputs.push_back(readable(table, group, x, pass));
      if (policies_.pooling != Pooling::mean)
        for (auto& input : inputs) input = pool(table, group, input, pass);
      pass.gates[i] = weigh(i, inputs.size() == 1 ? inputs.front() : concat(inputs, -1));
    }
  }

  /// The outputs of a group's slots for their input x [S, L, d_in], in the group's order.
  /// Throws ArgumentError if a slot's gate is not known yet.
  std::vector<Tensor<T, B>> outputs(const SlotTable<T, B>& table, std::size_t group, const Tensor<T, B>& x,
                                    MolePass<T, B>& pass) const {
    if (comes_with_mixture()) return gated(table, group, x, pass);
    read(table, group, x, pass);
    const auto& slots = table.groups[group].slots;
    std::vector<Tensor<T, B>> h;
    if (policies_.pooling != Pooling::mean) h = std::move(pass.readings[group]);
    pass.readings.erase(group);
    h.resize(slots.size());
    std::vector<Tensor<T, B>> result;
    for (std::size_t k = 0; k < slots.size(); ++k)
      result.push_back(pass.bare || !stacks_[slots[k]].A.defined() ? table.apply(slots[k], x)
                                                                   : mixed(table, slots[k], x, h[k], pass));
    return result;
  }

  /// Forgets the token gates of the decoder's stream: each decoding step has new ones.
  void next_step(MolePass<T, B>& pass) const {
    pass.readings.clear();
    for (std::size_t i = 0; i < pass.gates.size(); ++i)
      if (gates_[i].stream == Stream::decoder && by_token(pass.gates[i])) pass.gates[i].reset();
  }

  /// The gates a pass computed.
  std::vector<GateRecord<T, B>> records(const MolePass<T, B>& pass) const {
    std::vector<GateRecord<T, B>> list;
    for (std::size_t i = 0; i < pass.gates.size(); ++i) {
      if (!pass.gates[i]) continue;
      Tensor<T, B> mask;
      if (by_token(pass.gates[i]))
        mask = gates_[i].stream == Stream::decoder ? pass.decoder_mask : pass.encoder_mask;
      list.push_back({gates_[i].name, *pass.gates[i], mask, gates_[i].gate.experts, gates_[i].stream});
    }
    return list;
  }

 private:
  static bool by_token(const std::optional<GateValue<T, B>>& gate) {
    return gate && gate->weights.rank() == 3;
  }

  const XLora<T, B>& classifier() const {
    MOLE_CHECK_ARG(two_passes(), "mixer: these experts are routed by", router_name(router_),
                   "in a single pass");
    return *classifier_;
  }

  /// Whether each gate belongs to one slot and is made together with that slot's mixture.
  bool comes_with_mixture() const {
    return std::holds_alternative<GateOptions>(router_) && policies_.scope == Scope::matrix &&
           reads_own_tokens(policies_);
  }

  Tensor<T, B> mask_of(std::size_t gate) const { return keep_.empty() ? Tensor<T, B>() : keep_[gate]; }

  /// A gate's weights from what it reads.
  GateValue<T, B> weigh(std::size_t i, const Tensor<T, B>& v) const {
    const auto& gate = gates_[i].gate;
    if (const auto* arrow = std::get_if<ArrowOptions>(&router_))
      return arrow_weights(v, gate.weight, *arrow, mask_of(i));
    return gate_weights(gate, v, mask_of(i), policies_.top_k);
  }

  /// x as gates of a group's stream pool it.
  Tensor<T, B> pool(const SlotTable<T, B>& table, std::size_t group, const Tensor<T, B>& x,
                    const MolePass<T, B>& pass) const {
    const auto& mask = table.groups[group].stream == Stream::decoder ? pass.decoder_mask : pass.encoder_mask;
    return pool_tokens(x, mask, policies_.pooling, policies_.length);
  }

  /// What the experts read for the gates. The mean of h is the h of the mean, at a fraction of the cost.
  Tensor<T, B> readable(const SlotTable<T, B>& table, std::size_t group, const Tensor<T, B>& x,
                        const MolePass<T, B>& pass) const {
    return policies_.pooling == Pooling::mean ? pool(table, group, x, pass) : x;
  }

  /// h of the slots of a group for its gates; kept in the pass.
  const std::vector<Tensor<T, B>>& reading(const SlotTable<T, B>& table, std::size_t group,
                                           const Tensor<T, B>& x, MolePass<T, B>& pass) const {
    const auto [found, is_new] = pass.readings.try_emplace(group);
    if (!is_new) return found->second;
    const auto from = readable(table, group, x, pass);
    for (const std::size_t slot : table.groups[group].slots)
      found->second.push_back(stacks_[slot].A.defined() ? linear(from, stacks_[slot].A) : Tensor<T, B>());
    return found->second;
  }

  /// The outputs of a group whose gates come with its mixtures.
  std::vector<Tensor<T, B>> gated(const SlotTable<T, B>& table, std::size_t group, const Tensor<T, B>& x,
                                  MolePass<T, B>& pass) const {
    const auto& slots = table.groups[group].slots;
    pass.gates.resize(gates_.size());
    std::vector<GatedLayer<T, B>> layers;
    for (const std::size_t number : slots) {
      const auto& slot = table.slots[number];
      const auto& stack = stacks_[number];
      if (!stack.A.defined()) continue;
      const std::size_t i = gate_of_[number];
      const auto& own = gates_[i].gate;
      layers.push_back({slot.effective_weight(), slot.bias, stack.A, stack.Q, stack.column, own.weight,
                        own.log_tau, mask_of(i)});
    }
    const auto mixtures = gated_mixtures(x, layers);
    std::vector<Tensor<T, B>> result;
    auto next = mixtures.begin();
    for (const std::size_t number : slots) {
      if (!stacks_[number].A.defined()) {
        result.push_back(table.apply(number, x));
        continue;
      }
      pass.gates[gate_of_[number]] = GateValue<T, B>{next->g, next->g};
      result.push_back((next++)->y);
    }
    return result;
  }

  /// Lays the experts of each group's slots side by side, for gated_mixtures.
  void gather_groups(const SlotTable<T, B>& table) {
    for (const auto& group : table.groups) {
      std::vector<ExpertStack<T, B>*> stacks;
      for (const std::size_t number : group.slots)
        if (stacks_[number].A.defined()) stacks.push_back(&stacks_[number]);
      make_adjacent(stacks);
    }
  }

  /// The output of one adapted slot; h is undefined where no gate has read it.
  Tensor<T, B> mixed(const SlotTable<T, B>& table, std::size_t number, const Tensor<T, B>& x, Tensor<T, B> h,
                     MolePass<T, B>& pass) const {
    const auto& slot = table.slots[number];
    const auto& stack = stacks_[number];
    const std::size_t i = gate_of_[number];
    auto& gate = pass.gates[i];
    const auto& W = slot.effective_weight();
    if (blocks_[number].pay(x.size(0), x.size(1)) && gate && !by_token(gate) && !pass.all_experts)
      return mix_chosen(x, W, slot.bias, blocks_[number], chosen(i, pass));
    if (!h.defined()) h = linear(x, stack.A);
    MOLE_CHECK_ARG(gate.has_value(), "mixer: the gate of", slot.name, "has not been read yet in this pass");
    return mixture(x, W, slot.bias, h, gate->weights, stack.Q, stack.column);
  }

  /// What top-k left to each sequence at a gate; kept in the pass for as long as the gate is the same.
  const ChosenExperts<T, B>& chosen(std::size_t i, MolePass<T, B>& pass) const {
    const auto& weights = pass.gates[i]->weights;
    auto& found = pass.used[i];
    if (!found.all.defined() || found.all.node_pointer() != weights.node_pointer())
      found = choose_experts(weights, policies_.top_k);
    return found;
  }

  /// The experts of one slot, in the order of its gate.
  void load(const SlotTable<T, B>& table, const std::vector<LoraSet>& sets, std::size_t slot,
            const std::vector<Index>& experts) {
    if (experts.empty()) return;
    const auto& name = table.slots[slot].name;
    std::vector<std::pair<Index, LoraFactors>> parts;
    for (const Index expert : experts)
      parts.emplace_back(expert, table.fitting_factors(sets[static_cast<std::size_t>(expert)], name));
    const auto& placed = gates_[gate_of_[slot]];
    const auto& stack = stacks_[slot] = stack_experts<T, B>(parts, placed.gate.experts, name);
    // X-LoRA's token gates are one a sequence in the decoder.
    const bool by_sequence =
        policies_.pooling != Pooling::token ||
        (std::holds_alternative<XLoraOptions>(router_) && placed.stream == Stream::decoder);
    if (by_sequence && leaves_few(stack, policies_.top_k))
      blocks_[slot] = make_blocks(stack, placed.gate.n_experts(), policies_.top_k);
  }

  void make_gates(const GateOptions& options, const SlotTable<T, B>& table) {
    for (auto& placed : gates_) {
      Index features = 0;
      for (const std::size_t slot : placed.reads) {
        const auto& stack = stacks_[slot];
        for (std::size_t k = 0; k < stack.experts.size(); ++k)
          if (detail::holds(placed.gate.experts, stack.experts[k]))
            features += stack.ends[k] - (k ? stack.ends[k - 1] : 0);
      }
      if (placed.reads.empty())
        features = table.slots[table.groups[placed.source].slots.front()].weight.size(1);
      if (options.pooling == Pooling::flatten) features *= options.length;
      placed.gate = make_gate<T, B>(features, placed.gate.experts, options.temperature);
    }
  }

  void make_gates(const ArrowOptions&, const SlotTable<T, B>&) {
    for (auto& placed : gates_)
      placed.gate.weight = arrow_prototypes(stacks_[placed.reads.front()], placed.gate.n_experts());
  }

  void make_gates(const XLoraOptions& options, const SlotTable<T, B>& table) {
    std::vector<Index> n_experts;
    for (const auto& placed : gates_) n_experts.push_back(placed.gate.n_experts());
    // The first group reads the embedded tokens, which are as wide as the last hidden state.
    const Index d = table.slots[table.groups.front().slots.front()].weight.size(1);
    classifier_.emplace(options, d, n_experts);
  }

  RouterOptions router_;
  GateOptions policies_;
  std::vector<std::string> names_, digests_;
  std::vector<ExpertStack<T, B>> stacks_;
  std::vector<ExpertBlocks<T, B>> blocks_;  // where top-k leaves few
  std::vector<std::size_t> gate_of_;
  std::vector<PlacedGate<T, B>> gates_;
  std::optional<XLora<T, B>> classifier_;  // X-LoRA's alone
  std::vector<Tensor<T, B>> keep_;
};

/// A model's linear layers with what is attached to them: the one thing its blocks call.
template <class T, class B>
struct AdaptedLayers {
  SlotTable<T, B> table;
  std::optional<Mixer<T, B>> mixer;

  /// The outputs of a group's slots for their shared input x [S, L, d_in], in the group's order.
  std::vector<Tensor<T, B>> operator()(std::size_t group, const Tensor<T, B>& x, MolePass<T, B>& pass) const {
    if (mixer) return mixer->outputs(table, group, x, pass);
    std::vector<Tensor<T, B>> result;
    for (const std::size_t slot : table.groups[group].slots) result.push_back(table.apply(slot, x));
    return result;
  }
};

}  // namespace mole
