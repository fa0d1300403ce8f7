#pragma once
// Unicode by ICU: well-formed UTF-8, normal forms, categories, and regular expressions whose matches are places in
// UTF-8.

#include <algorithm>
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <unicode/normalizer2.h>
#include <unicode/regex.h>
#include <unicode/uchar.h>
#include <unicode/unistr.h>

#include <mole/core/error.hpp>
#include <mole/core/quote.hpp>

namespace mole::text {

/// A part [begin, end) of a text, in bytes.
struct Span {
  std::size_t begin = 0, end = 0;
};

inline constexpr std::string_view replacement = "\xEF\xBF\xBD";

inline void append_utf8(std::string& text, char32_t c) {
  const auto put = [&](char32_t byte) { text += static_cast<char>(byte); };
  if (c < 0x80) {
    put(c);
  } else if (c < 0x800) {
    put(0xc0 | c >> 6);
    put(0x80 | (c & 63));
  } else if (c < 0x10000) {
    put(0xe0 | c >> 12);
    put(0x80 | (c >> 6 & 63));
    put(0x80 | (c & 63));
  } else {
    put(0xf0 | c >> 18);
    put(0x80 | (c >> 12 & 63));
    put(0x80 | (c >> 6 & 63));
    put(0x80 | (c & 63));
  }
}

/// How many bytes at the start of `text`, which does not begin with a character, are the beginning of one: the maximal
/// part that Python and Rust replace at once; 1 at least.
inline std::size_t broken_bytes(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const auto follows = [&](std::size_t i, unsigned low, unsigned high) {
    return i < text.size() && byte(i) >= low && byte(i) <= high;
  };
  const unsigned first = byte(0);
  if (first >= 0xe0 && first <= 0xef)
    return follows(1, first == 0xe0 ? 0xa0 : 0x80, first == 0xed ? 0x9f : 0xbf) ? 2 : 1;
  if (first >= 0xf0 && first <= 0xf4 && follows(1, first == 0xf0 ? 0x90 : 0x80, first == 0xf4 ? 0x8f : 0xbf))
    return follows(2, 0x80, 0xbf) ? 3 : 2;
  return 1;
}

/// The text with every part that is no UTF-8 as U+FFFD.
inline std::string well_formed(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  while (!text.empty()) {
    std::size_t plain = 0;
    while (plain < text.size() && static_cast<unsigned char>(text[plain]) < 0x80) ++plain;
    result += text.substr(0, plain);
    text.remove_prefix(plain);
    if (text.empty()) break;
    const auto c = first_code_point(text);
    const std::size_t taken = c.bytes > 0 ? c.bytes : broken_bytes(text);
    result += c.bytes > 0 ? text.substr(0, taken) : replacement;
    text.remove_prefix(taken);
  }
  return result;
}

/// f(code point, span) for each character of well-formed UTF-8.
template <class F>
void each_character(std::string_view text, F f) {
  for (std::size_t at = 0; at < text.size();) {
    const auto c = first_code_point(text.substr(at));
    const std::size_t end = at + std::max<std::size_t>(1, c.bytes);
    f(c.value, Span{at, end});
    at = end;
  }
}

namespace detail {

inline void check_icu(UErrorCode status, const char* what) {
  if (U_FAILURE(status) != 0) throw Error(message("ICU:", what, "failed:", u_errorName(status)));
}

inline icu::UnicodeString utf16(std::string_view text) {
  MOLE_CHECK_ARG(text.size() < (std::size_t{1} << 30), "a text of", text.size(), "bytes is too long");
  return icu::UnicodeString::fromUTF8(icu::StringPiece(text.data(), static_cast<int32_t>(text.size())));
}

inline std::string utf8(const icu::UnicodeString& text) {
  std::string result;
  text.toUTF8String(result);
  return result;
}

}  // namespace detail

/// The text in normal form C, D, KC or KD, told as "NFC" and so on. Throws ArgumentError for another name.
inline std::string normal_form(std::string_view text, std::string_view form) {
  if (std::all_of(text.begin(), text.end(), [](char c) { return static_cast<unsigned char>(c) < 0x80; }))
    return std::string(text);
  UErrorCode status = U_ZERO_ERROR;
  const icu::Normalizer2* by = form == "NFC"    ? icu::Normalizer2::getNFCInstance(status)
                               : form == "NFD"  ? icu::Normalizer2::getNFDInstance(status)
                               : form == "NFKC" ? icu::Normalizer2::getNFKCInstance(status)
                               : form == "NFKD" ? icu::Normalizer2::getNFKDInstance(status)
                                                : nullptr;
  MOLE_CHECK_ARG(by, "unknown normal form", quote(form));
  detail::check_icu(status, "a normal form");
  const auto result = by->normalize(detail::utf16(text), status);
  detail::check_icu(status, "a normal form");
  return detail::utf8(result);
}

/// Lower case, character by character: what stands around one does not matter.
inline std::string lower_case(std::string_view text) {
  std::string result;
  result.reserve(text.size());
  each_character(text, [&](char32_t c, Span) {
    // The one character whose lower case is two.
    if (c == 0x130) {
      result += "i";
      append_utf8(result, 0x307);
    } else {
      append_utf8(result, static_cast<char32_t>(u_tolower(static_cast<UChar32>(c))));
    }
  });
  return result;
}

inline bool is_space(char32_t c) { return u_isUWhiteSpace(static_cast<UChar32>(c)) != 0; }
/// Category N: digits of any script, and fractions and Roman numerals.
inline bool is_number(char32_t c) {
  const auto category = u_charType(static_cast<UChar32>(c));
  return category == U_DECIMAL_DIGIT_NUMBER || category == U_LETTER_NUMBER || category == U_OTHER_NUMBER;
}
/// What \w takes: letters, marks, decimal digits, connectors such as _, and joiners.
inline bool is_word(char32_t c) {
  const auto x = static_cast<UChar32>(c);
  return u_isUAlphabetic(x) != 0 || (U_GET_GC_MASK(x) & (U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK)) != 0 ||
         u_hasBinaryProperty(x, UCHAR_JOIN_CONTROL) != 0;
}

namespace detail {

/// The pattern with \s, \d and \w outside brackets put into some. ICU repeats a bracket in a loop, and anything else on
/// its stack, which a long run of spaces would fill.
inline std::string bracketed(std::string_view pattern) {
  std::string result;
  int depth = 0;
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '[') ++depth;
    if (c == ']' && depth > 0) --depth;
    if (c != '\\' || i + 1 == pattern.size()) {
      result += c;
      continue;
    }
    const char escaped = pattern[++i];
    const bool set = std::string_view("sSdDwW").find(escaped) != std::string_view::npos;
    if (set && depth == 0)
      result += std::string("[\\") + escaped + "]";
    else
      result += std::string("\\") + escaped;
  }
  return result;
}

}  // namespace detail

