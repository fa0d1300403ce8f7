#pragma once
// The words of captions as tokens of the text tower: one token a word.

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <mole/core/shape.hpp>

#include "pictures/scenes.hpp"

namespace pictures {

/// A vocabulary of whole words. Texts begin with <|startoftext|> and end with <|endoftext|>, which also pads them.
class Vocabulary {
 public:
  /// The words of all captions of these sprites: the two marks, then the words in order.
  static Vocabulary of(const Sprites& sprites);
  /// Reads a vocab.json, words and their numbers. Throws mole::FormatError, naming the file, unless the numbers are
  /// 0, 1, .., each once, and both marks are there; mole::Error where it cannot be read.
  static Vocabulary read(const std::filesystem::path& path);
  /// Writes it so. Throws mole::Error.
  void write(const std::filesystem::path& path) const;

  Index size() const { return static_cast<Index>(ids_.size()); }
  Index end() const { return end_; }

  /// `length` tokens of a text of words apart by blanks. Throws mole::ArgumentError for a word that is not there,
  /// naming it and close ones, and for a text of more than `length` - 2 words, unless it is to be cut.
  std::vector<Index> encode(const std::string& text, Index length, bool cut = false) const;

 private:
  explicit Vocabulary(std::map<std::string, Index> ids);

  std::map<std::string, Index> ids_;
  Index start_ = 0, end_ = 0;
};

}  // namespace pictures
