#pragma once
// The library's routers, listed once: a new one adds its include and its name here. Who decides how much of each
// expert a layer gets is chosen by the type of the options, wherever experts are attached: GateOptions means MoLE.

#include <cstddef>
#include <string>
#include <utility>
#include <variant>

#include <mole/experts/routers/arrow.hpp>
#include <mole/experts/routers/mole.hpp>
#include <mole/experts/routers/xlora.hpp>

namespace mole {

/// A router with its options.
using RouterOptions = std::variant<GateOptions, ArrowOptions, XLoraOptions>;

namespace detail {

/// Calls f(options) with each router's defaults until one call returns true.
template <class F, std::size_t... I>
bool any_router(F f, std::index_sequence<I...>) {
  return (f(std::variant_alternative_t<I, RouterOptions>{}) || ...);
}
template <class F>
bool any_router(F f) {
  return any_router(f, std::make_index_sequence<std::variant_size_v<RouterOptions>>{});
}

/// Calls f(options, name) for the router that takes this name. Throws ArgumentError naming the choices.
template <class F>
void with_router_named(const std::string& name, F f) {
  std::string known;
  const bool found = any_router([&](const auto& options) {
    for (const char* const one : options.names) {
      if (name == one) {
        f(options);
        return true;
      }
      known += (known.empty() ? "" : ", ") + std::string(one);
    }
    return false;
  });
  if (found) return;
  const auto comma = known.rfind(", ");
  throw ArgumentError("unknown router \"" + name + "\": choose " + known.replace(comma, 2, " or "));
}

}  // namespace detail

/// How files and programs call it: mole, arrow, xlora, ...
inline const char* router_name(const RouterOptions& router) {
  return std::visit([](const auto& options) { return options.name; }, router);
}

/// A router by name with these policies, of which each router takes what it knows. "hidden" is the released
/// code's: MoLE's gate on its scope's input. Throws ArgumentError naming the choices.
inline RouterOptions router_named(const std::string& name, const GateOptions& policies) {
  RouterOptions result;
  detail::with_router_named(
      name, [&]<class O>(const O&) { result = O::with(name, policies.placement(), policies.temperature); });
  return result;
}
/// The same with each router's own defaults.
inline RouterOptions router_named(const std::string& name) {
  RouterOptions result;
  detail::with_router_named(name, [&]<class O>(const O& own) {
    // Its own defaults, but for what the name itself says.
    result = std::string(own.name) == name ? own : O::with(name, own.placement(), 1);
  });
  return result;
}

/// Where a router's gates stand in a model: its scope, input, pooling and top-k.
inline GatePlacement placement_of(const RouterOptions& router) {
  return std::visit([](const auto& options) { return options.placement(); }, router);
}

}  // namespace mole
