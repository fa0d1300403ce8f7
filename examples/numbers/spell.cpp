// Spelling through ICU's RuleBasedNumberFormat.

#include "numbers/spell.hpp"

#include <algorithm>
#include <map>
#include <memory>
#include <set>
#include <span>

#include <unicode/locid.h>
#include <unicode/rbnf.h>
#include <unicode/unistr.h>
#include <mole/core/error.hpp>
#include <mole/core/fingerprint.hpp>

namespace numbers {
namespace {

std::unique_ptr<icu::RuleBasedNumberFormat> make_formatter(const std::string& language) {
  UErrorCode status = U_ZERO_ERROR;
  auto formatter = std::make_unique<icu::RuleBasedNumberFormat>(icu::URBNF_SPELLOUT,
                                                                icu::Locale(language.c_str()), status);
  // ICU answers for a language without rules with those of the machine's own language, silently.
  if (U_FAILURE(status)) return nullptr;
  const icu::Locale actual = formatter->getLocale(ULOC_ACTUAL_LOCALE, status);
  if (U_FAILURE(status) || language.empty() || language != actual.getLanguage()) return nullptr;
  return formatter;
}

std::vector<std::string> find_languages() {
  std::set<std::string> codes;
  int32_t count = 0;
  const icu::Locale* locales = icu::Locale::getAvailableLocales(count);
  for (int32_t i = 0; i < count; ++i) codes.insert(locales[i].getLanguage());
  std::vector<std::string> spelled;
  for (const std::string& code : codes) {
    if (make_formatter(code)) spelled.push_back(code);
  }
  return spelled;
}

// One a thread: RuleBasedNumberFormat makes no promise for shared use.
const icu::RuleBasedNumberFormat& formatter_of(const std::string& language) {
  thread_local std::map<std::string, std::unique_ptr<icu::RuleBasedNumberFormat>> formatters;
  auto found = formatters.find(language);
  if (found == formatters.end()) {
    auto formatter = make_formatter(language);
    MOLE_CHECK_ARG(formatter != nullptr, unknown_language(language));
    found = formatters.emplace(language, std::move(formatter)).first;
  }
  return *found->second;
}

std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (std::size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = row[0];
    row[0] = i;
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t swapped = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, swapped});
    }
  }
  return row.back();
}

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : " ") + word;
  return text;
}

}  // namespace

const std::vector<std::string>& languages() {
  static const std::vector<std::string> all = find_languages();
  return all;
}

bool knows_language(std::string_view language) {
  // Making the list takes longer than all else that a short command does.
  return make_formatter(std::string(language)) != nullptr;
}

std::string unknown_language(std::string_view language) {
  // "fra" and "french" mean "fr", "FR" too: a code that begins the word is as near as one edit away.
  std::string lower(language);
  std::ranges::transform(lower, lower.begin(),
                         [](char c) { return c >= 'A' && c <= 'Z' ? char(c - 'A' + 'a') : c; });
  std::vector<std::string> near;
  for (const std::string& code : languages()) {
    if ((lower.size() > 1 && lower.starts_with(code)) || edit_distance(lower, code) <= 1)
      near.push_back(code);
  }
  std::ranges::stable_sort(near, {}, [&](const std::string& code) { return !lower.starts_with(code); });
  if (near.size() > 6) near.resize(6);
  std::string text = "unknown language '" + std::string(language) + "'";
  if (!near.empty()) text += "; near it: " + joined(near);
  return text + "; languages with spelling rules in this ICU: " + joined(languages());
}

std::string spell(std::string_view language, Index number) {
  MOLE_CHECK_ARG(number >= 0, "spell: expected a number >= 0, got", number);
  icu::UnicodeString words;
  formatter_of(std::string(language)).format(static_cast<int64_t>(number), words);
  words.findAndReplace(icu::UnicodeString(char16_t(0x00AD)), icu::UnicodeString());
  std::string text;
  words.toUTF8String(text);
  return text;
}

std::uint64_t spelling_digest(std::span<const std::string> languages) {
  mole::Fingerprint digest;
  for (const std::string& language : languages) {
    for (Index number = 0; number < number_count; ++number) {
      const auto line = spell(language, number) + "\n";
      digest.add(std::as_bytes(std::span(line)));
    }
  }
  return digest.state;
}

}  // namespace numbers
