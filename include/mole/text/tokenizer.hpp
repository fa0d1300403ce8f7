#pragma once
// What every tokenizer offers: text to tokens and back.

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <mole/core/shape.hpp>

namespace mole {

/// How a text becomes tokens. Users' texts take the defaults: what looks like a special token in them is spelled out.
struct EncodeOptions {
  bool parse_special = false;  ///< special tokens that the text spells count as such, as in a template
  bool add_special = false;    ///< what the tokenizer puts around a text, such as the one that begins it
};

/// Text to tokens and back. Texts are UTF-8; what is not is replaced by U+FFFD. Throws Error for a text of which the
/// tokenizer's own steps would make something huge, or take very long over: those of real tokenizers do not.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  /// The tokens of a text.
  virtual std::vector<Index> encode(std::string_view text, const EncodeOptions& options = {}) const = 0;
  /// The text of tokens. Special ones are left out unless `special` is set; numbers that are no token always.
  virtual std::string decode(std::span<const Index> tokens, bool special = false) const = 0;
  /// The number of a token by its spelling, such as "<|im_end|>"; -1 where there is none.
  virtual Index find(std::string_view token) const = 0;
  /// One above the largest token.
  virtual Index size() const = 0;

  std::string decode(const std::vector<Index>& tokens, bool special = false) const {
    return decode(std::span<const Index>(tokens), special);
  }
};

/// Text as its tokens come, by whole characters: a character of several tokens waits for the last of them.
class TextStream {
 public:
  explicit TextStream(const Tokenizer& tokenizer) : tokenizer_(tokenizer) {}

  /// How many tokens may wait for the rest of a character, which has four bytes at most: bytes that never make one are
  /// given as they are, and each token costs the same however many came before it.
  static constexpr std::size_t most_waiting = 16;

  /// What there is to print after this token; often nothing.
  std::string put(Index token) {
    tokens_.push_back(token);
    const auto before = window(read_), now = window(tokens_.size());
    constexpr std::string_view broken = "\xEF\xBF\xBD";
    const bool nothing = now.size() <= before.size();
    const bool waits = tokens_.size() - read_ < most_waiting;
    if (waits && (nothing || std::string_view(now).ends_with(broken))) return {};
    begin_ = read_;
    read_ = tokens_.size();
    return rest(now, before);
  }

  /// The rest, whole or not.
  std::string finish() {
    const auto before = window(read_), now = window(tokens_.size());
    begin_ = read_ = tokens_.size();
    return rest(now, before);
  }

 private:
  /// What a text has beyond another, in whole characters: a decoder may change what came before.
  static std::string rest(const std::string& now, const std::string& before) {
    std::size_t at = std::min(before.size(), now.size());
    while (at < now.size() && (static_cast<unsigned char>(now[at]) & 0xc0U) == 0x80) ++at;
    return now.substr(at);
  }

  /// From a few tokens back: some decoders treat the first one differently.
  std::string window(std::size_t end) const {
    return tokenizer_.decode(std::span<const Index>(tokens_).subspan(begin_, end - begin_));
  }

  const Tokenizer& tokenizer_;
  std::vector<Index> tokens_;
  std::size_t begin_ = 0, read_ = 0;
};

}  // namespace mole
