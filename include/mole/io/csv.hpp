#pragma once
// Text in CSV files.

#include <string>
#include <string_view>

namespace mole {

/// `text` as one field of a CSV file (RFC 4180): quoted where it holds a comma, a quote or a line break.
inline std::string csv_field(std::string_view text) {
  if (text.find_first_of(",\"\r\n") == std::string_view::npos) return std::string(text);
  std::string field = "\"";
  for (const char c : text) field += c == '"' ? std::string("\"\"") : std::string(1, c);
  return field + "\"";
}

}  // namespace mole
