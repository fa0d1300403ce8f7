#pragma once
// The file that a training run is resumed from, whatever backend it runs on.

#include <filesystem>
#include <string>
#include <vector>

#include <mole/core/shape.hpp>

#include "numbers/plots.hpp"

namespace numbers {

using mole::Index;

/// A tensor on the host, under its name in the checkpoint.
struct HostTensor {
  std::string name;
  mole::Shape shape;
  std::vector<float> values;
};

/// All that a run needs to go on; the number of curve points is the number of steps done.
struct RunState {
  std::vector<HostTensor> tensors;
  std::vector<Index> steps;  ///< updates of each parameter
  Curves curves;
};

/// Replaces `file` by the state of the run that `fingerprint` names, whole or not at all.
void save_checkpoint(const std::filesystem::path& file, const std::string& fingerprint,
                     const RunState& state);

/// Fills `state`, whose tensors have their names and shapes. Throws mole::FormatError when the file belongs
/// to another run, or lacks a tensor of that shape.
void load_checkpoint(const std::filesystem::path& file, const std::string& fingerprint, RunState& state);

/// Makes sure, before any work, that `file` can be written; its folder is made where there is none.
/// Throws mole::ArgumentError naming it.
void check_replaceable(const std::filesystem::path& file);

}  // namespace numbers
