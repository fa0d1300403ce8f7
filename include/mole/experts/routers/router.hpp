#pragma once
// What a router is. Each is one file of this folder: its options, and a class template that weighs the experts.
// registry.hpp lists them; all else (mixer, files, programs) asks the list.
//
// A router's options are a struct O with
//   O::name                                 how files and programs call it
//   O::names                                every name that router_named() takes for it
//   O::Router<T, B>                         its class
//   O::with(called, placement, temperature) options of its own with these policies
//   o.placement()                           where its gates stand
//   o.check()                               throws ArgumentError for options that do not fit together
//   O::fields(o, f)                         f(key, field) for each option that a file keeps; f(key, field, v)
//                                           for one that gates files before version v may lack
// and its class R = O::Router<T, B> has
//   R(options, site)                        makes what it keeps, for the gates of a model
//   R::shapes(options, site)                names and shapes of that, before any of it is made
//   r.options(), r.tensors()                what a file keeps, in that order; what asks for a gradient trains
//   r.weigh(placed, v, keep)                a gate's weights from what it reads
// or, in place of weigh, if its weights come from a first pass over the model (R::two_passes is true)
//   r.first_pass()                          every expert's weight in that pass; 0: the bare model
//   r.classify(z, mask, gates, keep)        all gates' weights from its last hidden state z [S, L, d]
// A router may also have
//   o.check_shares()                        throws ArgumentError where its weights are no shares of one
//   r.comes_with_mixture()                  whether gate and mixture are made together (gated_mixture)

#include <concepts>
#include <string>
#include <string_view>
#include <vector>

#include <mole/experts/bank.hpp>
#include <mole/experts/plan.hpp>

namespace mole {

/// A tensor that a router keeps, by the name that files give it.
struct NamedShape {
  std::string name;
  Shape shape;
};

/// The model that a router is made for: its gates, experts and linear layers.
template <class T, class B>
struct RouterSite {
  std::vector<PlacedGate<T, B>>& gates;
  const ExpertBank<T, B>& bank;
  const SlotTable<T, B>& table;

  /// The width of what a gate reads at one token: the ranks of its experts in its entry group, or its input.
  Index features(const PlacedGate<T, B>& placed) const {
    if (placed.reads.empty()) return table.slots[table.groups[placed.source].slots.front()].shape[1];
    Index ranks = 0;
    for (const std::size_t slot : placed.reads) {
      const auto& stack = bank.stacks[slot];
      for (std::size_t k = 0; k < stack.experts.size(); ++k)
        if (detail::holds(placed.gate.experts, stack.experts[k]))
          ranks += stack.ends[k] - (k ? stack.ends[k - 1] : 0);
    }
    return ranks;
  }
};

namespace detail {

/// Stands for any function of a key and a field.
struct AnyField {
  template <class Field>
  void operator()(const char*, Field&, int = 1) const {}
};

template <class R>
inline constexpr bool has_two_passes = requires {
  requires R::two_passes;
};

/// Stops the compiler, naming the part, at a router that lacks one.
template <class O, class T, class B>
constexpr bool check_router_parts() {
  using R = typename O::template Router<T, B>;
  static_assert(
      requires {
        { O::name } -> std::convertible_to<const char*>;
        O::names.begin();
      },
      "a router needs name and names");
  static_assert(
      requires(std::string_view called, const GatePlacement& placement) {
        { O::with(called, placement, 1.0) } -> std::same_as<O>;
      },
      "a router needs with(called, placement, temperature), which makes its options");
  static_assert(
      requires(const O& o) {
        { o.placement() } -> std::same_as<GatePlacement>;
      },
      "a router needs placement(), where its gates stand");
  static_assert(
      requires(const O& o) { o.check(); }, "a router needs check(), which refuses bad options");
  static_assert(
      requires(O & o, const O& c) { O::fields(o, AnyField{}), O::fields(c, AnyField{}); },
      "a router needs fields(options, f), the options that files keep");
  static_assert(std::constructible_from<R, const O&, const RouterSite<T, B>&>,
                "a router needs a constructor from its options and a RouterSite");
  static_assert(
      requires(const O& o, const RouterSite<T, B>& site) {
        { R::shapes(o, site) } -> std::same_as<std::vector<NamedShape>>;
      },
      "a router needs shapes(options, site), the names and shapes of what it keeps");
  static_assert(
      requires(const R& r) {
        { r.options() } -> std::convertible_to<const O&>;
        { r.tensors() } -> std::same_as<std::vector<Tensor<T, B>>>;
      },
      "a router needs options() and tensors()");
  if constexpr (has_two_passes<R>)
    static_assert(
        requires(const R& r, const Tensor<T, B>& z, const std::vector<PlacedGate<T, B>>& gates,
                 const std::vector<Tensor<T, B>>& keep) {
          { r.first_pass() } -> std::convertible_to<double>;
          { r.classify(z, z, gates, keep) } -> std::same_as<std::vector<GateValue<T, B>>>;
        },
        "a router of two passes needs first_pass() and classify(z, mask, gates, keep)");
  else
    static_assert(
        requires(const R& r, const PlacedGate<T, B>& placed, const Tensor<T, B>& v) {
          { r.weigh(placed, v, v) } -> std::same_as<GateValue<T, B>>;
        },
        "a router needs weigh(placed, v, keep), a gate's weights from what it reads");
  return true;
}

}  // namespace detail

}  // namespace mole
