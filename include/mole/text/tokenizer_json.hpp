#pragma once
// tokenizer.json, as the tokenizers library writes it, for the byte-pair family.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <mole/core/error.hpp>
#include <mole/core/quote.hpp>
#include <mole/io/json.hpp>
#include <mole/io/mapped_file.hpp>
#include <mole/text/bpe_tokenizer.hpp>
#include <mole/text/tokenizer_file.hpp>

namespace mole {

namespace detail {

/// Builds a tokenizer's parts from its JSON; every message begins with the file.
class TokenizerBuilder {
 public:
  TokenizerBuilder(TokenizerFile file, std::string source)
      : TokenizerBuilder(std::move(file), source, source) {}
  /// The same where the merges stand in a file of their own.
  TokenizerBuilder(TokenizerFile file, std::string source, std::string merges)
      : file_(std::move(file)), source_(std::move(source)), merges_source_(std::move(merges)) {}

  BpeTokenizerParts build() {
    const auto& json = file_.rest;
    MOLE_CHECK_FORMAT(json.is_object() && json.contains("model") && json["model"].is_object(), source_,
                      "expected an object with a model");
    read_model(json["model"]);
    if (json.contains("added_tokens")) read_added(json["added_tokens"]);
    each(json, "normalizer", "normalizers", [&](const Json& step) { add_normaliser(step); });
    each(json, "pre_tokenizer", "pretokenizers", [&](const Json& step) { add_split(step); });
    each(json, "decoder", "decoders", [&](const Json& step) { add_decoder(step); });
    each(json, "post_processor", "processors", [&](const Json& step) { add_post_processor(step); });
    parts_.check_tokens(source_);
    return std::move(parts_);
  }

 private:
  [[noreturn]] void refuse(const char* what, const std::string& type, const char* known) const {
    throw FormatError(message(source_, what, quote(type), "is not known; known are", known));
  }
  static bool has(const Json& json, const char* name) {
    return json.contains(name) && !json.at(name).is_null();
  }
  std::string text(const Json& json, const char* name, const char* otherwise = nullptr) const {
    if (!has(json, name) && otherwise) return otherwise;
    MOLE_CHECK_FORMAT(has(json, name) && json.at(name).is_string(), source_, name, "should be text");
    return json.at(name).get<std::string>();
  }
  /// What a step puts into texts, again and again.
  std::string short_text(const Json& json, const char* name, const char* otherwise = nullptr) const {
    auto found = text(json, name, otherwise);
    MOLE_CHECK_FORMAT(found.size() <= 100, source_, name, "has", found.size(), "bytes; at most 100 are read");
    return found;
  }
  bool flag(const Json& json, const char* name, bool otherwise) const {
    if (!has(json, name)) return otherwise;
    MOLE_CHECK_FORMAT(json.at(name).is_boolean(), source_, name, "should be true or false");
    return json.at(name).get<bool>();
  }
  Index token_number(const Json& json) const {
    const bool fits = json.is_number_integer() && json.get<std::int64_t>() >= 0 &&
                      json.get<std::int64_t>() < Vocabulary::most;
    MOLE_CHECK_FORMAT(fits, source_, "expected a token's number, got", shortened(json.dump(), 100));
    return json.get<Index>();
  }

  /// f for a step, or for each of a Sequence and of those in it.
  template <class F>
  void each(const Json& json, const char* name, const char* list, F f) const {
    if (!has(json, name)) return;
    MOLE_CHECK_FORMAT(json.at(name).is_object(), source_, name, "should be an object");
    std::size_t steps = 0;
    each_step(json.at(name), name, list, f, steps);
  }
  /// The same, where `steps` were listed by the Sequences around it.
  template <class F>
  void each_step(const Json& step, const char* name, const char* list, F& f, std::size_t& steps) const {
    if (text(step, "type") != "Sequence") return f(step);
    MOLE_CHECK_FORMAT(has(step, list) && step.at(list).is_array(), source_, name, "of type Sequence needs",
                      list);
    steps += step.at(list).size();
    MOLE_CHECK_FORMAT(steps <= 100, source_, list, "has", steps, "steps; at most 100 are read");
    for (const auto& one : step.at(list)) {
      MOLE_CHECK_FORMAT(one.is_object(), source_, list, "should list objects");
      each_step(one, name, list, f, steps);
    }
  }

