#pragma once
// The options of `numbers compose` that choose a router and set it up.

#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "numbers/commands.hpp"

namespace numbers {

/// They are added to a command, and put into ComposeOptions once it is parsed. Both must outlive this.
class RouterArguments {
 public:
  RouterArguments(CLI::App& command, ComposeOptions& options);
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

  ComposeOptions& options_;
  std::vector<Owned> owned_;
  const CLI::Option *temperature_ = nullptr, *alpha_ = nullptr, *width_ = nullptr;
  std::string scope_ = "block", pooling_ = "mean", input_ = "experts", input_scale_ = "unit",
              scalings_ = "softmax", renormalize_ = "none";
};

}  // namespace numbers
