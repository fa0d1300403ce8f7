#include "mole/text_metrics.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <map>

#include <unicode/uchar.h>

#include <mole/core/error.hpp>
#include <mole/text/unicode.hpp>

namespace program {

namespace {

using Words = std::vector<std::string>;

bool is_digit(char c) { return c >= '0' && c <= '9'; }

bool is_ascii_punctuation(char32_t c) {
  return (c >= '!' && c <= '/') || (c >= ':' && c <= '@') || (c >= '[' && c <= '`') || (c >= '{' && c <= '~');
}

/// The parts of a text between white space.
Words split_at_space(std::string_view text) {
  Words words;
  std::string word;
  mole::text::each_character(text, [&](char32_t c, mole::text::Span span) {
    if (!mole::text::is_space(c)) {
      word += text.substr(span.begin, span.end - span.begin);
    } else if (!word.empty()) {
      words.push_back(std::move(word));
      word.clear();
    }
  });
  if (!word.empty()) words.push_back(std::move(word));
  return words;
}

Words f1_words(std::string_view text) {
  std::string plain;
  const auto lower = mole::text::lower_case(mole::text::well_formed(text));
  mole::text::each_character(lower, [&](char32_t c, mole::text::Span span) {
    if (!is_ascii_punctuation(c)) plain += lower.substr(span.begin, span.end - span.begin);
  });
  auto words = split_at_space(plain);
  std::erase_if(words, [](const auto& word) { return word == "a" || word == "an" || word == "the"; });
  return words;
}

Words rouge_words(std::string_view text) {
  std::string spaced;
  const auto lower = mole::text::lower_case(mole::text::well_formed(text));
  mole::text::each_character(lower, [&](char32_t c, mole::text::Span span) {
    const auto point = static_cast<UChar32>(c);
    // An accent that is a character of its own belongs to its letter.
    const bool inside = u_isalnum(point) || u_charType(point) == U_NON_SPACING_MARK;
    spaced += inside ? lower.substr(span.begin, span.end - span.begin) : " ";
  });
  return split_at_space(spaced);
}

double f1(double shared, std::size_t written, std::size_t wanted) {
  if (shared == 0) return 0;
  const double precision = shared / static_cast<double>(written),
               recall = shared / static_cast<double>(wanted);
  return 2 * precision * recall / (precision + recall);
}

std::size_t common_subsequence(const Words& a, const Words& b) {
  std::vector<std::size_t> row(b.size() + 1);
  for (const auto& word : a) {
    std::size_t diagonal = 0;
    for (std::size_t j = 0; j < b.size(); ++j) {
      const std::size_t above = row[j + 1];
      row[j + 1] = word == b[j] ? diagonal + 1 : std::max(above, row[j]);
      diagonal = above;
    }
  }
  return row.back();
}

void replace_all(std::string& text, std::string_view from, std::string_view to) {
  for (auto at = text.find(from); at != text.npos; at = text.find(from, at + to.size()))
    text.replace(at, from.size(), to);
}

bool stands_alone(char c) {
  const auto u = static_cast<unsigned char>(c);
  return u < 0x80 && is_ascii_punctuation(u) && c != '\'' && c != ',' && c != '-' && c != '.';
}

constexpr std::size_t longest_gram = 4;
using Counts = std::map<std::vector<std::string>, std::size_t>;

Counts grams(const Words& words, std::size_t n) {
  Counts counts;
  for (std::size_t i = 0; i + n <= words.size(); ++i)
    ++counts[{words.begin() + static_cast<std::ptrdiff_t>(i),
              words.begin() + static_cast<std::ptrdiff_t>(i + n)}];
  return counts;
}

}  // namespace

std::string trimmed(std::string_view text) {
  std::size_t begin = text.size(), end = 0;
  mole::text::each_character(text, [&](char32_t c, mole::text::Span span) {
    if (mole::text::is_space(c)) return;
    begin = std::min(begin, span.begin);
    end = span.end;
  });
  return begin < end ? std::string(text.substr(begin, end - begin)) : std::string();
}

bool exact_match(const Answer& answer) { return trimmed(answer.written) == trimmed(answer.wanted); }

double token_f1(const Answer& answer) {
  const auto written = f1_words(answer.written), wanted = f1_words(answer.wanted);
  if (written.empty() && wanted.empty()) return 1;
  std::map<std::string, std::size_t> left;
  for (const auto& word : wanted) ++left[word];
  double shared = 0;
  for (const auto& word : written)
    if (auto& count = left[word]; count > 0) --count, ++shared;
  return f1(shared, written.size(), wanted.size());
}

double rouge_l(const Answer& answer) {
  const auto written = rouge_words(answer.written), wanted = rouge_words(answer.wanted);
  return f1(static_cast<double>(common_subsequence(written, wanted)), written.size(), wanted.size());
}

std::vector<std::string> bleu_tokens(std::string_view text) {
  std::string line(text);
  replace_all(line, "<skipped>", "");
  replace_all(line, "-\n", "");
  replace_all(line, "\n", " ");
  if (line.find('&') != line.npos) {
    replace_all(line, "&quot;", "\"");
    replace_all(line, "&amp;", "&");
    replace_all(line, "&lt;", "<");
    replace_all(line, "&gt;", ">");
  }
  // As 13a's regular expressions do one after another: signs stand alone; a full stop or comma does unless a digit
  // stands before and behind it; a dash does behind a digit. A match takes the character beside it along, so that of
  // two signs in a row the second is not seen by the same expression.
  std::string spaced;
  for (const char c : " " + line + " ") {
    if (stands_alone(c))
      spaced += std::string(" ") + c + " ";
    else
      spaced += c;
  }
  const auto is_point = [](char c) { return c == '.' || c == ','; };
  std::string before;
  for (std::size_t i = 0; i < spaced.size(); ++i) {
    if (i + 1 < spaced.size() && !is_digit(spaced[i]) && is_point(spaced[i + 1])) {
      before += std::string(1, spaced[i]) + " " + spaced[i + 1] + " ";
      ++i;
    } else {
      before += spaced[i];
    }
  }
  std::string behind;
  for (std::size_t i = 0; i < before.size(); ++i) {
    if (i + 1 < before.size() && is_point(before[i]) && !is_digit(before[i + 1])) {
      behind += std::string(" ") + before[i] + " " + before[i + 1];
      ++i;
    } else {
      behind += before[i];
    }
  }
  std::string dashed;
  for (std::size_t i = 0; i < behind.size(); ++i) {
    if (i + 1 < behind.size() && is_digit(behind[i]) && behind[i + 1] == '-') {
      dashed += std::string(1, behind[i]) + " - ";
      ++i;
    } else {
      dashed += behind[i];
    }
  }
  return split_at_space(dashed);
}

double corpus_bleu(const std::vector<Answer>& answers) {
  std::array<double, longest_gram> right{}, total{};
  double written_length = 0, wanted_length = 0;
  for (const auto& answer : answers) {
    const auto written = bleu_tokens(trimmed(answer.written)), wanted = bleu_tokens(trimmed(answer.wanted));
    written_length += static_cast<double>(written.size());
    wanted_length += static_cast<double>(wanted.size());
    for (std::size_t n = 1; n <= longest_gram; ++n) {
      const auto known = grams(wanted, n);
      for (const auto& [gram, count] : grams(written, n)) {
        total[n - 1] += static_cast<double>(count);
        const auto found = known.find(gram);
        if (found != known.end()) right[n - 1] += static_cast<double>(std::min(count, found->second));
      }
    }
  }
  if (right[0] == 0) return 0;
  double logarithm = 0, smooth = 1;
  for (std::size_t n = 0; n < longest_gram; ++n) {
    if (total[n] == 0) return 0;
    // Chen and Cherry's third smoothing: each order without a match counts half of the one before.
    if (right[n] == 0) smooth *= 2;
    const double precision = right[n] == 0 ? 1 / (smooth * total[n]) : right[n] / total[n];
    logarithm += std::log(precision) / static_cast<double>(longest_gram);
  }
  const double brevity = written_length < wanted_length ? 1 - wanted_length / written_length : 0;
  return std::exp(brevity + logarithm);
}

TextScores score(const std::vector<Answer>& answers) {
  MOLE_CHECK_ARG(!answers.empty(), "score: there are no answers");
  TextScores scores;
  for (const auto& answer : answers) {
    scores.exact += exact_match(answer);
    scores.f1 += token_f1(answer);
    scores.rouge_l += rouge_l(answer);
  }
  const auto n = static_cast<double>(answers.size());
  return {scores.exact / n, scores.f1 / n, scores.rouge_l / n, corpus_bleu(answers)};
}

}  // namespace program
