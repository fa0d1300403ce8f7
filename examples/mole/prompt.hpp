#pragma once
// From texts to tokens and back: the template around prompt and answer, the model's tokenizer, and the tokens that
// begin and end a text.

#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <mole/models/causal/examples.hpp>
#include <mole/text/tokenizer.hpp>

#include "mole/examples.hpp"
#include "mole/language_model.hpp"

namespace program {

/// What stands around a prompt and its answer.
struct PromptTemplate {
  std::string name = "none";           ///< none, chatml, or the file's name
  std::string before, between, after;  ///< texts in front of the prompt, up to the answer, and after it
  std::string system;                  ///< chatml: what the system says; empty: nothing

  /// As one text, by which gates remember it.
  std::string fingerprint() const { return name + "\n" + before + "{prompt}" + between + "{answer}" + after; }
};

/// The template "none", "chatml" or of a file that holds {prompt} and {answer}, where \n stands for a line break and
/// the last line's end does not count. Throws mole::ArgumentError for a system text with another than chatml;
/// mole::FormatError for a file without {prompt} or {answer}, or with one twice; mole::Error where there is no such
/// file.
PromptTemplate prompt_template(const std::string& name, const std::string& system);

/// The tokenizer of a model's folder or GGUF file; a tokenizer.json elsewhere by its path. Of a folder with a
/// SentencePiece model alone, that one. Throws as mole::load_tokenizer() does; mole::Error for a SentencePiece model in
/// a build without libsentencepiece.
std::unique_ptr<mole::Tokenizer> tokenizer_of(const std::filesystem::path& path, const ModelFacts& facts);

/// Whether the model's files bring a chat template of their own, which this program does not interpret.
bool has_chat_template(const std::filesystem::path& base);

/// Texts as a model reads and writes them.
class TextCoder {
 public:
  /// Throws mole::ArgumentError for a tokenizer with more tokens than the model, or one that lacks chatml's.
  TextCoder(std::unique_ptr<mole::Tokenizer> tokenizer, PromptTemplate form, ModelFacts facts);

  const PromptTemplate& form() const { return form_; }
  const mole::Tokenizer& tokenizer() const { return *tokenizer_; }

  /// The prompt's tokens, up to where the answer begins. Throws mole::ArgumentError, naming the example's line, where
  /// it is longer than the model leaves room for, or is a conversation and the template is not chatml.
  std::vector<mole::Index> prompt(const TextExample& example) const;
  /// The same with the answer's tokens, the end among them.
  mole::CausalExample example(const TextExample& example) const;
  std::vector<mole::CausalExample> examples(const std::vector<TextExample>& examples) const;
  /// What was written, without the tokens that end it and white space at its ends.
  std::string answer(std::vector<mole::Index> tokens) const;

 private:
  std::vector<mole::Index> with_start(std::vector<mole::Index> tokens) const;
  void check_length(std::size_t tokens, const TextExample& example) const;

  std::unique_ptr<mole::Tokenizer> tokenizer_;
  PromptTemplate form_;
  ModelFacts facts_;
  std::vector<mole::Index> start_, end_;  ///< what the tokenizer puts around a text
};

}  // namespace program
