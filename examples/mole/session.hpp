#pragma once
// A model loaded for a command, with the coder of its texts.

#include <memory>

#include "mole/commands.hpp"
#include "mole/language_model.hpp"
#include "mole/model_files.hpp"
#include "mole/prompt.hpp"

namespace program {

/// The coder of a model's texts, before the model is loaded. Says on stderr where the model brings a chat template and
/// none is asked for. Throws as its parts do.
TextCoder text_coder(const ModelFiles& files, const ModelOptions& options, const PromptTemplate& form);

/// Whether training can start, as far as that shows before anything is loaded. Throws mole::ArgumentError for a backend
/// or a type that this build lacks, and as common::check_checkpoint().
void check_start(const ModelOptions& model, const common::RunOptions& run);

/// Says on stderr where a model names no end of text, so that nobody learns to stop.
void warn_without_end(const ModelFiles& files);

/// Loads the model; its warnings go to stderr. Throws as Models::load().
std::unique_ptr<LanguageModel> load(const ModelFiles& files, const ModelOptions& options);

/// A base with saved gates attached.
struct GatedModel {
  ModelFiles files;
  std::vector<mole::LoraSet> experts;
  mole::GatesFile gates;
  std::unique_ptr<LanguageModel> model;
  std::unique_ptr<TextCoder> coder;
};

/// The base and experts that a gates file names, or those of the options, with the gates attached. Says on stderr where
/// the base is another than the gates were trained on, or the template is. Throws as its parts do.
GatedModel load_gated(const ModelOptions& options, const std::filesystem::path& gates,
                      const std::vector<std::string>& experts);

}  // namespace program
