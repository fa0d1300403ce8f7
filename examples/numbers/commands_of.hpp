#pragma once
// All subcommands on backend B, for the one translation unit of that backend.

#include "numbers/commands.hpp"
#include "numbers/compose.hpp"
#include "numbers/pretrain.hpp"
#include "numbers/tables/tables.hpp"
#include "numbers/translate.hpp"

namespace numbers {

/// The subcommands instantiated for backend B.
template <class B>
const Commands* commands_of() {
  static constexpr Commands commands{train_base<B>, train_expert<B>, compose<B>,
                                     translate<B>,  evaluate<B>,     tables<B>};
  return &commands;
}

}  // namespace numbers
