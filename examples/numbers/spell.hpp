#pragma once
// Numbers in words, spelled by ICU's rule-based number formatter: the text of every task of this example.

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <mole/core/shape.hpp>

namespace numbers {

using mole::Index;

/// Numbers of the example run from 0 to number_count - 1.
inline constexpr Index number_count = 10000;

/// The codes of all languages ICU has spell-out rules for, sorted: "af", "ak", .., "zh".
const std::vector<std::string>& languages();

/// Whether `languages()` holds `language`.
bool knows_language(std::string_view language);

/// `number` in words of `language`, UTF-8: spell("fr", 206) -> "deux cent six". ICU's default spell-out
/// rules, its soft hyphens (U+00AD, hints for line breaks) dropped. Throws mole::ArgumentError, naming the
/// nearest codes, for a language without rules; for number < 0.
std::string spell(std::string_view language, Index number);

/// A 64-bit digest of all spelled numbers of `languages`, in their order. Spelling rules are corrected from
/// one ICU release to the next; a model trained under one digest is scored wrongly under another.
std::uint64_t spelling_digest(std::span<const std::string> languages);

/// The message for an unknown language: what was asked for, the nearest codes, and all of them.
std::string unknown_language(std::string_view language);

}  // namespace numbers
