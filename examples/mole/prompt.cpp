#include "mole/prompt.hpp"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <string_view>
#include <utility>

#include <mole/core/error.hpp>
#include <mole/core/quote.hpp>
#include <mole/io/gguf.hpp>
#include <mole/io/json.hpp>
#include <mole/text/load.hpp>

#include "mole/sentencepiece.hpp"
#include "mole/text_metrics.hpp"

namespace program {

namespace {

using mole::Index;
using Tokens = std::vector<Index>;

constexpr std::string_view turn_start = "<|im_start|>", turn_end = "<|im_end|>";

std::string chat_turn(const std::string& role) { return std::string(turn_start) + role + "\n"; }

PromptTemplate read_template(const std::filesystem::path& path) {
  const mole::detail::MappedFile file(path);
  std::string text(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  const std::string source = mole::message(path) + ":";
  MOLE_CHECK_FORMAT(text.size() <= 100'000, source, "a template of", text.size(),
                    "bytes; at most 100000 are read");
  const auto good = mole::utf8_bytes(text);
  MOLE_CHECK_FORMAT(good == text.size(), source, "byte", good, "is no UTF-8; save the template as UTF-8");
  if (text.starts_with("\xEF\xBB\xBF")) text.erase(0, 3);
  if (text.ends_with('\n')) text.pop_back();
  if (text.ends_with('\r')) text.pop_back();
  for (auto at = text.find("\\n"); at != text.npos; at = text.find("\\n", at + 1)) text.replace(at, 2, "\n");
  const std::string prompt = "{prompt}", answer = "{answer}";
  const auto first = text.find(prompt), second = text.find(answer);
  MOLE_CHECK_FORMAT(first != text.npos && second != text.npos && first < second, source,
                    "a template holds {prompt} and, after it, {answer}");
  MOLE_CHECK_FORMAT(text.find(prompt, first + 1) == text.npos && text.find(answer, second + 1) == text.npos,
                    source, "a template holds {prompt} and {answer} once each");
  const auto between = first + prompt.size();
  return {path.filename().string(), text.substr(0, first), text.substr(between, second - between),
          text.substr(second + answer.size()), ""};
}

void append(Tokens& tokens, const Tokens& more) { tokens.insert(tokens.end(), more.begin(), more.end()); }

bool is_end(const ModelFacts& facts, Index token) {
  return std::find(facts.ends.begin(), facts.ends.end(), token) != facts.ends.end();
}

}  // namespace

PromptTemplate prompt_template(const std::string& name, const std::string& system) {
  MOLE_CHECK_ARG(system.empty() || name == "chatml",
                 "--system is for --template chatml; write the text into the", "template's file instead");
  if (name.empty() || name == "none") return {};
  if (name != "chatml") return read_template(name);
  PromptTemplate form;
  form.name = name;
  form.system = system;
  if (!system.empty()) form.before = chat_turn("system") + system + std::string(turn_end) + "\n";
  form.before += chat_turn("user");
  form.between = std::string(turn_end) + "\n" + chat_turn("assistant");
  form.after = turn_end;
  return form;
}

std::unique_ptr<mole::Tokenizer> tokenizer_of(const std::filesystem::path& path, const ModelFacts& facts) {
  for (const char* other : {"tokenizer.json", "vocab.json"})
    if (!std::filesystem::is_directory(path) || std::filesystem::exists(path / other))
      return mole::load_tokenizer(path);
  for (const char* name : {"spiece.model", "tokenizer.model"})
    if (std::filesystem::exists(path / name))
      return sentencepiece_tokenizer(path / name, facts.encoder_decoder);
  return mole::load_tokenizer(path);
}

bool has_chat_template(const std::filesystem::path& base) {
  if (base.extension() == ".gguf") return mole::GgufFile(base).has("tokenizer.chat_template");
  if (std::filesystem::exists(base / "chat_template.jinja")) return true;
  const auto config = base / "tokenizer_config.json";
  if (!std::filesystem::exists(config)) return false;
  const auto json = mole::read_json(config, mole::max_json_bytes);
  return json.is_object() && json.contains("chat_template");
}

TextCoder::TextCoder(std::unique_ptr<mole::Tokenizer> tokenizer, PromptTemplate form, ModelFacts facts)
    : tokenizer_(std::move(tokenizer)), form_(std::move(form)), facts_(std::move(facts)) {
  // A file may list more tokens than its own vocabulary uses, but none that the model has no row for may come up.
  MOLE_CHECK_ARG(tokenizer_->size() <= facts_.vocabulary, "the tokenizer has", tokenizer_->size(),
                 "tokens and the model", facts_.vocabulary, "; they belong to different models");
  if (form_.name == "chatml")
    for (const auto token : {turn_start, turn_end})
      MOLE_CHECK_ARG(tokenizer_->find(token) >= 0, "--template chatml: the tokenizer has no token", token,
                     "; this model was not trained with chatml. Use --template none or a file");
  // Which of the tokens around a text are in front shows where the text's own are.
  const Tokens plain = tokenizer_->encode("a"), whole = tokenizer_->encode("a", {.add_special = true});
  const auto at = std::search(whole.begin(), whole.end(), plain.begin(), plain.end());
  if (at == whole.end() || plain.empty()) return;
  start_.assign(whole.begin(), at);
  end_.assign(at + static_cast<std::ptrdiff_t>(plain.size()), whole.end());
}

Tokens TextCoder::with_start(Tokens tokens) const {
  // A template's file may spell the token that begins a text.
  if (!start_.empty() && tokens.size() >= start_.size() &&
      std::equal(start_.begin(), start_.end(), tokens.begin()))
    return tokens;
  tokens.insert(tokens.begin(), start_.begin(), start_.end());
  return tokens;
}

void TextCoder::check_length(std::size_t tokens, const TextExample& example) const {
  MOLE_CHECK_ARG(facts_.context == 0 || static_cast<Index>(tokens) <= facts_.context, example.where,
                 "the text has", tokens, "tokens and the model reads", facts_.context,
                 "; shorten it or leave it out");
}

Tokens TextCoder::prompt(const TextExample& example) const {
  const mole::EncodeOptions parsed{.parse_special = true};
  MOLE_CHECK_ARG(example.turns.empty() || form_.name == "chatml", example.where,
                 "a conversation of several turns needs --template chatml");
  Tokens tokens;
  if (example.turns.empty()) {
    tokens = tokenizer_->encode(form_.before, parsed);
    append(tokens, tokenizer_->encode(example.prompt));
    append(tokens, tokenizer_->encode(form_.between, parsed));
  } else {
    if (!form_.system.empty() && example.turns.front().role != "system") {
      append(tokens, tokenizer_->encode(chat_turn("system"), parsed));
      append(tokens, tokenizer_->encode(form_.system));
      append(tokens, tokenizer_->encode(std::string(turn_end) + "\n", parsed));
    }
    for (const auto& turn : example.turns) {
      append(tokens, tokenizer_->encode(chat_turn(turn.role), parsed));
      append(tokens, tokenizer_->encode(turn.content));
      append(tokens, tokenizer_->encode(std::string(turn_end) + "\n", parsed));
    }
    append(tokens, tokenizer_->encode(chat_turn("assistant"), parsed));
  }
  tokens = with_start(std::move(tokens));
  // What T5 reads ends in its end token.
  if (facts_.encoder_decoder) append(tokens, end_.empty() ? Tokens{facts_.ends.front()} : end_);
  MOLE_CHECK_ARG(!tokens.empty(), example.where, "the prompt has no tokens");
  check_length(tokens.size() + (facts_.encoder_decoder ? 0 : 1), example);
  return tokens;
}

mole::CausalExample TextCoder::example(const TextExample& example) const {
  mole::CausalExample made{prompt(example), tokenizer_->encode(example.answer)};
  append(made.answer, tokenizer_->encode(form_.after, {.parse_special = true}));
  // Without an end a model never learns to stop.
  const bool ends =
      std::any_of(made.answer.begin(), made.answer.end(), [&](Index t) { return is_end(facts_, t); });
  if (!ends && !facts_.ends.empty()) made.answer.push_back(facts_.ends.front());
  check_length(facts_.encoder_decoder ? made.prompt.size() : made.length(), example);
  return made;
}

std::vector<mole::CausalExample> TextCoder::examples(const std::vector<TextExample>& examples) const {
  std::vector<mole::CausalExample> list;
  for (const auto& one : examples) list.push_back(example(one));
  return list;
}

std::string TextCoder::answer(Tokens tokens) const {
  const auto end = std::find_if(tokens.begin(), tokens.end(), [&](Index t) { return is_end(facts_, t); });
  tokens.erase(end, tokens.end());
  auto text = tokenizer_->decode(tokens);
  // Where the template ends an answer by ordinary text, that is no part of it.
  const auto mark = trimmed(form_.after);
  if (const auto at = mark.empty() ? text.npos : text.find(mark); at != text.npos) text.resize(at);
  return trimmed(text);
}

}  // namespace program
