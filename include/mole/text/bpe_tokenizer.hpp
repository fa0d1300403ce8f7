#pragma once
// A tokenizer of the byte-pair family as a chain of steps: added tokens are cut out, the rest is normalised, split into
// words, and each word encoded; decoding undoes it.

#include <algorithm>
#include <array>
#include <cstddef>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <mole/text/bpe.hpp>
#include <mole/text/steps.hpp>
#include <mole/text/tokenizer.hpp>

namespace mole {

/// A token that is found in texts before anything else is done to them.
struct AddedToken {
  Index id = 0;
  std::string content;
  bool single_word = false;  ///< only where no letter or digit stands beside it
  bool lstrip = false;       ///< takes the spaces before it along
  bool rstrip = false;       ///< and those after it
  bool normalized = false;   ///< is looked for in the normalised text
  bool special = false;      ///< has a meaning of its own
};

/// What a tokenizer is made of.
struct BpeTokenizerParts {
  Bpe bpe;
  std::vector<AddedToken> added;
  std::vector<text::Normalise> normalisers;
  std::vector<text::Split> splits;
  std::vector<text::Decode> decoders;
  std::vector<Index> before, after;  ///< what add_special puts around a text

  /// Throws FormatError, beginning with `source`, where a number that stands around a text, or for what is unknown, is no
  /// token.
  void check_tokens(const std::string& source) const {
    std::vector<Index> numbers;
    for (const auto& token : added) numbers.push_back(token.id);
    std::sort(numbers.begin(), numbers.end());
    const auto known = [&](Index id) {
      return bpe.vocabulary().spelling(id) || std::binary_search(numbers.begin(), numbers.end(), id);
    };
    for (const auto* frame : {&before, &after})
      for (const Index id : *frame)
        MOLE_CHECK_FORMAT(known(id), source, "a text should begin or end with token", id, ", which is none");
    const Index unknown = bpe.options().unknown;
    MOLE_CHECK_FORMAT(unknown < 0 || known(unknown), source, "the unknown token is", unknown,
                      ", which is none");
  }
};

namespace detail {

/// Throws Error where a tokenizer's steps made far more of a text than any writing needs: each of a hundred steps may
/// make two letters of one.
inline void check_growth(std::size_t bytes, std::size_t of) {
  MOLE_CHECK_AS(Error, bytes <= 1'000'000 + 100 * of, "the tokenizer makes", bytes, "bytes of a text of", of);
}
inline void check_growth(const text::Pieces& pieces, std::size_t of) {
  std::size_t bytes = 0;
  for (const auto& piece : pieces) bytes += piece.size();
  check_growth(bytes, of);
}

}  // namespace detail

/// Byte-level and byte-fallback BPE: GPT-2, OPT, Llama, Qwen, SmolLM2, CLIP.
class BpeTokenizer final : public Tokenizer {
 public:
  /// Throws ArgumentError for an added token without text.
  explicit BpeTokenizer(BpeTokenizerParts parts) : parts_(std::move(parts)) {
    size_ = parts_.bpe.vocabulary().size();
    for (std::size_t i = 0; i < parts_.added.size(); ++i) {
      auto& token = parts_.added[i];
      MOLE_CHECK_ARG(!token.content.empty(), "tokenizer: the added token", token.id, "is empty");
      added_by_id_[token.id] = i;
      added_by_text_[token.content] = i;
      size_ = std::max(size_, token.id + 1);
      const auto content = token.normalized ? normalised(token.content) : token.content;
      if (!content.empty()) searched_[token.normalized].add(content, i);
    }
    for (auto& search : searched_) search.sort();
  }

  std::vector<Index> encode(std::string_view text, const EncodeOptions& options) const override {
    std::vector<Index> tokens;
    if (options.add_special) tokens = parts_.before;
    const auto whole = text::well_formed(text);
    each_part(whole, false, options.parse_special, [&](std::string_view part, Index added, bool first) {
      if (added >= 0) return tokens.push_back(added);
      const auto normal = normalised(std::string(part));
      each_part(normal, true, options.parse_special, [&](std::string_view rest, Index found, bool begins) {
        if (found >= 0) return tokens.push_back(found);
        text::Pieces pieces{std::string(rest)};
        for (const auto& split : parts_.splits) {
          pieces = split(std::move(pieces), first && begins);
          detail::check_growth(pieces, rest.size());
        }
        for (const auto& piece : pieces) parts_.bpe.encode(piece, tokens);
      });
    });
    if (options.add_special) tokens.insert(tokens.end(), parts_.after.begin(), parts_.after.end());
    return tokens;
  }

