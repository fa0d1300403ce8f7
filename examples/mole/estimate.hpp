#pragma once
// What a compose run would load and take, before it does.

#include <string>
#include <vector>

#include <mole/nn/lora.hpp>

#include "mole/commands.hpp"
#include "mole/judging.hpp"
#include "mole/model_files.hpp"

namespace program {

/// What a compose run works on.
struct Workload {
  const ModelFiles& files;
  const std::vector<mole::LoraSet>& experts;
  const std::vector<mole::CausalExample>& train;
  const std::vector<TestSet>& tests;
  Index rows = 1;  ///< of the table
};

/// Model, experts and examples in a few lines.
std::string description(const Workload& work);

/// Memory and time, as lines of text. Time is that of a product which is timed here, for the processor alone.
std::string estimate(const Workload& work, const ComposeOptions& options);

}  // namespace program