  void read_model(const Json& model) {
    const std::string type = text(model, "type", "BPE");
    if (type != "BPE") refuse("the model", type, "BPE; for Unigram give the .model file of SentencePiece");
    MOLE_CHECK_FORMAT(!file_.vocabulary.empty(), source_, "the model has no vocab");
    MOLE_CHECK_FORMAT(text(model, "continuing_subword_prefix", "").empty(), source_,
                      "continuing_subword_prefix is not supported");
    BpeOptions options;
    options.end_of_word = text(model, "end_of_word_suffix", "");
    options.fuse_unknown = flag(model, "fuse_unk", false);
    options.byte_fallback = flag(model, "byte_fallback", false);
    options.ignore_merges = flag(model, "ignore_merges", false);
    const std::string unknown = text(model, "unk_token", "");
    if (!unknown.empty()) {
      for (const auto& [spelling, id] : file_.vocabulary)
        if (spelling == unknown) options.unknown = static_cast<Index>(id);
      MOLE_CHECK_FORMAT(options.unknown >= 0, source_, "unk_token", quote(unknown), "is no token");
    }
    parts_.bpe = Bpe(options);
    auto& vocabulary = parts_.bpe.vocabulary();
    vocabulary.reserve(file_.vocabulary.size());
    for (auto& [spelling, id] : file_.vocabulary)
      vocabulary.add(std::move(spelling), static_cast<Index>(id), source_);
    parts_.bpe.reserve_merges(file_.merges.size());
    for (const auto& [left, right] : file_.merges) {
      if (!right.empty()) {
        parts_.bpe.add_merge(left, right, merges_source_);
        continue;
      }
      const auto space = left.find(' ');
      MOLE_CHECK_FORMAT(space != left.npos && left.find(' ', space + 1) == left.npos, merges_source_,
                        "the merge", quote(left), "should be two tokens with a space between them");
      parts_.bpe.add_merge(std::string_view(left).substr(0, space), std::string_view(left).substr(space + 1),
                           merges_source_);
    }
    parts_.bpe.finish();
  }

  void read_added(const Json& list) {
    MOLE_CHECK_FORMAT(list.is_array(), source_, "added_tokens should be a list");
    for (const auto& one : list) {
      MOLE_CHECK_FORMAT(one.is_object() && has(one, "id"), source_,
                        "added_tokens should list objects with an id");
      AddedToken token{token_number(one.at("id")),      text(one, "content"),
                       flag(one, "single_word", false), flag(one, "lstrip", false),
                       flag(one, "rstrip", false),      flag(one, "normalized", false),
                       flag(one, "special", false)};
      MOLE_CHECK_FORMAT(!token.content.empty(), source_, "the added token", token.id, "is empty");
      parts_.added.push_back(std::move(token));
    }
  }

  /// A pattern's matches: those of a text or of a regular expression.
  std::function<std::vector<text::Span>(std::string_view)> pattern(const Json& step) const {
    MOLE_CHECK_FORMAT(has(step, "pattern") && step.at("pattern").is_object(), source_, "expected a pattern");
    const auto& json = step.at("pattern");
    if (has(json, "Regex")) {
      const text::Regex regex(text(json, "Regex"), source_);
      return [regex](std::string_view in) { return regex.matches(in); };
    }
    const std::string wanted = text(json, "String");
    MOLE_CHECK_FORMAT(!wanted.empty(), source_, "a pattern is empty");
    return [wanted](std::string_view in) {
      std::vector<text::Span> found;
      for (auto at = in.find(wanted); at != in.npos; at = in.find(wanted, at + wanted.size()))
        found.push_back({at, at + wanted.size()});
      return found;
    };
  }

  std::function<std::string(const std::string&)> replacing(const Json& step) const {
    return [matches = pattern(step), content = short_text(step, "content")](const std::string& in) {
      std::string result;
      std::size_t at = 0;
      for (const auto& span : matches(in)) {
        result.append(in, at, span.begin - at);
        result += content;
        at = span.end;
      }
      return result.append(in, at);
    };
  }

  void add_normaliser(const Json& step) {
    const std::string type = text(step, "type");
    auto& list = parts_.normalisers;
    if (type == "NFC" || type == "NFD" || type == "NFKC" || type == "NFKD")
      list.push_back([type](std::string in) { return text::normal_form(in, type); });
    else if (type == "Lowercase")
      list.push_back([](std::string in) { return text::lower_case(in); });
    else if (type == "Replace")
      list.push_back(replacing(step));
    else if (type == "Prepend")
      list.push_back(
          [with = short_text(step, "prepend")](std::string in) { return in.empty() ? in : with + in; });
    else
      refuse("the normalizer", type, "NFC, NFD, NFKC, NFKD, Lowercase, Replace, Prepend and Sequence");
  }

