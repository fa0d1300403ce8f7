#pragma once
// Sets of characters in the patterns of pattern.hpp.

#include <bitset>
#include <utility>
#include <vector>

#include <mole/core/error.hpp>

namespace mole {

/// A regular expression that Python may know and that pattern.hpp does not.
struct UnsupportedPattern : FormatError {
  using FormatError::FormatError;
};

namespace detail {

/// Which characters stand at one place of a text.
class CharacterSet {
 public:
  void add(char32_t first, char32_t last) {
    for (char32_t c = first; c <= last && c < 128; ++c) ascii_.set(c);
    if (last >= 128) beyond_.emplace_back(first, last);
  }
  // \d, \w, \s and, in capitals, what they leave out. Python's classes go by Unicode.
  void add_class(char name) {
    for (char32_t c = 0; c < 128; ++c)
      if (in_class(c, name)) ascii_.set(c);
    needs_unicode_ = true;
  }
  // To be called once, after the last add().
  void finish(bool negated, bool fold_case) {
    if (fold_case) {
      if (!beyond_.empty())
        throw UnsupportedPattern(
            "the flag i is supported for ASCII alone, and the pattern has other characters");
      for (char32_t c = 'a'; c <= 'z'; ++c)
        if (ascii_[c] || ascii_[c - 32]) ascii_.set(c).set(c - 32);
      needs_unicode_ = true;
    }
    if (negated) ascii_.flip();
    negated_ = negated;
  }
  bool contains(char32_t c) const {
    if (c < 128) return ascii_[c];
    if (needs_unicode_)
      throw UnsupportedPattern("\\d, \\w, \\s, \\b and the flag i are supported for names of ASCII alone");
    for (const auto& [first, last] : beyond_)
      if (first <= c && c <= last) return !negated_;
    return negated_;
  }

  static bool in_class(char32_t c, char name) {
    const bool digit = c >= '0' && c <= '9';
    const bool letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    switch (name) {
      case 'd':
        return digit;
      case 'w':
        return digit || letter || c == '_';
      case 's':
        return c == ' ' || (c >= 9 && c <= 13) || (c >= 0x1c && c <= 0x1f);
      default:
        return !in_class(c, static_cast<char>(name + 32));
    }
  }

 private:
  std::bitset<128> ascii_;
  std::vector<std::pair<char32_t, char32_t>> beyond_;
  bool negated_ = false, needs_unicode_ = false;
};

}  // namespace detail

}  // namespace mole
