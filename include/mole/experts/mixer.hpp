#pragma once
// The experts of a whole model and the router that weighs them: the gates of a pass, and the mixing of every
// adapted slot in one forward pass.
//
// Most routers weigh on the way, from what the experts make of an input. A router of two passes knows all its
// weights before the pass starts, from a first pass.

#include <algorithm>
#include <cstddef>
#include <functional>
#include <iterator>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <mole/experts/bank.hpp>
#include <mole/experts/group_reader.hpp>
#include <mole/experts/ops/gated_mixture.hpp>
#include <mole/experts/pass.hpp>
#include <mole/experts/plan.hpp>
#include <mole/experts/routers/router.hpp>
#include <mole/experts/slot_mixer.hpp>

namespace mole {

/// Looks at what a router will keep before any of it is made; throws where it should not be.
using ShapeCheck = std::function<void(const std::vector<NamedShape>&)>;

/// The experts and gates of a model.
template <class T, class B>
class Mixer {
 public:
  /// Plans gates for the slots of `table` (of their weights only the shapes matter) and loads the experts. Throws
  /// FormatError for an adapter of another base, ArgumentError for an empty list or as check_router does, and
  /// what `check` throws.
  template <class O>
  Mixer(const SlotTable<T, B>& table, const std::vector<LoraSet>& sets, const O& options,
        const ShapeCheck& check = {}) {
    // Here, as a compiler shows the way to where it fails, and that is short here.
    if constexpr (!detail::is_variant<O>) static_assert(detail::check_router_parts<O, T, B>());
    MOLE_CHECK_ARG(!sets.empty(), "attach: the list of experts is empty; give at least one adapter");
    check_router(options, static_cast<Index>(sets.size()));
    const auto adapters = adapted_slots(table, sets);
    detail::with_options(options,
                         [&](const auto& chosen) { this->make(chosen, table, sets, adapters, check); });
  }

  const AnyRouter<T, B>& router() const { return *router_; }
  /// Where this router's gates stand.
  const GatePlacement& policies() const { return placement_; }
  Index n_experts() const { return bank_.size(); }
  const std::vector<std::string>& names() const { return bank_.names; }
  const std::vector<std::string>& digests() const { return bank_.digests; }
  const std::vector<PlacedGate<T, B>>& gates() const { return gates_; }
  std::vector<PlacedGate<T, B>>& gates() { return gates_; }
  /// The number of the gate that weighs a slot's experts; GatePlan::outside where their weights are fixed, and of no
  /// meaning where none adapts the slot.
  std::size_t gate_of(std::size_t slot) const { return gate_of_[slot]; }
  /// The experts of a slot; undefined tensors where none adapts it.
  const ExpertStack<T, B>& experts_at(std::size_t slot) const { return bank_.stacks[slot]; }

  /// What the router keeps and files save, in this order; `stored` has their names and shapes.
  std::vector<Tensor<T, B>> tensors() const { return router_->tensors(); }
  const std::vector<NamedShape>& stored() const { return stored_; }
  /// What trains: those of them that ask for a gradient.
  std::vector<Tensor<T, B>> parameters() const {
    std::vector<Tensor<T, B>> list;
    for (auto& tensor : tensors())
      if (tensor.requires_grad()) list.push_back(tensor);
    return list;
  }

  /// Whether the gates can be used: where what they read is scaled, that has been measured.
  bool is_measured() const { return !unmeasured_; }

  /// Measures what the gates read over some batches, with every expert of a gate at the same weight, and freezes
  /// that as the scale of their input: run(batch, pass) runs the model on a batch. Padded tokens do not count; a
  /// gate that reads all tokens of a sequence (flatten) has its zeros there, as ever. Masks and top-k do not matter.
  /// Throws ArgumentError where the gates read their input as it is (InputScale::unit), and for fewer than two
  /// rows at a gate; NumericError for rows that are not finite.
  template <class Batches, class Run>
  void standardise(const Batches& batches, Run run) {
    const auto scales = router_->scales();
    MOLE_CHECK_ARG(!scales.empty(),
                   "standardise_gates: these gates read their input as it is; attach them with "
                   "an input scale (GateOptions::input_scale), standardised or common");
    GateMeasurement measured{std::vector<FeatureMoments>(scales.size())};
    const NoGrad off;
    for (const auto& batch : batches) {
      MolePass<T, B> pass;
      pass.measured = &measured;
      pass.all_experts = true;
      run(batch, pass);
    }
    for (std::size_t i = 0; i < scales.size(); ++i)
      set_scale(scales[i], measured.inputs[i], placement_.input_scale,
                two_passes() ? "the classifier" : gates_[i].name);
    unmeasured_ = false;
  }
  /// To be called once the router's tensors, its scales among them, were assigned from elsewhere, such as a file.
  void take_scales() { unmeasured_ = false; }

