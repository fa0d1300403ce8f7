#pragma once
// The merging methods that routers are compared with: how each is called, and the weights that some of them
// choose by a few examples.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include <mole/compose/compose.hpp>

namespace common {

using mole::Index;

/// A way to merge experts, as tables and --methods name it.
struct MergeOptions {
  /// mean (eq. 2), pems (pems_add, tuned), lorahub (a search of the weights), or another of mole's
  /// composition_methods().
  std::string method;
  bool tuned = false;              ///< one weight for all experts, of a grid, by the loss on examples
  double density = 0.2;            ///< share of elements that pruning methods keep
  std::optional<Index> rank = {};  ///< of svd and *_svd; none: the experts' largest
  std::uint64_t seed = 1;          ///< of DARE's masks and LoRAHub's search
};

/// The options of a command that choose merging methods.
class MergeArguments {
 public:
  /// Adds --merge-density, --merge-rank and --merge-tuned, whose defaults are those of `merging`. It must
  /// outlive this.
  MergeArguments(CLI::App& command, MergeOptions& merging, const std::string& group);
  MergeArguments(const MergeArguments&) = delete;

  /// Puts the rank that was given into the options. Throws mole::ArgumentError for one that is no number and
  /// not "full".
  void read();

 private:
  MergeOptions& merging_;
  std::string rank_;
};

/// What mole::compose() is called with.
struct Composition {
  std::string method;
  mole::ComposeOptions options;
};

/// The call without weights from examples: the method's own, and equal ones that sum to 1 where their sum is
/// what pruning or svd is of.
Composition composition(const MergeOptions& merging, std::size_t n_experts);

/// Whether its weights come from examples.
bool chooses_weights(const MergeOptions& merging);

/// The name of its row in a table: "ties_svd, full rank, tuned".
std::string merging_name(const MergeOptions& merging);

/// Before any work: that these experts can be merged so. Throws mole::ArgumentError for an unknown method,
/// the wrong number of experts, ranks that differ where they must not, or a search in a build without NLopt.
void check_merging(const MergeOptions& merging, const std::vector<mole::LoraSet>& experts);

/// How each method of a list merges; what a method does not know is left out. Throws mole::ArgumentError, before
/// any work, for one that cannot merge these experts.
std::vector<MergeOptions> mergings(const std::vector<std::string>& methods, const MergeOptions& merging,
                                   const std::vector<mole::LoraSet>& experts);

/// The composition with the weights that its method chooses: those with the smallest loss, with a progress bar.
/// loss(how) is a model's loss on a few examples with its experts merged so. Throws as check_merging(), and what
/// `loss` throws.
Composition chosen_composition(const MergeOptions& merging, std::size_t n_experts,
                               const std::function<double(const Composition& how)>& loss);

}  // namespace common
