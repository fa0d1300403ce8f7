#include <algorithm>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <golden_check/open_sentencepiece.hpp>
#include <golden_check/tokenizers.hpp>
#include <mole/text/load.hpp>
#include <nlohmann/json.hpp>

namespace golden {

namespace {

namespace fs = std::filesystem;

std::string from_base64(const std::string& text) {
  std::string bytes;
  unsigned bits = 0;
  int count = 0;
  for (const char c : text) {
    const std::string letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    const auto at = letters.find(c);
    if (at == letters.npos) break;
    bits = bits << 6 | static_cast<unsigned>(at);
    count += 6;
    if (count < 8) continue;
    count -= 8;
    bytes += static_cast<char>(bits >> count & 255U);
  }
  return bytes;
}

/// One tokenizer: how many texts it has other ids, or another decoding, for.
struct Candidate {
  std::unique_ptr<mole::Tokenizer> tokenizer;
  bool sentencepiece = false;
  int texts = 0;
  std::vector<std::string> other_ids, other_text;
};

/// A real vocabulary that is too large to lie beside the goldens.
fs::path smollm2_near(const fs::path& folder) {
  for (auto at = fs::absolute(folder); at.has_relative_path(); at = at.parent_path())
    if (fs::exists(at / "smollm2/tokenizer.json")) return at / "smollm2/tokenizer.json";
  return {};
}

std::string summary(const std::string& what, const std::vector<std::string>& other) {
  std::string text = what + " of " + std::to_string(other.size()) + " texts differ:";
  for (std::size_t i = 0; i < std::min<std::size_t>(other.size(), 3); ++i) text += " " + other[i];
  return text;
}

}  // namespace

void check_tokenizers(const fs::path& folder, const std::string& name, Report& report) {
  std::map<std::string, Candidate> candidates;
  for (const auto& entry : fs::directory_iterator(folder)) {
    const auto file = entry.path().filename().string();
    const auto key = file.substr(0, file.find('.'));
    if (file.ends_with(".tokenizer.json"))
      candidates[key].tokenizer = mole::read_tokenizer_json(entry.path());
    else if (file.ends_with(".model")) {
      candidates[key].tokenizer = open_sentencepiece(entry.path());
      candidates[key].sentencepiece = true;
    }
  }
  if (const auto path = smollm2_near(folder); !path.empty())
    candidates["smollm2"].tokenizer = mole::read_tokenizer_json(path);

  std::ifstream in(folder / "texts.jsonl");
  std::map<std::string, bool> missing;
  for (std::string line; std::getline(in, line);) {
    const auto json = nlohmann::json::parse(line);
    const auto encoded = json.at("bytes").get<std::string>();
    const auto text = from_base64(encoded);
    for (const auto& [key, ids] : json.items()) {
      if (!ids.is_array()) continue;
      const auto found = candidates.find(key);
      if (found == candidates.end() || !found->second.tokenizer) {
        missing[key] = true;
        continue;
      }
      auto& candidate = found->second;
      ++candidate.texts;
      const auto wanted = ids.get<std::vector<mole::Index>>();
      // The reference finds special tokens everywhere, SentencePiece nowhere.
      if (candidate.tokenizer->encode(text, {.parse_special = !candidate.sentencepiece}) != wanted)
        candidate.other_ids.push_back(encoded);
      const auto decoded = json.contains(key + ".decoded") ? json.at(key + ".decoded").get<std::string>()
                                                           : mole::text::well_formed(text);
      if (candidate.tokenizer->decode(wanted, true) != decoded) candidate.other_text.push_back(encoded);
    }
  }
  const auto told = [&](const std::string& what, const std::vector<std::string>& other) {
    if (other.empty())
      report.compared(name, what, 0, 0, 0);
    else
      report.failure(name, summary(what, other));
  };
  for (const auto& [key, candidate] : candidates) {
    if (candidate.texts == 0) continue;
    told(key + " ids of " + std::to_string(candidate.texts) + " texts", candidate.other_ids);
    told(key + " decodings", candidate.other_text);
  }
  for (const auto& [key, yes] : missing)
    report.skip(name, key + ": its tokenizer is not here, or this program was built without SentencePiece");

  std::ifstream special(folder / "special.json");
  if (!special.good()) return;
  const auto json = nlohmann::json::parse(special);
  const auto text = json.at("text").get<std::string>();
  for (const auto& [key, ids] : json.at("with_special_tokens").items()) {
    const auto found = candidates.find(key);
    if (found == candidates.end() || !found->second.tokenizer) continue;
    const bool same = found->second.tokenizer->encode(text, {.parse_special = true, .add_special = true}) ==
                      ids.get<std::vector<mole::Index>>();
    told(key + " with special tokens", same ? std::vector<std::string>() : std::vector<std::string>{text});
  }
}

}  // namespace golden