  /// Whether a first pass has to come before a pass; its last hidden state then goes to classify().
  bool two_passes() const { return router_->two_passes(); }

  /// That first pass, for S sequences with the masks of `pass`: every expert at the same weight.
  /// Throws ArgumentError unless two_passes(), as classify() does.
  MolePass<T, B> first_pass(Index S, const MolePass<T, B>& pass) const {
    const double weight = router_->first_pass();
    MolePass<T, B> first;
    first.masks = pass.masks;
    first.bare = weight == 0;
    first.all_experts = true;
    for (const auto& placed : gates_) {
      const auto all = Tensor<T, B>::full({S, placed.gate.n_experts()}, static_cast<T>(weight));
      first.gates.push_back(GateValue<T, B>{all, all});
    }
    return first;
  }

  /// Sets all gates of a pass by the first pass's last hidden state z [S, L, d] on the tokens of `stream`; to
  /// be called before anything of the pass is read.
  void classify(const Tensor<T, B>& z, std::size_t stream, MolePass<T, B>& pass) const {
    check_measured(pass);
    const auto mask = pass.mask(stream);
    // A decoder-only model's sequence gates must not see its answer.
    const auto& read = mask.prompt.defined() ? mask.prompt : mask.real;
    if (pass.measured) {
      const bool by_token = placement_.pooling == Pooling::token;
      add_rows(pass.measured->inputs.front(), by_token ? z : pool_tokens(z, read, Pooling::mean),
               detail::counted_rows(mask.real, by_token), router_->reads_unit_rows());
    }
    std::vector<Tensor<T, B>> keep;
    for (std::size_t i = 0; i < gates_.size(); ++i) keep.push_back(mask_of(i, pass));
    auto values = router_->classify(z, read, gates_, keep);
    pass.gates.assign(std::make_move_iterator(values.begin()), std::make_move_iterator(values.end()));
  }

  /// The second inference mode: experts set to false get no weight, the rest are renormalised. The gates
  /// still read all experts.    Throws ArgumentError for a list of another length or without a single true.
  void set_mask(const std::vector<bool>& keep) {
    MOLE_CHECK_ARG(static_cast<Index>(keep.size()) == n_experts(), "set_mask: expected", n_experts(),
                   "entries, got", keep.size());
    MOLE_CHECK_ARG(std::find(keep.begin(), keep.end(), true) != keep.end(),
                   "set_mask: all experts are masked; leave at least one");
    keep_.clear();
    weigh_outside(keep);
    if (std::find(keep.begin(), keep.end(), false) == keep.end()) return;
    for (const auto& placed : gates_) {
      std::vector<T> row;
      for (const Index expert : placed.gate.experts)
        row.push_back(keep[static_cast<std::size_t>(expert)] ? T(1) : T(0));
      keep_.push_back(Tensor<T, B>::from({static_cast<Index>(row.size())}, row));
    }
  }

  /// Puts an adapter in the place of expert number `expert`, between two passes. The gates stay as they are; files of
  /// gates that are saved from now on name the new adapter.    Throws as replace_expert() does; ArgumentError where
  /// the gates are made of the experts, as Arrow's are.
  void replace(const SlotTable<T, B>& table, std::size_t expert, const LoraSet& set) {
    MOLE_CHECK_ARG(!router_->made_of_experts(), "replace: the gates of", router_->name(),
                   "are made of the experts; attach the experts anew");
    replace_expert(table, bank_, expert, set);
  }

  /// Reads a group's input x [S, L, d_in]: the experts' h (for mean pooling, that of the mean), and every
  /// gate that has its source here. A decoder calls it for a block's cross-attention k, v before the block
  /// starts. Where no gate waits for the group, or it was read already, there is nothing to do.
  void read(const SlotTable<T, B>& table, std::size_t group, const Tensor<T, B>& x,
            MolePass<T, B>& pass) const {
    pass.gates.resize(gates_.size());
    if (pass.weights.defined() && !pass.bare) take_weights(pass);
    if (pass.bare || two_passes() || made_together(table, group, pass)) return;
    for (std::size_t i = 0; i < gates_.size(); ++i) {
      const auto& placed = gates_[i];
      if (placed.source != group || pass.gates[i]) continue;
      const detail::GroupReader<T, B> reader{table, bank_, placement_, group, pass};
      const auto v = reader.input(placed, x);
      check_measured(pass);
      if (!pass.measured) {
        pass.gates[i] = router_->weigh(placed, v, mask_of(i, pass));
        continue;
      }
      const bool by_token = placement_.pooling == Pooling::token;
      add_rows(pass.measured->inputs[i], v, detail::counted_rows(reader.counted(), by_token),
               router_->reads_unit_rows());
      const Index N = placed.gate.n_experts();
      const auto uniform =
          Tensor<T, B>::full(v.shape().with(-1, N), static_cast<T>(1.0 / static_cast<double>(N)));
      pass.gates[i] = GateValue<T, B>{uniform, uniform};
    }
  }

