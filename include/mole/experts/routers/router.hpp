#pragma once
// What a router is: options, and a class template that weighs the experts. Each is one file, of this folder or of
// a program of its own; whatever attaches experts takes the options. registry.hpp lists the library's, so that
// files and command lines can name them.
//
// A router's options are a struct O with
//   O::name                                 how files and programs call it
//   O::Router<T, B>                         its class
//   o.placement()                           where its gates stand
//   o.check()                               throws ArgumentError for options that do not fit together
//   O::fields(o, f)                         f(key, field) for each option that a file keeps; f(key, field, v)
//                                           for one that gates files before version v may lack
// and its class R = O::Router<T, B> has
//   R(options, site)                        makes what it keeps, for the gates of a model
//   R::shapes(options, site)                names and shapes of that, before any of it is made
//   r.tensors()                             what a file keeps, in that order; what asks for a gradient trains
//   r.weigh(placed, v, keep)                a gate's weights from what it reads
// or, in place of weigh, if its weights come from a first pass over the model (R::two_passes is true)
//   r.first_pass()                          every expert's weight in that pass; 0: the bare model
//   r.classify(z, mask, gates, keep)        all gates' weights from its last hidden state z [S, L, d]
// A router may also have
//   o.check_shares()                        throws ArgumentError where its weights are no shares of one
//   r.weigh_sets(gates, sets, v, keep)      weights of several sets in one go, off the tape: sets[s] says which of the
//                                           gates, one a set, weighs sequence s of v
//   r.comes_with_mixture()                  whether gate and mixture are made together (gated_mixture)
//   r.scales()                              the frozen scales of what its gates read, one a gate (with two passes
//                                           one in all), where o.placement() asks for input scales other than unit
//   R::reads_unit_rows                      whether these are of rows scaled to unit length
//   R::made_of_experts                      whether its gates are made of the experts, which can then not be replaced
// and one that registry.hpp lists also
//   O::names                                every name that router_named() takes for it
//   O::with(called, placement, temperature) options of its own with these policies

#include <concepts>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <mole/experts/bank.hpp>
#include <mole/experts/plan.hpp>
#include <mole/experts/routers/option_text.hpp>

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
    if (placed.reads.empty()) return table.slots[table.groups[placed.source].slots.front()].channels();
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

template <class R>
inline constexpr bool reads_unit_rows = requires {
  requires R::reads_unit_rows;
};

template <class R>
inline constexpr bool made_of_experts = requires {
  requires R::made_of_experts;
};

/// Stops the compiler, naming the part, at a router that lacks one.
template <class O, class T, class B>
constexpr bool check_router_parts() {
  using R = typename O::template Router<T, B>;
  static_assert(
      requires {
        { O::name } -> std::convertible_to<const char*>;
      },
      "a router needs name");
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
        { r.tensors() } -> std::same_as<std::vector<Tensor<T, B>>>;
      },
      "a router needs tensors(), what it keeps");
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

template <class V>
inline constexpr bool is_variant = false;
template <class... O>
inline constexpr bool is_variant<std::variant<O...>> = true;

/// f(options) with the options of the router that was chosen, at compile time or at run time.
template <class O, class F>
auto with_options(const O& options, F f) {
  if constexpr (is_variant<O>)
    return std::visit(f, options);
  else
    return f(options);
}

}  // namespace detail

/// Throws ArgumentError for top-k outside [0, n_experts], a temperature not above 0, or options of the router
/// that do not fit together.
template <class O>
void check_router(const O& options, Index n_experts) {
  detail::with_options(options, [&](const auto& own) {
    const Index top_k = own.placement().top_k;
    MOLE_CHECK_ARG(top_k >= 0 && top_k <= n_experts, "attach: top-k", top_k, "is not in [0,", n_experts, "]");
    own.check();
  });
}

