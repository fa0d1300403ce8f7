#pragma once
// The steps of a tokenizer of the byte-pair family: what splits a text into pieces, and what makes pieces a text again.

#include <array>
#include <cstddef>
#include <functional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include <mole/text/unicode.hpp>

namespace mole::text {

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

}  // namespace mole::text
