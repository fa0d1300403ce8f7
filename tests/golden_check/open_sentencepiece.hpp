#pragma once
// A SentencePiece model's tokenizer, or null in a build without SentencePiece.

#include <filesystem>
#include <memory>

#include <mole/text/tokenizer.hpp>

namespace golden {

std::unique_ptr<mole::Tokenizer> open_sentencepiece(const std::filesystem::path& path);

}  // namespace golden