  /// The outputs of a group's slots for their input x [S, L, d_in], or [S, H, W, C] of a spatial one, in the
  /// group's order.    Throws ArgumentError if a slot's gate is not known yet.
  std::vector<Tensor<T, B>> outputs(const SlotTable<T, B>& table, std::size_t group, const Tensor<T, B>& x,
                                    MolePass<T, B>& pass) const {
    if (made_together(table, group, pass)) return gated(table, group, x, pass);
    read(table, group, x, pass);
    const auto& slots = table.groups[group].slots;
    std::vector<Tensor<T, B>> h;
    if (placement_.pooling != Pooling::mean) h = std::move(pass.readings[group]);
    pass.readings.erase(group);
    h.resize(slots.size());
    std::vector<Tensor<T, B>> result;
    for (std::size_t k = 0; k < slots.size(); ++k)
      result.push_back(pass.bare || !bank_.adapts(slots[k]) ? table.apply(slots[k], x)
                                                            : mixed(table, slots[k], x, h[k], pass));
    return result;
  }

  /// Forgets the token gates of a stream that grows: each decoding step has new ones.
  void next_step(std::size_t stream, MolePass<T, B>& pass) const {
    pass.readings.clear();
    for (std::size_t i = 0; i < pass.gates.size(); ++i)
      if (gates_[i].stream == stream && gates_[i].by_token) pass.gates[i].reset();
  }

  /// The gates a pass computed.
  std::vector<GateRecord<T, B>> records(const MolePass<T, B>& pass) const {
    std::vector<GateRecord<T, B>> list;
    for (std::size_t i = 0; i < pass.gates.size(); ++i) {
      if (!pass.gates[i]) continue;
      const auto& placed = gates_[i];
      const bool rows = placed.by_token && !pass.weights.defined();
      const auto mask = rows ? pass.mask(placed.stream).real : Tensor<T, B>();
      list.push_back({placed.name, *pass.gates[i], mask, placed.gate.experts, placed.tokens});
    }
    return list;
  }

 private:
  template <class O>
  void make(const O& options, const SlotTable<T, B>& table, const std::vector<LoraSet>& sets,
            const std::vector<std::vector<Index>>& adapters, const ShapeCheck& check) {
    using R = typename O::template Router<T, B>;
    placement_ = options.placement();
    auto plan = plan_gates(table, adapters, placement_, detail::has_two_passes<R>);
    bank_ = load_experts(table, sets, adapters, plan, placement_.top_k);
    gates_ = std::move(plan.gates);
    gate_of_ = std::move(plan.gate_of);
    const RouterSite<T, B> site{gates_, bank_, table};
    weigh_outside(std::vector<bool>(sets.size(), true));
    stored_ = R::shapes(options, site);
    if (check) check(stored_);
    router_.reset(new detail::RouterOf<O, T, B>(options, site));
    unmeasured_ = !router_->scales().empty();
    if (detail::has_gate_kernels<T, B> && comes_with_mixture()) gather_groups(table, bank_);
  }

  /// Whether each gate belongs to one slot and is made together with that slot's mixture.
  bool comes_with_mixture() const { return router_->comes_with_mixture(); }

  /// The same for a group in this pass. A convolution's gate stands by itself, one that is measured is read by itself,
  /// and given weights need no gate.
  bool made_together(const SlotTable<T, B>& table, std::size_t group, const MolePass<T, B>& pass) const {
    return comes_with_mixture() && !pass.measured && !pass.weights.defined() &&
           !table.slots[table.groups[group].slots.front()].is_spatial();
  }

  void check_measured(const MolePass<T, B>& pass) const {
    MOLE_CHECK_ARG(
        !unmeasured_ || pass.measured,
        "mixer: the scale of what the gates read has not been measured; call standardise_gates(batches) "
        "before they are used, or load saved gates");
  }