  using Tokenizer::decode;
  std::string decode(std::span<const Index> tokens, bool special) const override {
    text::Pieces pieces;
    for (const Index id : tokens) {
      const auto added = added_by_id_.find(id);
      if (added != added_by_id_.end()) {
        const auto& token = parts_.added[added->second];
        if (special || !token.special) pieces.push_back(token.content);
      } else if (const auto* spelling = parts_.bpe.vocabulary().spelling(id)) {
        pieces.push_back(*spelling);
      }
    }
    std::size_t before = 0;
    for (const auto& piece : pieces) before += piece.size();
    for (const auto& decode : parts_.decoders) {
      pieces = decode(std::move(pieces));
      detail::check_growth(pieces, before);
    }
    std::string text;
    for (const auto& piece : pieces) text += piece;
    // Spellings in a GGUF file may be any bytes.
    return text::well_formed(text);
  }

  Index find(std::string_view token) const override {
    const auto added = added_by_text_.find(token);
    return added != added_by_text_.end() ? parts_.added[added->second].id
                                         : parts_.bpe.vocabulary().find(token);
  }
  Index size() const override { return size_; }

 private:
  /// Spellings to look for, by their first byte, the longest first.
  struct Search {
    std::array<std::vector<std::pair<std::string, std::size_t>>, 256> by_byte;
    bool any = false;

    void add(const std::string& content, std::size_t token) {
      by_byte[static_cast<unsigned char>(content.front())].emplace_back(content, token);
      any = true;
    }
    void sort() {
      for (auto& list : by_byte)
        std::stable_sort(list.begin(), list.end(),
                         [](const auto& a, const auto& b) { return a.first.size() > b.first.size(); });
    }
  };

  std::string normalised(std::string text) const {
    const std::size_t before = text.size();
    for (const auto& step : parts_.normalisers) {
      text = step(std::move(text));
      detail::check_growth(text.size(), before);
    }
    return text;
  }

  static bool ends_in_word(std::string_view text) {
    std::size_t at = text.size();
    while (at > 0 && (static_cast<unsigned char>(text[at - 1]) & 0xc0U) == 0x80) --at;
    return at > 0 && text::is_word(first_code_point(text.substr(at - 1)).value);
  }

  /// f(part, added token or -1, whether it begins the text) for each part of a text, in order.
  template <class F>
  void each_part(std::string_view text, bool normalized, bool special, F f) const {
    const auto& search = searched_[normalized];
    std::size_t done = 0;
    for (std::size_t at = 0; search.any && at < text.size();) {
      const AddedToken* token = nullptr;
      std::size_t begin = at, end = at;
      for (const auto& [content, number] : search.by_byte[static_cast<unsigned char>(text[at])]) {
        const auto& candidate = parts_.added[number];
        if ((candidate.special && !special) || !text.substr(at).starts_with(content)) continue;
        token = &candidate;
        end = at + content.size();
        break;
      }
      if (!token) {
        ++at;
        continue;
      }
      at = end;
      if (token->single_word) {
        const auto after = text.substr(end);
        if (ends_in_word(text.substr(0, begin)) ||
            (!after.empty() && text::is_word(first_code_point(after).value)))
          continue;
      }
      if (token->lstrip)
        while (begin > done) {
          std::size_t start = begin - 1;
          while (start > done && (static_cast<unsigned char>(text[start]) & 0xc0U) == 0x80) --start;
          if (!text::is_space(first_code_point(text.substr(start)).value)) break;
          begin = start;
        }
      if (token->rstrip)
        while (end < text.size()) {
          const auto c = first_code_point(text.substr(end));
          if (!text::is_space(c.value)) break;
          end += c.bytes;
        }
      begin = std::max(begin, done);
      if (begin > done) f(text.substr(done, begin - done), Index{-1}, done == 0);
      f(text.substr(begin, end - begin), token->id, false);
      done = end;
      at = std::max(at, end);
    }
    if (done < text.size()) f(text.substr(done), Index{-1}, done == 0);
  }

  BpeTokenizerParts parts_;
  std::unordered_map<Index, std::size_t> added_by_id_;
  std::unordered_map<std::string, std::size_t, detail::TextHash, std::equal_to<>> added_by_text_;
  std::array<Search, 2> searched_;
  Index size_ = 0;
};

}  // namespace mole
