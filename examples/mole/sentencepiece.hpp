#pragma once
// SentencePiece models, where this build has libsentencepiece.

#include <filesystem>
#include <memory>

#include <mole/text/tokenizer.hpp>

namespace program {

/// The tokenizer of a .model file: T5's, whose texts end in </s> and which has 100 tokens more than the file, or
/// Llama-2's, whose texts begin with <s>. Throws mole::FormatError for a file that is none; mole::Error in a build
/// without libsentencepiece.
std::unique_ptr<mole::Tokenizer> sentencepiece_tokenizer(const std::filesystem::path& path, bool of_t5);

}  // namespace program
