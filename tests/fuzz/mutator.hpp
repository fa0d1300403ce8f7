#pragma once
// Mutations that keep the structure of JSON texts, lines, safetensors and GGUF files, so that most inputs get past the
// parsers to the checks behind them.

#include <cstddef>
#include <cstdint>
#include <random>
#include <string>

#include "gguf_tree.hpp"
#include "json_tree.hpp"

namespace mole_fuzz {

class Mutator {
 public:
  explicit Mutator(unsigned seed) : random_(seed) { random_.discard(3); }

  /// Changes of the tree, or of single bytes where the text is no JSON (and now and then where it is).
  std::string json(const std::string& text);
  /// Changes of the header with the data laid out again to fit it, of the data, or of single bytes.
  std::string safetensors(const std::string& file);
  /// Changes of what describes a file's values and tensors, with the data laid out again to fit it, of the data, or of
  /// single bytes.
  std::string gguf(const std::string& file);
  /// Changes of one line as by json(), or of the lines' order and number.
  std::string lines(const std::string& text);
  /// Changes of single bytes, by libFuzzer's own mutator. At most `more` bytes longer.
  std::string bytes(const std::string& old, std::size_t more);
  /// A whole number below n; 0 where n is 0.
  std::size_t pick(std::size_t n) { return n == 0 ? 0 : random_() % n; }

 private:
  void change(Tree& root, int level);
  void change_once(Tree& root, int level);
  void change_number(std::string& text);
  void change_text(std::string& text, int level);
  void change_entry(GgufTree& tree);
  void change_tensor(GgufTree& tree);
  std::string changed_name(const std::string& name);
  std::uint64_t odd_number();
  std::string header_and_data(const std::string& header, const std::string& data);
  std::string numbers(std::string data);

  std::minstd_rand random_;
};

}  // namespace mole_fuzz
