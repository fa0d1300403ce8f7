#pragma once
// The options of a command that choose a router and set it up.

#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include <mole/experts/routers/registry.hpp>

namespace common {

/// A router as a command line chooses it.
struct RouterChoice {
  std::string router = "mole";  ///< mole, hidden, arrow, xlora: see mole::router_named()
  mole::GateOptions gates;      ///< scope, pooling, top-k, ... of any router
  mole::XLoraOptions xlora;     ///< what X-LoRA has of its own; scope, pooling, top-k, temperature: as gates
  double alpha = 0.01;          ///< weight of the balance loss
};

/// The router that the options name, as a model attaches it. Throws mole::ArgumentError for an unknown name.
mole::RouterOptions router_of(const RouterChoice& choice);

/// Whether the router's gates are shares of one, for which alone there is a balance loss.
bool has_shares(const RouterChoice& choice);

/// What a table calls a router's mixture: "MoLE block, token gate".
std::string method_name(const std::string& router, const mole::GateOptions& gates);

/// X-LoRA's own options where they are not the defaults, for fingerprints; else empty.
std::string own_options(const RouterChoice& choice);

/// They are added to a command, with the defaults of a RouterChoice, and put into it once the command is parsed.
/// Both must outlive this.
class RouterArguments {
 public:
  RouterArguments(CLI::App& command, RouterChoice& options);
  RouterArguments(const RouterArguments&) = delete;

  /// Puts what was given into the options: router, gates, xlora and alpha. Throws mole::ArgumentError for an
  /// unknown name, and for an option that would do nothing: one of another router, or that needs another.
  void read();

 private:
  void add_placement(CLI::App& command);
  void add_xlora(CLI::App& command);
  void check_owners() const;

  /// An option and the routers that know it.
  struct Owned {
    const CLI::Option* option;
    std::vector<std::string> routers;
  };

  RouterChoice& options_;
  std::vector<Owned> owned_;
  const CLI::Option *temperature_ = nullptr, *alpha_ = nullptr, *width_ = nullptr;
  std::string scope_, pooling_, input_, input_scale_, scalings_ = "softmax", renormalize_ = "none";
};

}  // namespace common
