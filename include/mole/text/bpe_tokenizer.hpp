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
#include <mole/text/tokenizer.hpp>
#include <mole/text/unicode.hpp>

namespace mole {

namespace text {

using Pieces = std::vector<std::string>;
/// A step of the normalisation.
using Normalise = std::function<std::string(std::string)>;
/// A step that splits pieces; `first`: the first of them begins the text.
using Split = std::function<Pieces(Pieces, bool first)>;
/// A step of the decoding, from the tokens' spellings on.
using Decode = std::function<Pieces(Pieces)>;

/// What becomes of the matches of a pattern that splits.
enum class SplitBehavior { removed, isolated, merged_with_previous, merged_with_next, contiguous };

/// The piece cut at the matches; with `invert` at what lies between them.
inline void split_at(std::string_view piece, const std::vector<Span>& matches, SplitBehavior behavior,
                     bool invert, Pieces& pieces) {
  struct Part {
    Span span;
    bool match;
  };
  std::vector<Part> parts;
  std::size_t at = 0;
  const auto add = [&](std::size_t begin, std::size_t end, bool match) {
    if (begin < end) parts.push_back({{begin, end}, match != invert});
  };
  for (const auto& m : matches) {
    add(at, m.begin, false);
    add(m.begin, m.end, true);
    at = m.end;
  }
  add(at, piece.size(), false);

  std::vector<Span> spans;
  bool before = false;
  if (behavior == SplitBehavior::merged_with_next) {
    for (auto part = parts.rbegin(); part != parts.rend(); ++part) {
      if (part->match && !before && !spans.empty())
        spans.back().begin = part->span.begin;
      else
        spans.push_back(part->span);
      before = part->match;
    }
    std::reverse(spans.begin(), spans.end());
  } else {
    for (const auto& part : parts) {
      if (behavior == SplitBehavior::removed) {
        if (!part.match) spans.push_back(part.span);
        continue;
      }
      const bool joins = (behavior == SplitBehavior::merged_with_previous && part.match && !before) ||
                         (behavior == SplitBehavior::contiguous && part.match == before);
      if (joins && !spans.empty())
        spans.back().end = part.span.end;
      else
        spans.push_back(part.span);
      before = part.match;
    }
  }
  for (const auto& span : spans) pieces.emplace_back(piece.substr(span.begin, span.end - span.begin));
}

/// GPT-2's alphabet of bytes: each a printable character.
struct ByteAlphabet {
  std::array<std::string, 256> spelling;
  std::unordered_map<char32_t, char> byte;

  ByteAlphabet() {
    char32_t next = 256;
    for (char32_t b = 0; b < 256; ++b) {
      const bool itself = (b >= 33 && b <= 126) || (b >= 161 && b <= 172) || b >= 174;
      const char32_t c = itself ? b : next++;
      append_utf8(spelling[b], c);
      byte[c] = static_cast<char>(b);
    }
  }
};

inline const ByteAlphabet& byte_alphabet() {
  static const ByteAlphabet alphabet;
  return alphabet;
}

/// How GPT-2 splits text into words.
inline constexpr std::string_view gpt2_pattern =
    R"('(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

/// Splits at a pattern.
inline Split split_by(Regex regex, SplitBehavior behavior, bool invert) {
  return [=](const Pieces& pieces, bool) {
    Pieces result;
    for (const auto& piece : pieces) split_at(piece, regex.matches(piece), behavior, invert, result);
    return result;
  };
}

/// The bytes of each piece in GPT-2's alphabet, after a split into words and a space in front where wanted.
inline Split byte_level(bool prefix_space, bool use_regex) {
  const Regex regex(gpt2_pattern, "GPT-2:");
  return [=](const Pieces& pieces, bool) {
    Pieces words;
    for (const auto& piece : pieces) {
      const std::string text = prefix_space && !piece.starts_with(' ') ? " " + piece : piece;
      // A single character is a word, whatever it is.
      if (use_regex && first_code_point(text).bytes != text.size())
        split_at(text, regex.matches(text), SplitBehavior::isolated, false, words);
      else if (!text.empty())
        words.push_back(text);
    }
    for (auto& word : words) {
      std::string spelled;
      spelled.reserve(2 * word.size());
      for (const char c : word) spelled += byte_alphabet().spelling[static_cast<unsigned char>(c)];
      word = std::move(spelled);
    }
    return words;
  };
}

/// Numbers apart from all else, digit by digit if `each`.
inline Split split_digits(bool each) {
  return [=](const Pieces& pieces, bool) {
    Pieces result;
    for (const auto& piece : pieces) {
      std::vector<Span> matches;
      each_character(piece, [&](char32_t c, Span span) {
        if (is_number(c)) matches.push_back(span);
      });
      split_at(piece, matches, each ? SplitBehavior::isolated : SplitBehavior::contiguous, false, result);
    }
    return result;
  };
}

inline std::string replaced(std::string_view text, std::string_view from, std::string_view to) {
  std::string result;
  for (std::size_t at = 0; at < text.size();) {
    const auto found = from.empty() ? text.npos : text.find(from, at);
    result += text.substr(at, found == text.npos ? text.npos : found - at);
    if (found == text.npos) break;
    result += to;
    at = found + from.size();
  }
  return result;
}

/// Pieces of GPT-2's alphabet as the bytes they stand for; one with another character stands for itself.
inline Pieces bytes_of(const Pieces& pieces) {
  std::string bytes;
  for (const auto& piece : pieces) {
    std::string own;
    bool known = true;
    each_character(piece, [&](char32_t c, Span) {
      const auto found = byte_alphabet().byte.find(c);
      known = known && found != byte_alphabet().byte.end();
      if (known) own += found->second;
    });
    bytes += known ? own : piece;
  }
  return {well_formed(bytes)};
}

/// Tokens "<0xE2>" as the characters that they make up; a run that makes up none, a U+FFFD each.
inline Pieces joined_bytes(const Pieces& pieces) {
  Pieces result;
  std::string run;
  const auto close = [&] {
    if (run.empty()) return;
    if (well_formed(run) == run)
      result.push_back(run);
    else
      result.insert(result.end(), run.size(), std::string(replacement));
    run.clear();
  };
  for (const auto& piece : pieces) {
    const auto digit = [&](std::size_t i) {
      const char c = piece[i];
      return c >= '0' && c <= '9'   ? c - '0'
             : c >= 'A' && c <= 'F' ? c - 'A' + 10
             : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                    : -1;
    };
    const bool byte = piece.size() == 6 && piece.starts_with("<0x") && piece.back() == '>' && digit(3) >= 0 &&
                      digit(4) >= 0;
    if (byte) {
      run += static_cast<char>(digit(3) * 16 + digit(4));
    } else {
      close();
      result.push_back(piece);
    }
  }
  close();
  return result;
}

}  // namespace text

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
};

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
        for (const auto& split : parts_.splits) pieces = split(std::move(pieces), first && begins);
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
    for (const auto& decode : parts_.decoders) pieces = decode(std::move(pieces));
    std::string text;
    for (const auto& piece : pieces) text += piece;
    return text;
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
    for (const auto& step : parts_.normalisers) text = step(std::move(text));
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