/// A regular expression.
class Regex {
 public:
  static constexpr std::size_t longest = 4096;

  /// Throws FormatError, beginning with `source`, for one that ICU does not understand or of more than `longest` bytes.
  Regex(std::string_view pattern, const std::string& source) {
    MOLE_CHECK_FORMAT(pattern.size() <= longest, source, "a regular expression has", pattern.size(),
                      "bytes; at most", longest, "are read");
    UErrorCode status = U_ZERO_ERROR;
    UParseError where;
    pattern_.reset(icu::RegexPattern::compile(detail::utf16(detail::bracketed(pattern)), where, status));
    MOLE_CHECK_FORMAT(U_SUCCESS(status) != 0, source, "the regular expression", quote(pattern),
                      "is not understood:", u_errorName(status));
  }

  /// Its matches in well-formed UTF-8, in order; empty ones are left out. Throws Error where they take far more steps
  /// than a text of that length should, as those of (a+)+b do.
  std::vector<Span> matches(std::string_view text) const {
    UErrorCode status = U_ZERO_ERROR;
    // The matcher keeps a reference to its input.
    const auto input = detail::utf16(text);
    const std::unique_ptr<icu::RegexMatcher> matcher(pattern_->matcher(input, status));
    // Enough for a run of millions of characters that has to be taken back.
    matcher->setStackLimit(1 << 28, status);
    // Each unit is some ten thousand steps back: a thousand of them a byte, and what a short text may take.
    matcher->setTimeLimit(static_cast<int32_t>(50 + text.size() / 10), status);
    detail::check_icu(status, "a regular expression");
    std::vector<Span> found;
    std::size_t byte = 0;
    int32_t unit = 0;
    const auto byte_at = [&](int32_t wanted) {
      while (unit < wanted) {
        const auto lead = static_cast<unsigned char>(text[byte]);
        byte += lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
        unit += lead < 0xf0 ? 1 : 2;
      }
      return byte;
    };
    while (matcher->find(status) != 0) {
      const int32_t first = matcher->start(status), last = matcher->end(status);
      if (first == last) continue;
      const auto begin = byte_at(first);
      found.push_back({begin, byte_at(last)});
    }
    MOLE_CHECK_AS(Error, status != U_REGEX_TIME_OUT && status != U_REGEX_STACK_OVERFLOW,
                  "the tokenizer's regular expression", quote(mole::text::detail::utf8(pattern_->pattern())),
                  "takes too long on a text of", text.size(), "bytes");
    detail::check_icu(status, "a regular expression");
    return found;
  }

 private:
  std::shared_ptr<icu::RegexPattern> pattern_;
};

}  // namespace mole::text
