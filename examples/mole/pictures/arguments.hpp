#pragma once
// The options of the commands for pictures.

#include <CLI/CLI.hpp>

#include "common/command_line.hpp"
#include "mole/pictures/commands.hpp"

namespace program {

/// Adds `steps` (the name of an option), --guidance, --sampler, --size, --negative and --truncate, with the defaults
/// of `painting`. It must outlive the parsing.
void add_painting(CLI::App& command, PaintingOptions& painting, const char* steps = "--steps",
                  const std::string& group = "Painting");

/// `mole draw` on a command line: its subcommand, which runs it. It must outlive the parsing.
class DrawArguments {
 public:
  /// `machine` and `bf16` say where and in what numbers it runs once the line is parsed.
  DrawArguments(CLI::App& app, const common::Machine& machine, const bool& bf16);
  DrawArguments(const DrawArguments&) = delete;

 private:
  DrawOptions options_;
  std::string experts_, weights_, mask_;
};

/// Numbers from texts. Throws mole::ArgumentError, naming the option, for a text that is none.
std::vector<double> numbers_of(const std::string& option, const std::vector<std::string>& texts);

}  // namespace program
