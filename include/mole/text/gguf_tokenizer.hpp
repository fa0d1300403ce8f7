#pragma once
// The tokenizer that a GGUF file carries: byte-level BPE ("gpt2"), or SentencePiece's BPE ("llama").

#include <algorithm>
#include <cstddef>
#include <memory>
#include <numeric>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <mole/core/error.hpp>
#include <mole/core/quote.hpp>
#include <mole/io/gguf.hpp>
#include <mole/text/bpe_tokenizer.hpp>

namespace mole {

namespace detail {

/// How the file's "pre" splits texts.
inline std::vector<text::Split> gguf_splits(const std::string& pre, const std::string& source) {
  using text::Regex, text::SplitBehavior;
  const auto words = [&](const char* digits) {
    return text::split_by(Regex(std::string(R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|)") +
                                    digits + R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
                                source),
                          SplitBehavior::isolated, false);
  };
  if (pre == "gpt-2" || pre == "gpt2") return {text::byte_level(false, true)};
  if (pre == "smollm") return {text::split_digits(true), text::byte_level(false, true)};
  if (pre == "llama-bpe" || pre == "llama3" || pre == "llama-v3")
    return {words(R"(\p{N}{1,3})"), text::byte_level(false, false)};
  if (pre == "qwen2") return {words(R"(\p{N})"), text::byte_level(false, false)};
  throw FormatError(message(source, "tokenizer.ggml.pre", quote(pre),
                            "is not known; known are gpt-2, llama-bpe, qwen2 and smollm"));
}

/// Merges of a SentencePiece BPE: any two tokens whose text is a third, the better its score the earlier.
inline void add_scored_merges(Bpe& bpe, const std::vector<std::string>& tokens,
                              const std::vector<double>& scores, const std::vector<double>& types) {
  std::vector<std::size_t> order(tokens.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return scores[a] > scores[b]; });
  const auto& vocabulary = bpe.vocabulary();
  for (const std::size_t i : order) {
    const std::string_view whole = tokens[i];
    if (!types.empty() && types[i] != 1) continue;
    // One of thousands of bytes would take millions of merges and is no word.
    if (whole.size() > 512) continue;
    for (std::size_t cut = 1; cut < whole.size(); ++cut) {
      const Index left = vocabulary.find(whole.substr(0, cut));
      const Index right = left < 0 ? -1 : vocabulary.find(whole.substr(cut));
      if (right >= 0) bpe.add_merge(left, right, static_cast<Index>(i));
    }
  }
}

}  // namespace detail

/// The tokenizer in a GGUF file. Throws FormatError, naming the key, where there is none, it is of another kind, or its
/// lists do not fit together.
inline std::unique_ptr<Tokenizer> read_gguf_tokenizer(const GgufFile& file) {
  const std::string source = message(file.path()) + ":";
  const std::string key = "tokenizer.ggml.";
  const std::string model = file.text(key + "model", "");
  MOLE_CHECK_FORMAT(!model.empty(), source, "the file holds no tokenizer");
  MOLE_CHECK_FORMAT(model == "gpt2" || model == "llama", source, "tokenizer.ggml.model", quote(model),
                    "is not known; known are gpt2 and llama");
  const bool scored = model == "llama";
  const auto tokens = file.texts(key + "tokens");
  const auto types = file.has(key + "token_type") ? file.numbers(key + "token_type") : std::vector<double>();
  const auto merges = file.has(key + "merges") ? file.texts(key + "merges") : std::vector<std::string>();
  const auto scores = scored ? file.numbers(key + "scores") : std::vector<double>();
  MOLE_CHECK_FORMAT(!tokens.empty(), source, "tokenizer.ggml.tokens is missing or empty");
  MOLE_CHECK_FORMAT(types.empty() || types.size() == tokens.size(), source,
                    "tokenizer.ggml.token_type should list", tokens.size(), "numbers");
  MOLE_CHECK_FORMAT(!scored || scores.size() == tokens.size(), source, "tokenizer.ggml.scores should list",
                    tokens.size(), "numbers");
  const Index last = static_cast<Index>(tokens.size()) - 1;
  const std::string pre = file.text(key + "pre", "gpt-2");

  BpeTokenizerParts parts;
  BpeOptions options;
  options.byte_fallback = options.fuse_unknown = scored;
  if (scored) options.unknown = file.integer(key + "unknown_token_id", 0, 0, last);
  options.ignore_merges = !scored && pre == "llama-bpe";
  parts.bpe = Bpe(options);
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    const bool control = !types.empty() && types[i] == 3, user = !types.empty() && types[i] == 4;
    // Unused ones may be spelled alike.
    if (!types.empty() && types[i] == 5) continue;
    parts.bpe.vocabulary().add(tokens[i], static_cast<Index>(i), source);
    if (!(control || user) || tokens[i].empty()) continue;
    MOLE_CHECK_FORMAT(text::well_formed(tokens[i]) == tokens[i], source, "the special token",
                      quote(tokens[i]), "is no UTF-8");
    parts.added.push_back({.id = static_cast<Index>(i), .content = tokens[i], .special = control});
  }
  if (scored) {
    detail::add_scored_merges(parts.bpe, tokens, scores, types);
    const std::string mark = "\xE2\x96\x81";
    if (file.flag(key + "add_space_prefix", true))
      parts.normalisers.push_back([mark](std::string in) { return in.empty() ? in : mark + in; });
    parts.normalisers.push_back([mark](std::string in) { return text::replaced(in, " ", mark); });
    parts.decoders = {[mark](text::Pieces pieces) {
                        for (auto& piece : pieces) piece = text::replaced(piece, mark, " ");
                        return pieces;
                      },
                      text::joined_bytes,
                      [](const text::Pieces& pieces) {
                        std::string all;
                        for (const auto& piece : pieces) all += piece;
                        if (all.starts_with(' ')) all.erase(0, 1);
                        return text::Pieces{all};
                      }};
  } else {
    parts.bpe.reserve_merges(merges.size());
    for (const auto& merge : merges) {
      // A token may begin with a space only in a file that is no byte-level one.
      const auto space = merge.find(' ', 1);
      MOLE_CHECK_FORMAT(space != merge.npos, source, "the merge", quote(merge),
                        "should be two tokens with a space between them");
      parts.bpe.add_merge(std::string_view(merge).substr(0, space), std::string_view(merge).substr(space + 1),
                          source);
    }
    if (pre == "qwen2")
      parts.normalisers.push_back([](std::string in) { return text::normal_form(in, "NFC"); });
    parts.splits = detail::gguf_splits(pre, source);
    parts.decoders = {text::bytes_of};
  }
  parts.bpe.finish();
  if (file.flag(key + "add_bos_token", scored || pre == "llama-bpe") && file.has(key + "bos_token_id"))
    parts.before.push_back(file.integer(key + "bos_token_id", 0, 0, last));
  if (file.flag(key + "add_eos_token", false) && file.has(key + "eos_token_id"))
    parts.after.push_back(file.integer(key + "eos_token_id", 0, 0, last));
  parts.check_tokens(source);
  return std::make_unique<BpeTokenizer>(std::move(parts));
}

}  // namespace mole
