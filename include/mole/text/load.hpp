#pragma once
// The tokenizer of a model's folder or file, whichever kind lies there.

#include <filesystem>
#include <fstream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <mole/io/gguf.hpp>
#include <mole/io/json.hpp>
#include <mole/io/mapped_file.hpp>
#include <mole/text/gguf_tokenizer.hpp>
#include <mole/text/tokenizer_json.hpp>

namespace mole {

namespace detail {

/// vocab.json and merges.txt, the files of a byte-pair tokenizer before there was tokenizer.json. `vocabulary` becomes
/// the object of vocab.json.
inline TokenizerFile read_bpe_files(const std::filesystem::path& folder, Json& vocabulary) {
  const auto vocab = folder / "vocab.json";
  const std::string source = message(vocab) + ":";
  vocabulary = read_json(vocab, max_json_bytes);
  MOLE_CHECK_FORMAT(vocabulary.is_object(), source, "expected an object of tokens and numbers");
  TokenizerFile file;
  for (const auto& [token, id] : vocabulary.items()) {
    MOLE_CHECK_FORMAT(id.is_number_integer(), source, "the token", quote(token), "has no whole number");
    file.vocabulary.emplace_back(token, id.template get<std::int64_t>());
  }
  const MappedFile mapped(folder / "merges.txt");
  const std::string merges = message(folder / "merges.txt") + ":";
  std::string_view text(reinterpret_cast<const char*>(mapped.bytes().data()), mapped.bytes().size());
  check_no_lfs_pointer(text, merges);
  MOLE_CHECK_FORMAT(text.size() <= max_json_bytes, merges, "merges of", text.size(), "bytes; at most",
                    max_json_bytes, "are read");
  for (bool first = true; !text.empty(); first = false) {
    const auto end = std::min(text.find('\n'), text.size());
    auto line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.ends_with('\r')) line.remove_suffix(1);
    if (line.empty() || (first && line.starts_with("#version"))) continue;
    MOLE_CHECK_FORMAT(file.merges.size() < max_json_values, merges, "more than", max_json_values,
                      "merges; no tokenizer has as many: is this its merges.txt?");
    file.merges.emplace_back(line, "");
  }
  return file;
}

/// The spellings of special tokens that are in a vocabulary, as tokenizer.json lists them.
inline Json special_tokens(const Json& vocabulary, const std::vector<std::string>& names) {
  auto added = Json::array();
  for (const auto& name : names)
    if (vocabulary.contains(name))
      added.push_back(
          {{"id", vocabulary.at(name).template get<std::int64_t>()}, {"content", name}, {"special", true}});
  return added;
}

/// The rest of GPT-2's and OPT's tokenizer.json. OPT's tokenizer_config.json asks for a token in front.
inline Json gpt2_steps(const std::filesystem::path& folder, const Json& vocabulary) {
  Json rest{{"model", {{"type", "BPE"}}},
            {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}}},
            {"decoder", {{"type", "ByteLevel"}}},
            {"added_tokens", special_tokens(vocabulary, {"<s>", "<pad>", "</s>", "<unk>", "<|endoftext|>"})}};
  const auto config = folder / "tokenizer_config.json";
  if (!file_exists(config)) return rest;
  const auto settings = read_json(config);
  const bool wanted = settings.is_object() && settings.contains("add_bos_token") &&
                      settings.at("add_bos_token").is_boolean() &&
                      settings.at("add_bos_token").template get<bool>();
  if (!wanted) return rest;
  MOLE_CHECK_FORMAT(vocabulary.contains("</s>"), message(folder / "vocab.json") + ":",
                    "add_bos_token is set and there is no token </s>");
  rest["post_processor"] = {
      {"type", "TemplateProcessing"},
      {"single", {{{"SpecialToken", {{"id", "</s>"}}}}, {{"Sequence", {{"id", "A"}}}}}},
      {"special_tokens", {{"</s>", {{"ids", {vocabulary.at("</s>").template get<std::int64_t>()}}}}}}};
  return rest;
}

inline constexpr const char *clip_start = "<|startoftext|>", *clip_end = "<|endoftext|>";

