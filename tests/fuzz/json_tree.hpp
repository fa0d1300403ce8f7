#pragma once
// JSON as text that need not be valid, and the headers of safetensors files, for the mutator.

#include <string>
#include <string_view>
#include <vector>

namespace mole_fuzz {

/// A JSON value as text that need not be valid: kind '{', '[', '"' or 'v'; text of the last two, with quotes.
struct Tree {
  char kind = 'v';
  std::string text;
  std::vector<std::string> keys;
  std::vector<Tree> kids;
};

std::string quoted(std::string_view text);

/// Whether all of the text is JSON, more or less; the tree is what was understood.
bool parse(const std::string& text, Tree& tree);
std::string printed(const Tree& tree);
/// The tree and all below it.
void collect(Tree& tree, std::vector<Tree*>& list);

/// A text without its quotes and escapes, and back.
std::string unescaped(const std::string& text);
std::string escaped(const std::string& plain);

/// Lays the tensors of a header out one after another, each with the bytes that it had or as many as it now needs.
/// False where their shapes make no sense or too much data.
bool lay_out(Tree& header, std::string& data);

}  // namespace mole_fuzz
