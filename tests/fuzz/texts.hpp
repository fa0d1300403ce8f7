#pragma once
// What is asked of every tokenizer.

#include <string>

#include <mole/core/quote.hpp>
#include <mole/text/tokenizer.hpp>

#include "harness.hpp"

namespace mole_fuzz {

/// The text of a JSON string, or the part itself: a character's number (\u0041) as UTF-8 or as bytes that are none, the
/// rest left alone.
std::string plain_text(const std::string& part);

/// Encodes a text in every way and decodes it. All tokens are the tokenizer's, all texts are UTF-8.
void use_tokenizer(const mole::Tokenizer& tokenizer, const std::string& text);

}  // namespace mole_fuzz
