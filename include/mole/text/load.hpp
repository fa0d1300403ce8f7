#pragma once
// The tokenizer of a model's folder or file, whichever kind lies there.

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <utility>

#include <mole/io/gguf.hpp>
#include <mole/io/json.hpp>
#include <mole/io/mapped_file.hpp>
#include <mole/text/gguf_tokenizer.hpp>
#include <mole/text/tokenizer_json.hpp>

namespace mole {

namespace detail {

/// vocab.json and merges.txt, as GPT-2 and OPT first came. OPT's tokenizer_config.json asks for a token in front.
inline std::unique_ptr<Tokenizer> read_gpt2_files(const std::filesystem::path& folder) {
  const auto vocab = folder / "vocab.json", merges = folder / "merges.txt";
  const std::string source = message(vocab) + ":";
  const auto json = read_json(vocab, max_json_bytes);
  MOLE_CHECK_FORMAT(json.is_object(), source, "expected an object of tokens and numbers");
  TokenizerFile file;
  file.rest = {{"model", {{"type", "BPE"}}},
               {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}}},
               {"decoder", {{"type", "ByteLevel"}}}};
  for (const auto& [token, id] : json.items()) {
    MOLE_CHECK_FORMAT(id.is_number_integer(), source, "the token", quote(token), "has no whole number");
    file.vocabulary.emplace_back(token, id.template get<std::int64_t>());
  }
  const MappedFile mapped(merges);
  std::string_view text(reinterpret_cast<const char*>(mapped.bytes().data()), mapped.bytes().size());
  for (bool first = true; !text.empty(); first = false) {
    const auto end = std::min(text.find('\n'), text.size());
    auto line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (!line.empty() && !(first && line.starts_with("#version"))) file.merges.emplace_back(line, "");
  }
  const auto config = folder / "tokenizer_config.json";
  auto added = Json::array();
  for (const char* name : {"<s>", "<pad>", "</s>", "<unk>", "<|endoftext|>"})
    if (json.contains(name))
      added.push_back(
          {{"id", json.at(name).template get<std::int64_t>()}, {"content", name}, {"special", true}});
  file.rest["added_tokens"] = added;
  if (file_exists(config)) {
    const auto settings = read_json(config);
    const bool wanted = settings.is_object() && settings.contains("add_bos_token") &&
                        settings.at("add_bos_token").is_boolean() &&
                        settings.at("add_bos_token").template get<bool>();
    if (wanted) {
      MOLE_CHECK_FORMAT(json.contains("</s>"), source, "add_bos_token is set and there is no token </s>");
      file.rest["post_processor"] = {
          {"type", "TemplateProcessing"},
          {"single", {{{"SpecialToken", {{"id", "</s>"}}}}, {{"Sequence", {{"id", "A"}}}}}},
          {"special_tokens", {{"</s>", {{"ids", {json.at("</s>").template get<std::int64_t>()}}}}}}};
    }
  }
  return std::make_unique<BpeTokenizer>(TokenizerBuilder(std::move(file), source).build());
}

}  // namespace detail

/// The tokenizer at a path: a GGUF file, a tokenizer.json, or a folder with tokenizer.json, else with vocab.json and
/// merges.txt. Throws FormatError as their readers do; Error where there is none of these, naming what to do about a
/// SentencePiece model.
inline std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& path) {
  if (path.extension() == ".gguf") return read_gguf_tokenizer(GgufFile(path));
  if (path.extension() == ".json") return read_tokenizer_json(path);
  if (detail::file_exists(path / "tokenizer.json")) return read_tokenizer_json(path / "tokenizer.json");
  if (detail::file_exists(path / "vocab.json") && detail::file_exists(path / "merges.txt"))
    return detail::read_gpt2_files(path);
  for (const char* name : {"spiece.model", "tokenizer.model"})
    MOLE_CHECK_AS(Error, !detail::file_exists(path / name), path, "holds", name,
                  "and no tokenizer.json: read it by read_sentencepiece() of <mole/text/sentencepiece.hpp>");
  throw Error(message(path, "holds no tokenizer: neither tokenizer.json, nor vocab.json and merges.txt"));
}

}  // namespace mole
