#pragma once
// The experts of a whole model and the router that weighs them: the gates of a pass, and the mixing of every
// adapted slot in one forward pass.
//
// Most routers weigh on the way, from what the experts make of an input. A router of two passes knows all its
// weights before the pass starts, from a first pass.

#include <algorithm>
#include <cstddef>
#include <functional>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <mole/experts/bank.hpp>
#include <mole/experts/gate_sets.hpp>
#include <mole/experts/gated_group.hpp>
#include <mole/experts/group_reader.hpp>
#include <mole/experts/known_group.hpp>
#include <mole/experts/narrow_read.hpp>
#include <mole/experts/paged_mixer.hpp>
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
  /// FormatError for an adapter of another base, NumericError, naming adapter and slot, for one whose factors are not
  /// finite, or are not once scaled, ArgumentError for an empty list or as check_router does, and what `check` throws.
  template <class O>
  Mixer(const SlotTable<T, B>& table, const std::vector<LoraSet>& sets, const O& options,
        const ShapeCheck& check = {}) {
    // Here, as a compiler shows the way to where it fails, and that is short here.
    if constexpr (!detail::is_variant<O>) static_assert(detail::check_router_parts<O, T, B>());
    plan_and_load(table, sets, options, check, [&](const auto& adapters, const auto& plan, bool) {
      return load_experts(table, sets, adapters, plan, placement_.top_k);
    });
  }
  /// The same with experts that are not all in memory. It takes gates of sequences with a top-k.
  /// Throws also ArgumentError for other gates, those made of the experts, slots without a gate and convolutions; and
  /// what reading the factors throws.
  template <class O>
  Mixer(const SlotTable<T, B>& table, const PagedExperts<T>& experts, const O& options,
        const ShapeCheck& check = {}) {
    if constexpr (!detail::is_variant<O>) static_assert(detail::check_router_parts<O, T, B>());
    plan_and_load(table, experts.sets, options, check,
                  [&](const auto& adapters, const auto& plan, bool made_of_experts) {
                    return detail::attach_paged(table, experts, adapters, plan, placement_, made_of_experts);
                  });
  }

  const AnyRouter<T, B>& router() const { return *sets_.own().router; }
  /// Where this router's gates stand.
  const GatePlacement& policies() const { return placement_; }
  Index n_experts() const { return bank_.size(); }
  const std::vector<std::string>& names() const { return bank_.names; }
  const std::vector<std::string>& digests() const { return bank_.digests; }
  const std::vector<PlacedGate<T, B>>& gates() const { return sets_.own().gates; }
  std::vector<PlacedGate<T, B>>& gates() { return sets_.own().gates; }
  /// The number of the gate that weighs a slot's experts; GatePlan::outside where their weights are fixed, and of no
  /// meaning where none adapts the slot.
  std::size_t gate_of(std::size_t slot) const { return gate_of_[slot]; }
  /// The experts of a slot; undefined tensors where none adapts it.
  const ExpertStack<T, B>& experts_at(std::size_t slot) const { return bank_.stacks[slot]; }

  /// The pages of experts that are not all in memory; nullptr where they are.
  const ExpertPages<T, B>* pages() const { return bank_.paging ? &bank_.paging->pages() : nullptr; }

  /// What the router keeps and files save, in this order; `stored` has their names and shapes.
  std::vector<Tensor<T, B>> tensors() const { return router().tensors(); }
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
    const auto scales = router().scales();
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
                two_passes() ? "the classifier" : gates()[i].name);
    unmeasured_ = false;
  }
  /// To be called once the router's tensors, its scales among them, were assigned from elsewhere, such as a file.
  void take_scales() { unmeasured_ = false; }

  /// Whether a first pass has to come before a pass; its last hidden state then goes to classify().
  bool two_passes() const { return router().two_passes(); }

  /// That first pass, for S sequences with the masks of `pass`: every expert at the same weight.
  /// Throws ArgumentError unless two_passes(), as classify() does.
  MolePass<T, B> first_pass(Index S, const MolePass<T, B>& pass) const {
    const double weight = router().first_pass();
    MolePass<T, B> first;
    first.masks = pass.masks;
    first.bare = weight == 0;
    first.all_experts = true;
    for (const auto& placed : gates()) {
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
               detail::counted_rows(mask.real, by_token), router().reads_unit_rows());
    }
    sets_.classify(z, read, pass);
  }

  /// The second inference mode: experts set to false get no weight, the rest are renormalised. The gates
  /// still read all experts. It holds for every set of gates.    Throws ArgumentError for a list of another length or
  /// without a single true.
  void set_mask(const std::vector<bool>& keep) { sets_.set_mask(keep); }

  /// A set of gates like the model's own, of the same router and options, for add_set(); a file fills it (add_gates).
  GateSet<T, B> new_set(const SlotTable<T, B>& table, const std::string& name) const {
    return sets_.like_own(name, bank_, table);
  }
  /// Adds a set for requests to choose (MolePass::sets), or takes it in place of the one of its name.
  void add_set(GateSet<T, B> set) { sets_.add(std::move(set)); }
  /// The number of a set, for MolePass::sets.    Throws ArgumentError, naming those that there are.
  Index gate_set(const std::string& name) const { return sets_.find(name); }

  /// Puts an adapter in the place of expert number `expert`, between two passes. The gates stay as they are; files of
  /// gates that are saved from now on name the new adapter.    Throws as replace_expert() does; ArgumentError where
  /// the gates are made of the experts, as Arrow's are.
  void replace(const SlotTable<T, B>& table, std::size_t expert, const LoraSet& set) {
    MOLE_CHECK_ARG(!router().made_of_experts(), "replace: the gates of", router().name(),
                   "are made of the experts; attach the experts anew");
    if (bank_.paging)
      bank_.paging->replace(table, bank_, expert, set);
    else
      replace_expert(table, bank_, expert, set);
    if constexpr (std::is_same_v<T, Compute<T>>)
      for (auto& placed : gates())
        if (placed.L.defined())
          detail::measure_layers(detail::read_layers(table, placed, bank_.stacks), placed);
  }

  /// Reads a group's input x [S, L, d_in]: the experts' h (for mean pooling, that of the mean), and every
  /// gate that has its source here. A decoder calls it for a block's cross-attention k, v before the block
  /// starts. Where no gate waits for the group, or it was read already, there is nothing to do.
  void read(const SlotTable<T, B>& table, std::size_t group, const Tensor<T, B>& x,
            MolePass<T, B>& pass) const {
    pass.gates.resize(gates().size());
    if (pass.all_fixed() && !pass.bare) sets_.take_weights(pass);
    if (pass.bare || two_passes() || made_together(table, group, pass)) return;
    for (std::size_t i = 0; i < gates().size(); ++i) {
      const auto& placed = gates()[i];
      if (placed.source != group || pass.gates[i]) continue;
      const detail::GroupReader<T, B> reader{table, bank_, placement_, group, pass};
      if constexpr (std::is_same_v<T, Compute<T>>)
        if (pass.sets.empty() && !pass.measured && detail::narrow_pays(placed, x.size(0))) {
          const auto narrow = detail::narrow_gate(table, bank_.stacks, placed);
          const auto read = matmul(reader.pool(x), placed.L);
          pass.gates[i] = router().weigh(narrow, read, sets_.mask_of(i, pass));
          continue;
        }
      const auto v = reader.input(placed, x);
      check_measured(pass);
      if (!pass.measured) {
        pass.gates[i] = sets_.weigh(i, v, pass);
        continue;
      }
      const bool by_token = placement_.pooling == Pooling::token;
      add_rows(pass.measured->inputs[i], v, detail::counted_rows(reader.counted(), by_token),
               router().reads_unit_rows());
      const Index N = placed.gate.n_experts();
      const auto uniform =
          Tensor<T, B>::full(v.shape().with(-1, N), static_cast<T>(1.0 / static_cast<double>(N)));
      pass.gates[i] = GateValue<T, B>{uniform, uniform};
    }
  }

  /// The outputs of a group's slots for their input x [S, L, d_in], or [S, H, W, C] of a spatial one, in the
  /// group's order; early as in AdaptedLayers.    Throws ArgumentError if a slot's gate is not known yet.
  std::vector<Tensor<T, B>> outputs(const SlotTable<T, B>& table, std::size_t group, const Tensor<T, B>& x,
                                    MolePass<T, B>& pass, bool early = false) const {
    if (made_together(table, group, pass)) {
      check_measured(pass);
      return detail::gated_outputs(table, bank_, table.groups[group].slots, gate_of_, sets_, x, pass);
    }
    read(table, group, x, pass);
    const auto& slots = table.groups[group].slots;
    std::vector<Tensor<T, B>> h;
    if (placement_.pooling != Pooling::mean) h = std::move(pass.reading(group));
    pass.reading(group).clear();
    h.resize(slots.size());
    if constexpr (detail::has_row_layers<T, B>)
      if (auto made = known_outputs(table, slots, x, h, pass, early); !made.empty()) return made;
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
      if (gates()[i].stream == stream && gates()[i].by_token) pass.gates[i].reset();
  }

  /// The gates a pass computed.
  std::vector<GateRecord<T, B>> records(const MolePass<T, B>& pass) const {
    std::vector<GateRecord<T, B>> list;
    for (std::size_t i = 0; i < pass.gates.size(); ++i) {
      if (!pass.gates[i]) continue;
      const auto& placed = gates()[i];
      const bool rows = placed.by_token && !pass.all_fixed();
      const auto mask = rows ? pass.mask(placed.stream).real : Tensor<T, B>();
      list.push_back({placed.name, *pass.gates[i], mask, placed.gate.experts, placed.tokens});
    }
    return list;
  }

 private:
  /// Plans the gates, loads the experts by load(adapters, plan, whether the gates are made of the experts), and makes the
  /// router.
  template <class O, class Load>
  void plan_and_load(const SlotTable<T, B>& table, const std::vector<LoraSet>& sets, const O& options,
                     const ShapeCheck& check, Load load) {
    MOLE_CHECK_ARG(!sets.empty(), "attach: the list of experts is empty; give at least one adapter");
    check_router(options, static_cast<Index>(sets.size()));
    const auto adapters = adapted_slots(table, sets);
    detail::with_options(options,
                         [&](const auto& chosen) { this->make(chosen, table, adapters, check, load); });
  }

  template <class O, class Load>
  void make(const O& options, const SlotTable<T, B>& table, const std::vector<std::vector<Index>>& adapters,
            const ShapeCheck& check, Load& load) {
    using R = typename O::template Router<T, B>;
    placement_ = options.placement();
    auto plan = plan_gates(table, adapters, placement_, detail::has_two_passes<R>);
    bank_ = load(adapters, plan, detail::made_of_experts<R>);
    gate_of_ = std::move(plan.gate_of);
    GateSet<T, B> own{"", {}, std::move(plan.gates)};
    const RouterSite<T, B> site{own.gates, bank_, table};
    stored_ = R::shapes(options, site);
    if (check) check(stored_);
    own.router.reset(new detail::RouterOf<O, T, B>(options, site));
    if constexpr (std::is_same_v<T, Compute<T>>)
      for (auto& placed : own.gates)
        if (placement_.pooling == Pooling::mean) detail::make_narrow(table, bank_.stacks, placed);
    unmeasured_ = !own.router->scales().empty();
    sets_ = GateSets<T, B>(std::move(own), n_experts(), placement_.outside);
    if (detail::has_gate_kernels<T, B> && comes_with_mixture()) gather_groups(table, bank_);
  }

  /// Whether each gate belongs to one slot and is made together with that slot's mixture.
  bool comes_with_mixture() const { return router().comes_with_mixture(); }

  /// The same for a group in this pass. A convolution's gate stands by itself, one that is measured is read by itself,
  /// so are gates of several sets, and given weights need no gate.
  bool made_together(const SlotTable<T, B>& table, std::size_t group, const MolePass<T, B>& pass) const {
    return comes_with_mixture() && !pass.measured && !pass.all_fixed() && pass.sets.empty() &&
           !table.slots[table.groups[group].slots.front()].is_spatial();
  }

  void check_measured(const MolePass<T, B>& pass) const {
    MOLE_CHECK_ARG(
        !unmeasured_ || pass.measured,
        "mixer: the scale of what the gates read has not been measured; call standardise_gates(batches) "
        "before they are used, or load saved gates");
  }

  /// The outputs of slots by mixtures_off_tape(), h as for mixed(); nothing where they go one by one.
  std::vector<Tensor<T, B>> known_outputs(const SlotTable<T, B>& table, const std::vector<std::size_t>& slots,
                                          const Tensor<T, B>& x, const std::vector<Tensor<T, B>>& h,
                                          const MolePass<T, B>& pass, bool early) const {
    if (pass.bare) return detail::bare_outputs(table, slots, x, early);
    if (bank_.paging) return {};
    std::vector<KnownMixture<T, B>> layers;
    for (std::size_t k = 0; k < slots.size(); ++k) {
      const std::size_t number = slots[k], i = gate_of_[number];
      auto layer = detail::known_layer(table.slots[number]);
      if (!layer) return {};
      if (bank_.adapts(number)) {
        const bool few =
            !pass.all_experts && !pass.any_fixed() && detail::SlotMixer<T, B>{table, bank_, number}.pays(x);
        if (i == GatePlan<T, B>::outside || !pass.gates[i] || h[k].defined() || few) return {};
        const auto& stack = bank_.stacks[number];
        layer->A = stack.A, layer->Q = stack.Q, layer->column = stack.column;
        layer->g = pass.gates[i]->weights;
      }
      layers.push_back(std::move(*layer));
    }
    return mixtures_off_tape(x, layers, early);
  }

  /// The output of one adapted slot; h is undefined where no gate has read it.
  Tensor<T, B> mixed(const SlotTable<T, B>& table, std::size_t number, const Tensor<T, B>& x, Tensor<T, B> h,
                     MolePass<T, B>& pass) const {
    const detail::SlotMixer<T, B> mix{table, bank_, number};
    const std::size_t i = gate_of_[number];
    if (i == GatePlan<T, B>::outside) {
      if (placement_.outside == OutsideWeight::off && !pass.any_fixed()) return table.apply(number, x);
      return mix(x, {}, sets_.outside_weights(pass, x.size(0)));
    }
    const auto& gate = pass.gates[i];
    MOLE_CHECK_ARG(gate.has_value(), "mixer: the gate of", table.slots[number].name,
                   "has not been read yet in this pass");
    if (bank_.paging) return bank_.paging->mixed(table, bank_, number, gate_of_, gates(), x, pass);
    if (mix.pays(x) && !pass.all_experts && !pass.any_fixed()) return mix(x, chosen(i, pass));
    return mix(x, std::move(h), gate->weights);
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
  std::vector<NamedShape> stored_;
  GateSets<T, B> sets_;
  bool unmeasured_ = false;  ///< whether what the gates read has to be measured first
};

}  // namespace mole