  /// Gives every gate of a pass its columns of the weights that it was given.
  void take_weights(MolePass<T, B>& pass) const {
    const auto& given = pass.weights;
    MOLE_CHECK_SHAPE(given.rank() == 2 && given.size(1) == n_experts(),
                     "mixer: expected a pass's weights [S,", n_experts(), "], got", given.shape());
    for (std::size_t i = 0; i < gates_.size(); ++i) {
      if (pass.gates[i]) continue;
      const auto& experts = gates_[i].gate.experts;
      auto own = given;
      if (static_cast<Index>(experts.size()) != n_experts()) {
        std::vector<Index> columns;
        for (Index s = 0; s < given.size(0); ++s)
          columns.insert(columns.end(), experts.begin(), experts.end());
        own =
            take(given, Tensor<Index, B>::from({given.size(0), static_cast<Index>(experts.size())}, columns));
      }
      pass.gates[i] = GateValue<T, B>{own, own};
    }
  }

  Tensor<T, B> mask_of(std::size_t gate, const MolePass<T, B>& pass) const {
    return pass.keep.defined() ? pass.keep : keep_.empty() ? Tensor<T, B>() : keep_[gate];
  }

  /// The outputs of a group whose gates come with its mixtures.
  std::vector<Tensor<T, B>> gated(const SlotTable<T, B>& table, std::size_t group, const Tensor<T, B>& x,
                                  MolePass<T, B>& pass) const {
    const auto& slots = table.groups[group].slots;
    pass.gates.resize(gates_.size());
    check_measured(pass);
    std::vector<GatedLayer<T, B>> layers;
    for (const std::size_t number : slots) {
      if (!bank_.adapts(number)) continue;
      const auto& slot = table.slots[number];
      const auto& stack = bank_.stacks[number];
      const std::size_t i = gate_of_[number];
      const auto& own = gates_[i].gate;
      layers.push_back({slot.product(), slot.bias, stack.A, stack.Q, stack.column, own.weight, own.log_tau,
                        mask_of(i, pass), own.scale});
    }
    const auto mixtures = gated_mixtures(x, layers);
    std::vector<Tensor<T, B>> result;
    auto next = mixtures.begin();
    for (const std::size_t number : slots) {
      if (!bank_.adapts(number)) {
        result.push_back(table.apply(number, x));
        continue;
      }
      pass.gates[gate_of_[number]] = GateValue<T, B>{next->g, next->g};
      result.push_back((next++)->y);
    }
    return result;
  }

  /// The output of one adapted slot; h is undefined where no gate has read it.
  Tensor<T, B> mixed(const SlotTable<T, B>& table, std::size_t number, const Tensor<T, B>& x, Tensor<T, B> h,
                     MolePass<T, B>& pass) const {
    const detail::SlotMixer<T, B> mix{table, bank_, number};
    const std::size_t i = gate_of_[number];
    if (i == GatePlan<T, B>::outside) {
      if (pass.weights.defined()) return mix(x, {}, pass.weights);
      if (placement_.outside == OutsideWeight::off) return table.apply(number, x);
      return mix(x, {}, add(Tensor<T, B>::zeros({x.size(0), n_experts()}), outside_));
    }
    const auto& gate = pass.gates[i];
    MOLE_CHECK_ARG(gate.has_value(), "mixer: the gate of", table.slots[number].name,
                   "has not been read yet in this pass");
    if (mix.pays(x) && !pass.all_experts && !pass.weights.defined()) return mix(x, chosen(i, pass));
    return mix(x, std::move(h), gate->weights);
  }

  /// The experts' weights at slots outside every scope. Masked experts have none, and the rest share it.
  void weigh_outside(const std::vector<bool>& keep) {
    const double kept = static_cast<double>(std::count(keep.begin(), keep.end(), true));
    std::vector<T> weights;
    for (const bool one : keep)
      weights.push_back(static_cast<T>(!one ? 0 : placement_.outside == OutsideWeight::mean ? 1 / kept : 1));
    outside_ = Tensor<T, B>::from({static_cast<Index>(weights.size())}, weights);
  }

  /// What top-k left to each sequence at a gate; kept in the pass for as long as the gate is the same.
  const ChosenExperts<T, B>& chosen(std::size_t i, MolePass<T, B>& pass) const {
    const auto& weights = pass.gates[i]->weights;
    auto& found = pass.used[i];
    if (!found.all.defined() || found.all.node_pointer() != weights.node_pointer())
      found = choose_experts(weights, placement_.top_k);
    return found;
  }

  GatePlacement placement_;
  ExpertBank<T, B> bank_;
  std::vector<std::size_t> gate_of_;
  std::vector<PlacedGate<T, B>> gates_;
  std::shared_ptr<const AnyRouter<T, B>> router_;
  std::vector<NamedShape> stored_;
  std::vector<Tensor<T, B>> keep_;
  bool unmeasured_ = false;  ///< whether what the gates read has to be measured first
  Tensor<T, B> outside_;     ///< [N], the experts' weights at slots outside every scope
};

}  // namespace mole
