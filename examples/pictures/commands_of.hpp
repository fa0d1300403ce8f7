#pragma once
// All subcommands on backend B, for the one translation unit of that backend.

#include "pictures/commands.hpp"
#include "pictures/compose.hpp"
#include "pictures/draw.hpp"
#include "pictures/run_tables.hpp"
#include "pictures/train.hpp"

namespace pictures {

/// The subcommands instantiated for backend B.
template <class B>
const Commands* commands_of() {
  static constexpr Commands commands{compose<B>,    draw<B>,         train_clip<B>,
                                     train_base<B>, train_expert<B>, tables<B>};
  return &commands;
}

}  // namespace pictures
