#include "mole/sentencepiece.hpp"

#include <mole/text/sentencepiece.hpp>

namespace program {

std::unique_ptr<mole::Tokenizer> sentencepiece_tokenizer(const std::filesystem::path& path, bool of_t5) {
  if (of_t5) return mole::read_sentencepiece(path, {.add_eos = true, .extra_ids = 100});
  return mole::read_sentencepiece(path, {.add_bos = true});
}

}  // namespace program
