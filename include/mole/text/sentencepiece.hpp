#pragma once
// SentencePiece models (spiece.model, tokenizer.model) of T5 and Llama-2, by libsentencepiece.

#include <algorithm>
#include <cstddef>
#include <exception>
#include <filesystem>
#include <memory>
#include <new>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <sentencepiece_processor.h>

#include <mole/core/error.hpp>
#include <mole/core/quote.hpp>
#include <mole/core/scalar.hpp>
#include <mole/io/mapped_file.hpp>
#include <mole/text/sentencepiece_check.hpp>
#include <mole/text/tokenizer.hpp>
#include <mole/text/unicode.hpp>

namespace mole {

/// What stands beside a SentencePiece model in a tokenizer's configuration.
struct SentencePieceOptions {
  bool add_bos = false, add_eos = false;  ///< what add_special puts around a text
  Index extra_ids =
      0;  ///< T5: <extra_id_0> and so on, which the model does not hold, from the last number down
};

namespace detail {

/// f(), where what libsentencepiece and its parts throw becomes a FormatError.
template <class F>
auto guarded(F f, const std::string& source) {
  try {
    return f();
  } catch (const std::bad_alloc&) {
    throw;
  } catch (const std::exception& error) {
    throw FormatError(message(source, "the SentencePiece model is damaged:", quote(error.what())));
  }
}

}  // namespace detail

/// A tokenizer over a SentencePiece model. It normalises texts, so that decoding does not give back every space.
/// What is no UTF-8 is replaced byte by byte.
class SentencePieceTokenizer final : public Tokenizer {
 public:
  /// Throws FormatError, beginning with `source`, for bytes that are no model or a damaged one, and for options that ask
  /// for tokens that it has not.
  SentencePieceTokenizer(std::string_view model, const std::string& source,
                         const SentencePieceOptions& options)
      : options_(options) {
    MOLE_CHECK_FORMAT(!model.empty() && model.size() < 1'000'000'000, source, "a SentencePiece model of",
                      model.size(), "bytes is not read");
    detail::check_sentencepiece(model, source);
    const auto status = detail::guarded(
        [&] {
          return processor_.LoadFromSerializedProto({model.data(), model.size()});
        },
        source);
    MOLE_CHECK_FORMAT(status.ok(), source, "this is no SentencePiece model:", status.ToString());
    pieces_ = processor_.GetPieceSize();
    for (int id = 0; id < pieces_; ++id)
      MOLE_CHECK_FORMAT(is_finite(processor_.GetScore(id)), source, "the score of piece", id,
                        "is not finite");
    MOLE_CHECK_FORMAT(
        (!options.add_bos || processor_.bos_id() >= 0) && (!options.add_eos || processor_.eos_id() >= 0),
        source, "the model has no token that begins or ends a text");
    for (Index id = 0; id < pieces_; ++id)
      if (processor_.IsControl(static_cast<int>(id)))
        special_.emplace_back(processor_.IdToPiece(static_cast<int>(id)), id);
    for (Index i = 0; i < options.extra_ids; ++i)
      special_.emplace_back("<extra_id_" + std::to_string(i) + ">", pieces_ + options.extra_ids - 1 - i);
  }

  std::vector<Index> encode(std::string_view text, const EncodeOptions& options) const override {
    std::vector<Index> tokens;
    if (options.add_special && options_.add_bos) tokens.push_back(processor_.bos_id());
    const auto plain = [&](std::string_view part) {
      if (part.empty()) return;
      const auto ids = detail::guarded(
          [&] {
            return processor_.EncodeAsIds({part.data(), part.size()});
          },
          "SentencePiece:");
      tokens.insert(tokens.end(), ids.begin(), ids.end());
    };
    std::size_t done = 0;
    for (std::size_t at = 0; options.parse_special && at < text.size(); ++at) {
      const auto found = std::find_if(special_.begin(), special_.end(), [&](const auto& token) {
        return text.substr(at).starts_with(token.first);
      });
      if (found == special_.end()) continue;
      plain(text.substr(done, at - done));
      tokens.push_back(found->second);
      done = at + found->first.size();
      at = done - 1;
    }
    plain(text.substr(done));
    if (options.add_special && options_.add_eos) tokens.push_back(processor_.eos_id());
    return tokens;
  }

  using Tokenizer::decode;
  std::string decode(std::span<const Index> tokens, bool special) const override {
    std::string text;
    std::vector<int> run;
    const auto close = [&] {
      if (!run.empty()) text += detail::guarded([&] { return processor_.DecodeIds(run); }, "SentencePiece:");
      run.clear();
    };
    for (const Index id : tokens) {
      const auto found = std::find_if(special_.begin(), special_.end(),
                                      [&](const auto& token) { return token.second == id; });
      if (found != special_.end()) {
        if (!special) continue;
        close();
        text += found->first;
      } else if (id >= 0 && id < pieces_) {
        run.push_back(static_cast<int>(id));
      }
    }
    close();
    // A damaged model's pieces may be no UTF-8.
    return text::well_formed(text);
  }

  Index find(std::string_view token) const override {
    for (const auto& [spelling, id] : special_)
      if (spelling == token) return id;
    const int id = processor_.PieceToId({token.data(), token.size()});
    return processor_.IdToPiece(id) == token ? id : -1;
  }
  Index size() const override { return pieces_ + options_.extra_ids; }

 private:
  SentencePieceOptions options_;
  sentencepiece::SentencePieceProcessor processor_;
  Index pieces_ = 0;
  std::vector<std::pair<std::string, Index>> special_;
};

/// The tokenizer of a .model file. Throws FormatError, naming the file, for one that is none; Error where it cannot be
/// read.
inline std::unique_ptr<Tokenizer> read_sentencepiece(const std::filesystem::path& path,
                                                     const SentencePieceOptions& options = {}) {
  const detail::MappedFile file(path);
  const std::string source = message(path) + ":";
  const std::string_view bytes(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  detail::check_no_lfs_pointer(bytes, source);
  return std::make_unique<SentencePieceTokenizer>(bytes, source, options);
}

}  // namespace mole
