#pragma once
// Texts that come from files, made fit for a message: names hold terminal escapes, bytes that are no UTF-8, or
// a megabyte.

#include <array>
#include <cstddef>
#include <string>
#include <string_view>

namespace mole {

/// The first character of a UTF-8 text. `bytes` is 0 where the text is empty or does not begin with
/// well-formed UTF-8.
struct CodePoint {
  char32_t value = 0;
  std::size_t bytes = 0;
};

/// Decodes the character at the start of `text`; overlong forms and surrogates are not well-formed.
constexpr CodePoint first_code_point(std::string_view text) {
  if (text.empty()) return {};
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  if (byte(0) < 0x80) return {byte(0), 1};
  const std::size_t length = byte(0) >= 0xf0 ? 4 : byte(0) >= 0xe0 ? 3 : 2;
  if (byte(0) < 0xc2 || byte(0) > 0xf4 || text.size() < length) return {};
  char32_t value = byte(0) & (0x7fU >> length);
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0U) != 0x80) return {};
    value = value << 6 | (byte(i) & 0x3fU);
  }
  constexpr std::array<char32_t, 5> least{0, 0, 0x80, 0x800, 0x10000};
  if (value < least[length] || value > 0x10ffff || (value >= 0xd800 && value < 0xe000)) return {};
  return {value, length};
}

namespace detail {

// Characters that a terminal obeys, or that change how the text around them looks.
constexpr bool hidden(char32_t c) {
  return c < 0x20 || (c >= 0x7f && c < 0xa0) || (c >= 0x200b && c <= 0x200f) ||
         (c >= 0x2028 && c <= 0x202e) || (c >= 0x2060 && c <= 0x2069) || c == 0xfeff;
}

}  // namespace detail

/// `text` with every control character and every byte that is no UTF-8 as \xNN.
inline std::string printable(std::string_view text) {
  constexpr std::string_view digits = "0123456789abcdef";
  std::string shown;
  while (!text.empty()) {
    const auto [value, bytes] = first_code_point(text);
    const std::size_t taken = bytes == 0 ? 1 : bytes;
    if (bytes > 0 && !detail::hidden(value)) {
      shown += text.substr(0, taken);
    } else {
      for (const char c : text.substr(0, taken)) {
        const auto byte = static_cast<unsigned char>(c);
        shown += "\\x";
        shown += digits[byte >> 4];
        shown += digits[byte & 15U];
      }
    }
    text.remove_prefix(taken);
  }
  return shown;
}

/// How many bytes of `text`, from its start, are well-formed UTF-8: all of them in a text that is.
constexpr std::size_t utf8_bytes(std::string_view text) {
  std::size_t at = 0;
  while (at < text.size()) {
    const auto bytes = first_code_point(text.substr(at)).bytes;
    if (bytes == 0) break;
    at += bytes;
  }
  return at;
}

/// `text` if it has at most `most` bytes, else its beginning and its end around "...", `most` bytes in all.
/// No UTF-8 character is cut in two.
inline std::string shortened(std::string_view text, std::size_t most) {
  if (text.size() <= most) return std::string(text);
  const auto continues = [&](std::size_t i) {
    return i < text.size() && (static_cast<unsigned char>(text[i]) & 0xc0U) == 0x80;
  };
  // Bytes that are no UTF-8 may continue for ever: a character has at most 4.
  std::size_t head = most > 3 ? (most - 3) / 2 : 0, tail = text.size() - head;
  for (int i = 0; i < 3 && head > 0 && continues(head); ++i) --head;
  for (int i = 0; i < 3 && continues(tail); ++i) ++tail;
  return std::string(text.substr(0, head)) + "..." + std::string(text.substr(tail));
}

/// A name or value from a file as a message shows it: in single quotes, printable, at most `most` bytes.
inline std::string quote(std::string_view text, std::size_t most = 100) {
  // Cut first, as the text may be long, and again, as an escape takes four bytes.
  return "'" + shortened(printable(shortened(text, most)), most) + "'";
}

}  // namespace mole
