#pragma once
// Options as text and back, as files keep them.

#include <charconv>
#include <cmath>
#include <concepts>
#include <string>
#include <type_traits>

#include <mole/core/error.hpp>
#include <mole/core/shape.hpp>

namespace mole::detail {

inline std::string field_text(bool value) { return value ? "true" : "false"; }
inline std::string field_text(Index value) { return std::to_string(value); }
/// The shortest digits that read back as the same number.
inline std::string field_text(double value) {
  char digits[32];
  return {digits, std::to_chars(digits, digits + sizeof digits, value).ptr};
}
template <class Enum>
requires std::is_enum_v<Enum> std::string field_text(Enum value) { return to_string(value); }

inline void read_field(const std::string& text, bool& value) {
  MOLE_CHECK_ARG(text == "true" || text == "false", "should be true or false and is", "'" + text + "'");
  value = text == "true";
}
template <class Number>
requires(std::same_as<Number, Index> || std::same_as<Number, double>) void read_field(const std::string& text,
                                                                                      Number& value) {
  Number read{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), read);
  const bool whole = error == std::errc() && end == text.data() + text.size();
  if constexpr (std::same_as<Number, Index>)
    // Beyond 2^31 nothing fits a memory.
    MOLE_CHECK_ARG(whole && read >= 0 && read < (Index{1} << 31),
                   "should be a whole number from 0 to 2^31 and is", "'" + text + "'");
  else
    MOLE_CHECK_ARG(whole && is_finite(read), "should be a finite number and is", "'" + text + "'");
  value = read;
}
template <class Enum>
requires std::is_enum_v<Enum>
void read_field(const std::string& text, Enum& value) { from_text(text, value); }

}  // namespace mole::detail
