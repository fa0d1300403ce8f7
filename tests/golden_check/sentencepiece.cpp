#include <golden_check/open_sentencepiece.hpp>
#include <mole/text/sentencepiece.hpp>

namespace golden {

std::unique_ptr<mole::Tokenizer> open_sentencepiece(const std::filesystem::path& path) {
  return mole::read_sentencepiece(path);
}

}  // namespace golden
