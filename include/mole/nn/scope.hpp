#pragma once
// How many of a model's adapted matrices share one gate.

#include <string>

#include <mole/core/error.hpp>

namespace mole {

/// Which adapted matrices share one gate: the paper's m-, l-, b- and n-MoLE.
enum class Scope { matrix, layer, block, network };

/// Its name, as parse_scope() reads it.
inline const char* to_string(Scope scope) {
  constexpr const char* names[] = {"matrix", "layer", "block", "network"};
  return names[static_cast<int>(scope)];
}

/// Throws ArgumentError naming the choices.
inline Scope parse_scope(const std::string& text) {
  for (const Scope scope : {Scope::matrix, Scope::layer, Scope::block, Scope::network})
    if (text == to_string(scope)) return scope;
  throw ArgumentError("unknown scope \"" + text + "\": choose matrix, layer, block or network");
}
/// The same into a field, as files of options are read.
inline void from_text(const std::string& text, Scope& scope) { scope = parse_scope(text); }

}  // namespace mole
