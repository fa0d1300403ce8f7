#pragma once
// A short name for what something is made of: the same bytes have the same one on any machine.

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <span>
#include <string>
#include <string_view>

namespace mole {

/// FNV-1a, 64 bits. It tells accidents apart, not forgeries.
struct Fingerprint {
  std::uint64_t state = 0xcbf29ce484222325U;

  Fingerprint& add(std::span<const std::byte> bytes) {
    for (const std::byte byte : bytes)
      state = (state ^ std::to_integer<std::uint64_t>(byte)) * 0x100000001b3U;
    return *this;
  }
  /// A text and its end, so that "ab", "c" is not "a", "bc".
  Fingerprint& add(std::string_view text) {
    add(std::as_bytes(std::span(text)));
    state = (state ^ 0xffU) * 0x100000001b3U;
    return *this;
  }
  /// Eight bytes, the least first.
  Fingerprint& add(std::uint64_t number) {
    for (int i = 0; i < 8; ++i) state = (state ^ (number >> (8 * i) & 0xffU)) * 0x100000001b3U;
    return *this;
  }
  /// Sixteen digits.
  std::string hex() const {
    char text[17];
    std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(state));
    return text;
  }
};

}  // namespace mole
