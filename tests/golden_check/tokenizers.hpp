#pragma once
// The check of a folder of tokenizers, compiled apart: it needs ICU, and SentencePiece for its models.

#include <filesystem>
#include <string>

#include <golden_check/report.hpp>

namespace golden {

/// Ids and decodings of every text in texts.jsonl, and special.json, by each tokenizer of the folder. A build without
/// ICU names the folder as skipped, one without SentencePiece the models.
void check_tokenizers(const std::filesystem::path& folder, const std::string& name, Report& report);

}  // namespace golden