/// Any router over a model, as the mixer holds it.
template <class T, class B>
class AnyRouter {
 public:
  virtual ~AnyRouter() = default;
  virtual const char* name() const = 0;
  /// A router of the same options with gates of its own, which it writes to the site's.
  virtual std::shared_ptr<const AnyRouter> anew(const RouterSite<T, B>& site) const = 0;
  /// The options that files keep, as key and text.
  virtual std::vector<std::pair<std::string, std::string>> options() const = 0;
  virtual std::vector<Tensor<T, B>> tensors() const = 0;
  virtual void check_shares() const = 0;
  virtual bool comes_with_mixture() const = 0;
  /// Of what its gates read; empty where nothing is scaled.
  virtual std::vector<GateScale<T, B>> scales() const = 0;
  virtual bool reads_unit_rows() const = 0;
  virtual bool made_of_experts() const = 0;
  /// Throws ArgumentError for a router of two passes.
  virtual GateValue<T, B> weigh(const PlacedGate<T, B>& placed, const Tensor<T, B>& v,
                                const Tensor<T, B>& keep) const = 0;
  /// Nothing from a router without this part.
  virtual std::optional<GateValue<T, B>> weigh_sets(const std::vector<const Gate<T, B>*>& gates,
                                                    const std::vector<Index>& sets, const Tensor<T, B>& v,
                                                    const Tensor<T, B>& keep) const = 0;
  virtual bool two_passes() const = 0;
  /// Throw ArgumentError for a router of one pass.
  virtual double first_pass() const = 0;
  virtual std::vector<GateValue<T, B>> classify(const Tensor<T, B>& z, const Tensor<T, B>& mask,
                                                const std::vector<PlacedGate<T, B>>& gates,
                                                const std::vector<Tensor<T, B>>& keep) const = 0;
};

namespace detail {

/// The router of options O.
template <class O, class T, class B>
class RouterOf final : public AnyRouter<T, B> {
  static_assert(check_router_parts<O, T, B>());
  using R = typename O::template Router<T, B>;

 public:
  RouterOf(const O& options, const RouterSite<T, B>& site) : options_(options), router_(options, site) {}

  const char* name() const override { return O::name; }
  std::shared_ptr<const AnyRouter<T, B>> anew(const RouterSite<T, B>& site) const override {
    return std::shared_ptr<const AnyRouter<T, B>>(new RouterOf(options_, site));
  }
  std::vector<std::pair<std::string, std::string>> options() const override {
    std::vector<std::pair<std::string, std::string>> list;
    O::fields(options_, [&](const char* key, const auto& field, int = 1) {
      list.emplace_back(key, field_text(field));
    });
    return list;
  }
  std::vector<Tensor<T, B>> tensors() const override { return router_.tensors(); }
  void check_shares() const override {
    if constexpr (requires { options_.check_shares(); }) options_.check_shares();
  }
  bool comes_with_mixture() const override {
    if constexpr (requires { router_.comes_with_mixture(); }) return router_.comes_with_mixture();
    return false;
  }
  std::vector<GateScale<T, B>> scales() const override {
    if constexpr (requires { router_.scales(); }) return router_.scales();
    return {};
  }
  bool reads_unit_rows() const override { return detail::reads_unit_rows<R>; }
  bool made_of_experts() const override { return detail::made_of_experts<R>; }
  GateValue<T, B> weigh(const PlacedGate<T, B>& placed, const Tensor<T, B>& v,
                        const Tensor<T, B>& keep) const override {
    if constexpr (has_two_passes<R>)
      throw ArgumentError(message("mixer: these experts are routed by", name(), "in two passes"));
    else
      return router_.weigh(placed, v, keep);
  }
  std::optional<GateValue<T, B>> weigh_sets(const std::vector<const Gate<T, B>*>& gates,
                                            const std::vector<Index>& sets, const Tensor<T, B>& v,
                                            const Tensor<T, B>& keep) const override {
    // The processor weighs set by set (GateSets), so its programs need not compile this.
    if constexpr (!std::same_as<B, Cpu> && requires { router_.weigh_sets(gates, sets, v, keep); })
      return router_.weigh_sets(gates, sets, v, keep);
    else
      return {};
  }
  bool two_passes() const override { return has_two_passes<R>; }
  double first_pass() const override {
    if constexpr (has_two_passes<R>)
      return router_.first_pass();
    else
      throw one_pass();
  }
  std::vector<GateValue<T, B>> classify(const Tensor<T, B>& z, const Tensor<T, B>& mask,
                                        const std::vector<PlacedGate<T, B>>& gates,
                                        const std::vector<Tensor<T, B>>& keep) const override {
    if constexpr (has_two_passes<R>)
      return router_.classify(z, mask, gates, keep);
    else
      throw one_pass();
  }

 private:
  ArgumentError one_pass() const {
    return ArgumentError(message("mixer: these experts are routed by", name(), "in a single pass"));
  }

  O options_;
  R router_;
};

}  // namespace detail

}  // namespace mole
