#pragma once
// tokenizer.json taken apart as it is parsed: its vocabulary and merges are too large for one JSON value.

#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <mole/core/error.hpp>
#include <mole/core/quote.hpp>
#include <mole/io/json.hpp>

namespace mole::detail {

/// The file as a small JSON value beside the vocabulary and the merges, which are too large for one.
struct TokenizerFile {
  Json rest;
  std::vector<std::pair<std::string, std::int64_t>> vocabulary;
  std::vector<std::pair<std::string, std::string>> merges;  ///< "a b" has an empty second part
};

/// A handler of nlohmann's parser.
class TokenizerReader : public JsonHandler {
 public:
  /// For a text of `bytes`: what most of it will be is made room for at once.
  TokenizerReader(const std::string& source, std::size_t bytes) : source_(source) {
    file_.vocabulary.reserve(bytes / 100);
    file_.merges.reserve(bytes / 60);
  }

  TokenizerFile take() && { return std::move(file_); }

  bool null() override { return put(nullptr); }
  bool boolean(bool value) override { return put(value); }
  bool number_integer(std::int64_t value) override { return number(value); }
  bool number_unsigned(std::uint64_t value) override {
    MOLE_CHECK_FORMAT(value <= INT64_MAX, source_, "JSON holds the number", value);
    return number(static_cast<std::int64_t>(value));
  }
  bool number_float(double value, const std::string&) override { return put(value); }
  bool string(std::string& value) override {
    if (where_ != Where::merges) return put(std::move(value));
    check_room(file_.merges.size());
    if (!pair_open_)
      file_.merges.emplace_back(std::move(value), std::string());
    else
      pair_.push_back(std::move(value));
    return true;
  }
  bool binary(Json::binary_t&) override { throw FormatError(message(source_, "JSON holds binary data")); }
  bool start_object(std::size_t) override {
    plain("object");
    if (is_model() && key_ == "vocab") {
      check_new_key();
      where_ = Where::vocabulary;
      return true;
    }
    return open(Json::object());
  }
  bool end_object() override {
    if (where_ == Where::vocabulary)
      where_ = Where::elsewhere;
    else
      close();
    return true;
  }
  bool start_array(std::size_t) override {
    if (where_ == Where::merges && !pair_open_) {
      pair_open_ = true;
      pair_.clear();
      return true;
    }
    plain("array");
    if (is_model() && key_ == "merges") {
      check_new_key();
      where_ = Where::merges;
      return true;
    }
    return open(Json::array());
  }
  bool end_array() override {
    if (where_ != Where::merges) {
      close();
    } else if (pair_open_) {
      MOLE_CHECK_FORMAT(pair_.size() == 2 && !pair_[1].empty(), source_, "merge", file_.merges.size(),
                        "should be a pair of tokens");
      file_.merges.emplace_back(std::move(pair_[0]), std::move(pair_[1]));
      pair_open_ = false;
    } else {
      where_ = Where::elsewhere;
    }
    return true;
  }
  bool key(std::string& key) override {
    key_ = std::move(key);
    return true;
  }
  bool parse_error(std::size_t byte, const std::string&, const nlohmann::detail::exception& error) override {
    throw FormatError(
        message(source_, "malformed JSON at byte", byte, "(" + shortened(error.what(), 300) + ")"));
  }

 private:
  enum class Where { elsewhere, vocabulary, merges };

  bool is_model() const {
    return open_.size() == 2 && open_[0]->is_object() && in_model_ && open_[1]->is_object();
  }
  void plain(const char* what) const {
    MOLE_CHECK_FORMAT(where_ == Where::elsewhere, source_, where_ == Where::merges ? "merges" : "vocab",
                      "holds an", what);
  }
  void check_new_key() {
    MOLE_CHECK_FORMAT(keys_.back().insert(key_).second, source_, "JSON has two values for the key",
                      quote(key_));
  }
  void check_room(std::size_t values) const {
    MOLE_CHECK_FORMAT(values < max_json_values, source_, "vocab or merges hold more than", max_json_values,
                      "entries");
  }
  bool number(std::int64_t value) {
    if (where_ != Where::vocabulary) return put(value);
    check_room(file_.vocabulary.size());
    file_.vocabulary.emplace_back(std::move(key_), value);
    return true;
  }
  Json& add(Json value) {
    MOLE_CHECK_FORMAT(++values_ <= max_json_values, source_, "JSON has more than", max_json_values,
                      "values beside vocab and merges");
    if (open_.empty()) return file_.rest = std::move(value);
    auto& parent = *open_.back();
    if (parent.is_array()) {
      parent.push_back(std::move(value));
      return parent.back();
    }
    check_new_key();
    // The object's own emplace() compares with every key; that there is no such key is known.
    Json::object_t::Container& pairs = parent.get_ref<Json::object_t&>();
    return pairs.emplace_back(std::move(key_), std::move(value)).second;
  }
  bool put(Json value) {
    MOLE_CHECK_FORMAT(where_ == Where::elsewhere, source_,
                      where_ == Where::merges ? "merges should list pairs of tokens"
                                              : "vocab should give each token a whole number");
    add(std::move(value));
    return true;
  }
  bool open(Json value) {
    MOLE_CHECK_FORMAT(open_.size() < static_cast<std::size_t>(max_json_depth), source_,
                      "JSON nested deeper than", max_json_depth);
    if (open_.size() == 1) in_model_ = key_ == "model";
    open_.push_back(&add(std::move(value)));
    keys_.emplace_back();
    return true;
  }
  void close() {
    open_.pop_back();
    keys_.pop_back();
  }

  const std::string& source_;
  TokenizerFile file_;
  std::vector<Json*> open_;
  std::vector<std::set<std::string>> keys_;  ///< of each that is open
  std::string key_;
  Where where_ = Where::elsewhere;
  bool in_model_ = false, pair_open_ = false;
  std::size_t values_ = 0;
  std::vector<std::string> pair_;
};

}  // namespace mole::detail
