#include "pictures/vocabulary.hpp"

#include <algorithm>
#include <cctype>
#include <set>
#include <sstream>
#include <utility>

#include <mole/core/error.hpp>
#include <mole/io/json.hpp>

namespace pictures {

namespace {

constexpr const char* start_mark = "<|startoftext|>";
constexpr const char* end_mark = "<|endoftext|>";

/// How many letters have to change to make one word of the other (Levenshtein).
std::size_t distance(const std::string& a, const std::string& b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j < row.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t corner = row[0]++;
    for (std::size_t j = 1; j < row.size(); ++j) {
      const std::size_t changed = corner + (a[i - 1] == b[j - 1] ? 0 : 1);
      corner = row[j];
      row[j] = std::min({changed, row[j] + 1, row[j - 1] + 1});
    }
  }
  return row.back();
}

}  // namespace

Vocabulary::Vocabulary(std::map<std::string, Index> ids)
    : ids_(std::move(ids)), start_(ids_.at(start_mark)), end_(ids_.at(end_mark)) {}

Vocabulary Vocabulary::of(const Sprites& sprites) {
  std::set<std::string> words{"a", "an", "left", "of", "above", "on"};
  for (const auto& colour : colours) words.insert(colour.name);
  for (const auto& name : sprites.names) {
    std::istringstream stream(name);
    for (std::string word; stream >> word;) words.insert(word);
  }
  std::map<std::string, Index> ids{{start_mark, 0}, {end_mark, 1}};
  for (const auto& word : words) {
    const auto next = static_cast<Index>(ids.size());
    ids.emplace(word, next);
  }
  return Vocabulary(std::move(ids));
}

Vocabulary Vocabulary::read(const std::filesystem::path& path) {
  const auto json = mole::read_json_object(path);
  std::map<std::string, Index> ids;
  std::set<Index> seen;
  for (const auto& [word, id] : json.items()) {
    MOLE_CHECK_FORMAT(
        id.is_number_integer() && id >= 0 && id < json.size() && seen.insert(id.get<Index>()).second, path,
        "word", mole::quote(word), "has the number", id.dump() + "; words are numbered from 0 to",
        json.size() - 1, ", each once");
    ids.emplace(word, id.get<Index>());
  }
  for (const char* mark : {start_mark, end_mark})
    MOLE_CHECK_FORMAT(ids.count(mark) == 1, path, "lacks the token", mark);
  return Vocabulary(std::move(ids));
}

void Vocabulary::write(const std::filesystem::path& path) const {
  std::vector<std::pair<Index, std::string>> order;
  for (const auto& [word, id] : ids_) order.emplace_back(id, word);
  std::sort(order.begin(), order.end());
  auto json = mole::Json::object();
  for (const auto& [id, word] : order) json[word] = id;
  mole::write_json(path, json);
}

std::vector<Index> Vocabulary::encode(const std::string& text, Index length, bool cut) const {
  std::vector<Index> tokens{start_};
  std::istringstream stream(text);
  for (std::string word; stream >> word;) {
    std::transform(word.begin(), word.end(), word.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    const auto found = ids_.find(word);
    if (found == ids_.end()) {
      std::string close;
      for (const auto& [known, id] : ids_)
        if (known.size() >= 3 && distance(known, word) <= 2) close += (close.empty() ? "" : ", ") + known;
      throw mole::ArgumentError("prompt \"" + text + "\": the word \"" + word + "\" is not among the " +
                                std::to_string(ids_.size() - 2) + " that this model knows" +
                                (close.empty() ? "" : " (close: " + close + ")") +
                                "; `pictures words` lists them");
    }
    tokens.push_back(found->second);
  }
  const auto words = static_cast<Index>(tokens.size()) - 1;
  MOLE_CHECK_ARG(cut || words + 2 <= length, "prompt of", words, "words: this model reads", length - 2,
                 "at most; shorten it, or pass --truncate to drop the rest");
  tokens.resize(static_cast<std::size_t>(std::min(words + 1, length - 1)));
  tokens.resize(static_cast<std::size_t>(length), end_);
  return tokens;
}

}  // namespace pictures
