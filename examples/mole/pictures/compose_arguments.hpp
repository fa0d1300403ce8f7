#pragma once
// The options of `mole compose` that are for pictures.

#include <CLI/CLI.hpp>

#include "mole/commands.hpp"
#include "mole/pictures/commands.hpp"

namespace program {

/// What `mole compose` takes for a Stable Diffusion beside what it takes for language models. It must outlive the
/// parsing.
class ComposePicturesArguments {
 public:
  /// Adds --prompts, --clip, --pictures, --pictures-weight, --variant, --sheet and how pictures are painted.
  explicit ComposePicturesArguments(CLI::App& command);
  ComposePicturesArguments(const ComposePicturesArguments&) = delete;

  /// Whether the line asks for pictures: --prompts was given.
  bool wanted() const;

  /// Runs it with the options that it shares with language models, once those are parsed. Throws mole::ArgumentError for
  /// options that are for language models alone, and for --prompts without --clip.
  void compose(const ComposeOptions& shared) const;

  /// Throws mole::ArgumentError where --train is missing, or options for pictures were given without --prompts.
  void check_text(const ComposeOptions& shared) const;

 private:
  const CLI::App& command_;
  ComposePicturesOptions options_;
  std::string pictures_;
};

}  // namespace program
