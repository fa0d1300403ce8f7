#include <mole/core/error.hpp>

#include "mole/sentencepiece.hpp"

namespace program {

std::unique_ptr<mole::Tokenizer> sentencepiece_tokenizer(const std::filesystem::path& path, bool) {
  throw mole::Error(mole::message(
      path,
      "is a SentencePiece model, which this program was built without; install libsentencepiece (apt-get install "
      "libsentencepiece-dev) and build again, or put a tokenizer.json beside it"));
}

}  // namespace program