  text::SplitBehavior behavior(const std::string& name) const {
    if (name == "Removed") return text::SplitBehavior::removed;
    if (name == "Isolated") return text::SplitBehavior::isolated;
    if (name == "MergedWithPrevious") return text::SplitBehavior::merged_with_previous;
    if (name == "MergedWithNext") return text::SplitBehavior::merged_with_next;
    if (name == "Contiguous") return text::SplitBehavior::contiguous;
    refuse("the behavior", name, "Removed, Isolated, MergedWithPrevious, MergedWithNext and Contiguous");
  }

  void add_split(const Json& step) {
    const std::string type = text(step, "type");
    if (type == "ByteLevel") {
      parts_.splits.push_back(
          text::byte_level(flag(step, "add_prefix_space", true), flag(step, "use_regex", true)));
    } else if (type == "Split") {
      const auto how = behavior(text(step, "behavior"));
      parts_.splits.push_back([matches = pattern(step), how, invert = flag(step, "invert", false)](
                                  const text::Pieces& pieces, bool) {
        text::Pieces result;
        for (const auto& piece : pieces) text::split_at(piece, matches(piece), how, invert, result);
        return result;
      });
    } else if (type == "Digits") {
      parts_.splits.push_back(text::split_digits(flag(step, "individual_digits", false)));
    } else if (type == "Metaspace") {
      add_metaspace(step);
    } else {
      refuse("the pre_tokenizer", type, "ByteLevel, Split, Digits, Metaspace and Sequence");
    }
  }

  void add_metaspace(const Json& step) {
    const std::string mark = short_text(step, "replacement", "\xE2\x96\x81");
    const std::string scheme =
        text(step, "prepend_scheme", flag(step, "add_prefix_space", true) ? "always" : "never");
    if (scheme != "always" && scheme != "first" && scheme != "never")
      refuse("prepend_scheme", scheme, "always, first and never");
    const bool split = flag(step, "split", true);
    parts_.splits.push_back([=](const text::Pieces& pieces, bool first) {
      text::Pieces result;
      for (std::size_t i = 0; i < pieces.size(); ++i) {
        auto own = text::replaced(pieces[i], " ", mark);
        const bool prepend = scheme == "always" || (scheme == "first" && first && i == 0);
        if (prepend && !own.starts_with(mark)) own = mark + own;
        if (!split) {
          result.push_back(std::move(own));
          continue;
        }
        std::vector<text::Span> marks;
        for (auto at = own.find(mark); at != own.npos; at = own.find(mark, at + mark.size()))
          marks.push_back({at, at + mark.size()});
        text::split_at(own, marks, text::SplitBehavior::merged_with_next, false, result);
      }
      return result;
    });
  }

  /// How often the decoder Strip takes its content away at one end of a token.
  Index times(const Json& step, const char* name) const {
    if (!has(step, name)) return 0;
    constexpr std::int64_t most = 1'000'000;
    const auto& json = step.at(name);
    const bool fits =
        json.is_number_integer() && json.get<std::int64_t>() >= 0 && json.get<std::int64_t>() <= most;
    MOLE_CHECK_FORMAT(fits, source_, name, "of the decoder Strip should be a whole number from 0 to", most,
                      "and is", shortened(json.dump(), 100));
    return json.get<Index>();
  }

  void add_decoder(const Json& step) {
    const std::string type = text(step, "type");
    auto& list = parts_.decoders;
    if (type == "ByteLevel") {
      list.push_back(text::bytes_of);
    } else if (type == "ByteFallback") {
      list.push_back(text::joined_bytes);
    } else if (type == "Fuse") {
      list.push_back([](const text::Pieces& pieces) {
        std::string all;
        for (const auto& piece : pieces) all += piece;
        return text::Pieces{all};
      });
    } else if (type == "Replace") {
      list.push_back([replace = replacing(step)](text::Pieces pieces) {
        for (auto& piece : pieces) piece = replace(piece);
        return pieces;
      });
    } else if (type == "Strip") {
      const std::string content = text(step, "content");
      MOLE_CHECK_FORMAT(!content.empty(), source_, "the decoder Strip has no content");
      list.push_back(
          [content, start = times(step, "start"), stop = times(step, "stop")](text::Pieces pieces) {
            for (auto& piece : pieces) {
              std::string_view rest(piece);
              for (Index i = 0; i < start && rest.starts_with(content); ++i)
                rest.remove_prefix(content.size());
              for (Index i = 0; i < stop && rest.ends_with(content); ++i) rest.remove_suffix(content.size());
              piece = std::string(rest);
            }
            return pieces;
          });
    } else if (type == "Metaspace") {
      const std::string mark = short_text(step, "replacement", "\xE2\x96\x81");
      const bool prepended =
          text(step, "prepend_scheme", flag(step, "add_prefix_space", true) ? "always" : "never") != "never";
      list.push_back([mark, prepended](text::Pieces pieces) {
        for (std::size_t i = 0; i < pieces.size(); ++i) {
          if (i == 0 && prepended && pieces[i].starts_with(mark)) pieces[i].erase(0, mark.size());
          pieces[i] = text::replaced(pieces[i], mark, " ");
        }
        return pieces;
      });
    } else if (type == "BPEDecoder") {
      list.push_back([suffix = text(step, "suffix", "</w>")](text::Pieces pieces) {
        for (std::size_t i = 0; i < pieces.size(); ++i)
          pieces[i] = text::replaced(pieces[i], suffix, i + 1 == pieces.size() ? "" : " ");
        return pieces;
      });
    } else {
      refuse("the decoder", type,
             "ByteLevel, ByteFallback, Fuse, Replace, Strip, Metaspace, BPEDecoder and Sequence");
    }
  }

