#pragma once
// The head of a decoder-only model in its checkpoint.

#include <string>
#include <vector>

#include <mole/core/error.hpp>
#include <mole/core/quote.hpp>
#include <mole/io/checkpoint.hpp>

namespace mole::detail {

/// Whether the head is the token table: where the configuration ties the two, and the file has no head of its
/// own. transformers keeps a head that differs, and warns; so does this.
inline bool head_is_tied(const Checkpoint& file, const std::string& head, const std::string& table, bool tied,
                         std::vector<std::string>* warnings) {
  if (!tied || !file.contains(head) || !file.contains(table)) return tied;
  if (same_numbers(file.at(head), file.at(table))) return true;
  if (warnings)
    warnings->push_back(message(message(file.path()) + ":",
                                "config.json ties the head to the token table, but", quote(head),
                                "has other numbers; it is used"));
  return false;
}

}  // namespace mole::detail
