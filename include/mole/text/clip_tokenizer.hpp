#pragma once
// Prompts as a text tower of CLIP reads them: of one length, between two special tokens, padded.

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <mole/text/load.hpp>

namespace mole {

/// CLIP's tokenizer with the token that pads.
class ClipTokenizer {
 public:
  /// The tokenizer in a folder such as tokenizer/ of Stable Diffusion: tokenizer.json, or vocab.json and merges.txt.
  /// tokenizer_config.json or special_tokens_map.json name the padding, else it is <|endoftext|>.
  /// Throws as load_tokenizer(); FormatError for a tokenizer that is not CLIP's, or a padding that is no token.
  explicit ClipTokenizer(const std::filesystem::path& folder) : tokenizer_(load_tokenizer(folder)) {
    MOLE_CHECK_FORMAT(tokenizer_->find(detail::clip_start) >= 0 && tokenizer_->find(detail::clip_end) >= 0,
                      folder, "is no tokenizer of CLIP: it lacks", detail::clip_start, "or",
                      detail::clip_end);
    end_ = tokenizer_->find(detail::clip_end);
    const auto padding = detail::special_spelling(folder, "pad_token", detail::clip_end);
    padding_ = tokenizer_->find(padding);
    MOLE_CHECK_FORMAT(padding_ >= 0, folder, "pads by", quote(padding), "which is no token of it");
  }

  /// One above the largest token.
  Index size() const { return tokenizer_->size(); }
  Index padding() const { return padding_; }

  /// The tokens of a text with the two around it, as many as there are. Special tokens that the text spells count as
  /// such, as in transformers.
  std::vector<Index> tokens(std::string_view text) const {
    return tokenizer_->encode(text, {.parse_special = true, .add_special = true});
  }

  /// Exactly `length` tokens: padded, or cut behind which the end token stands. Throws ArgumentError for a text that is
  /// longer, unless it is to be cut, with the part that would be lost.
  std::vector<Index> encode(std::string_view text, Index length, bool cut = false) const {
    auto ids = tokens(text);
    const auto n = static_cast<std::size_t>(length);
    MOLE_CHECK_ARG(length >= 2, "ClipTokenizer: expected room for 2 tokens or more, got", length);
    if (ids.size() > n) {
      const std::vector<Index> lost(ids.begin() + static_cast<std::ptrdiff_t>(n) - 1, ids.end() - 1);
      MOLE_CHECK_ARG(cut, "the text takes", ids.size(), "tokens and the text encoder reads", length,
                     "with those that begin and end it; this would be lost:", quote(words(lost)));
      ids.resize(n);
      ids.back() = end_;
    }
    ids.resize(n, padding_);
    return ids;
  }

 private:
  /// Tokens as text: the mark at the end of a word is a blank.
  std::string words(const std::vector<Index>& ids) const {
    auto result = text::replaced(tokenizer_->decode(ids), "</w>", " ");
    while (result.ends_with(' ')) result.pop_back();
    return result;
  }

  std::unique_ptr<Tokenizer> tokenizer_;
  Index end_ = 0, padding_ = 0;
};

}  // namespace mole