/// The rest of CLIP's tokenizer.json (Radford et al. 2021): lower case, and a mark at the end of each word. `padding` is
/// a special token too, which Stable Diffusion 2 spells "!": in a prompt it is that token, as transformers has it.
inline Json clip_steps(const Json& vocabulary, const std::string& padding) {
  const auto pair = [&](const char* token) { return Json::array({token, vocabulary.at(token)}); };
  std::vector<std::string> special{clip_start, clip_end};
  if (padding != clip_end) special.push_back(padding);
  return {
      {"model", {{"type", "BPE"}, {"unk_token", clip_end}, {"end_of_word_suffix", "</w>"}}},
      {"normalizer",
       {{"type", "Sequence"},
        {"normalizers",
         {{{"type", "NFC"}},
          {{"type", "Replace"}, {"pattern", {{"Regex", "\\s+"}}}, {"content", " "}},
          {{"type", "Lowercase"}}}}}},
      {"pre_tokenizer",
       {{"type", "Sequence"},
        {"pretokenizers",
         {{{"type", "Split"},
           {"pattern",
            {{"Regex",
              "<\\|startoftext\\|>|<\\|endoftext\\|>|'s|'t|'re|'ve|'m|'ll|'d|[\\p{L}]+|[\\p{N}]|"
              "[^\\s\\p{L}\\p{N}]+"}}},
           {"behavior", "Removed"},
           {"invert", true}},
          {{"type", "ByteLevel"}, {"add_prefix_space", false}}}}}},
      {"decoder", {{"type", "ByteLevel"}}},
      {"post_processor", {{"type", "RobertaProcessing"}, {"sep", pair(clip_end)}, {"cls", pair(clip_start)}}},
      {"added_tokens", special_tokens(vocabulary, special)}};
}

/// The spelling of a special token in tokenizer_config.json or special_tokens_map.json, where it is text or an object
/// with it; `otherwise` where neither has it.
inline std::string special_spelling(const std::filesystem::path& folder, const char* name,
                                    const std::string& otherwise) {
  for (const char* file : {"tokenizer_config.json", "special_tokens_map.json"}) {
    if (!file_exists(folder / file)) continue;
    const auto json = read_json(folder / file);
    const auto found = json.is_object() ? json.find(name) : json.end();
    if (!json.is_object() || found == json.end()) continue;
    if (found->is_string()) return found->template get<std::string>();
    if (found->is_object() && found->contains("content") && found->at("content").is_string())
      return found->at("content").template get<std::string>();
  }
  return otherwise;
}

/// vocab.json and merges.txt, as GPT-2, OPT and CLIP came. CLIP's is known by its first token.
inline std::unique_ptr<Tokenizer> read_bpe_tokenizer(const std::filesystem::path& folder) {
  Json vocabulary;
  auto file = read_bpe_files(folder, vocabulary);
  const bool clip = vocabulary.contains(clip_start) && vocabulary.contains(clip_end);
  file.rest = clip ? clip_steps(vocabulary, special_spelling(folder, "pad_token", clip_end))
                   : gpt2_steps(folder, vocabulary);
  return std::make_unique<BpeTokenizer>(TokenizerBuilder(std::move(file),
                                                         message(folder / "vocab.json") + ":",
                                                         message(folder / "merges.txt") + ":")
                                            .build());
}

}  // namespace detail

/// The tokenizer at a path: a GGUF file, a tokenizer.json, or a folder with tokenizer.json, else with vocab.json and
/// merges.txt, of GPT-2, OPT or CLIP. Throws FormatError as their readers do; Error where there is none of these,
/// naming what to do about a SentencePiece model.
inline std::unique_ptr<Tokenizer> load_tokenizer(const std::filesystem::path& path) {
  if (path.extension() == ".gguf") return read_gguf_tokenizer(GgufFile(path));
  if (path.extension() == ".json") return read_tokenizer_json(path);
  if (detail::file_exists(path / "tokenizer.json")) return read_tokenizer_json(path / "tokenizer.json");
  if (detail::file_exists(path / "vocab.json") && detail::file_exists(path / "merges.txt"))
    return detail::read_bpe_tokenizer(path);
  for (const char* name : {"spiece.model", "tokenizer.model"})
    MOLE_CHECK_AS(Error, !detail::file_exists(path / name), path, "holds", name,
                  "and no tokenizer.json: read it by read_sentencepiece() of <mole/text/sentencepiece.hpp>");
  throw Error(message(path, "holds no tokenizer: neither tokenizer.json, nor vocab.json and merges.txt"));
}

}  // namespace mole