  void add_post_processor(const Json& step) {
    const std::string type = text(step, "type");
    if (type == "ByteLevel") return;  // it changes offsets alone
    if (type == "RobertaProcessing" || type == "BertProcessing") {
      const auto token = [&](const char* name) {
        const bool pair = has(step, name) && step.at(name).is_array() && step.at(name).size() == 2;
        MOLE_CHECK_FORMAT(pair, source_, name, "should be a token and its number");
        return token_number(step.at(name)[1]);
      };
      parts_.before.push_back(token("cls"));
      parts_.after.push_back(token("sep"));
      return;
    }
    if (type != "TemplateProcessing")
      refuse("the post_processor", type,
             "TemplateProcessing, RobertaProcessing, BertProcessing, ByteLevel and Sequence");
    MOLE_CHECK_FORMAT(has(step, "single") && step.at("single").is_array(), source_,
                      "TemplateProcessing needs a list single");
    const auto& single = step.at("single");
    check_few(single.size(), "single has", "items");
    const bool given = has(step, "special_tokens") && step.at("special_tokens").is_object();
    if (given) check_few(step.at("special_tokens").size(), "special_tokens has", "tokens");
    bool after = false;
    for (const auto& item : single) {
      MOLE_CHECK_FORMAT(item.is_object(), source_, "single should list objects");
      if (item.contains("Sequence")) {
        after = true;
        continue;
      }
      MOLE_CHECK_FORMAT(item.contains("SpecialToken") && item["SpecialToken"].is_object(), source_,
                        "single should list special tokens and a sequence");
      const std::string name = text(item["SpecialToken"], "id");
      const bool known = given && step.at("special_tokens").contains(name) &&
                         has(step.at("special_tokens").at(name), "ids") &&
                         step.at("special_tokens").at(name).at("ids").is_array();
      MOLE_CHECK_FORMAT(known, source_, "special_tokens does not give the ids of", quote(name));
      const auto& ids = step.at("special_tokens").at(name).at("ids");
      check_few(parts_.before.size() + parts_.after.size() + ids.size(), "post_processor adds",
                "tokens to a text");
      auto& side = after ? parts_.after : parts_.before;
      for (const auto& id : ids) side.push_back(token_number(id));
    }
  }
  /// Of a template: a few items name lists of ids, again and again.
  void check_few(std::size_t n, const char* what, const char* unit) const {
    constexpr std::size_t most = 1000;
    MOLE_CHECK_FORMAT(n <= most, source_, what, n, unit + std::string("; at most"), most, "are read");
  }

  TokenizerFile file_;
  std::string source_, merges_source_;
  BpeTokenizerParts parts_;
};

}  // namespace detail

/// The tokenizer of a tokenizer.json. Throws FormatError, naming the file and the step, for a model other than BPE, a
/// step that is not known, or a file that is damaged; Error where it cannot be read.
inline std::unique_ptr<Tokenizer> read_tokenizer_json(const std::filesystem::path& path) {
  const detail::MappedFile file(path);
  const std::string source = message(path) + ":";
  const auto json = detail::json_in(file, source, max_json_bytes);
  // The parser takes it for the end.
  MOLE_CHECK_FORMAT(json.find('\0') == json.npos, source, "malformed JSON: a NUL at byte", json.find('\0'));
  detail::TokenizerReader reader(source, json.size());
  detail::parse_json(json, reader);
  return std::make_unique<BpeTokenizer>(detail::TokenizerBuilder(std::move(reader).take(), source).build());
}

}  // namespace mole
