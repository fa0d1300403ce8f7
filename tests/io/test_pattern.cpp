#include <doctest/doctest.h>

#include <string>
#include <vector>

#include <mole/io/pattern.hpp>

#include "io/folder.hpp"

using namespace mole;
using namespace io_test;

namespace {

bool full(const std::string& pattern, const std::string& text) { return Pattern(pattern).full_match(text); }
std::string refusal(const std::string& pattern) {
  try {
    Pattern{pattern};
  } catch (const UnsupportedPattern&) {
    return "unsupported";
  } catch (const FormatError&) {
    return "malformed";
  }
  return "none";
}
bool begins(const std::string& pattern, const std::string& text) { return Pattern(pattern).match(text); }

}  // namespace

TEST_CASE("A pattern matches what Python's re matches") {
  struct Row {
    const char *pattern, *text;
    bool full, begins;
  };
  // Each row was computed with re.fullmatch and re.match of Python 3.11.
  const std::vector<Row> rows{{"", "", true, true},
                              {"", "a", false, true},
                              {"q", "q", true, true},
                              {"q", "qv", false, true},
                              {"a.c", "abc", true, true},
                              {"a.c", "a\nc", false, false},
                              {"(?s)a.c", "a\nc", true, true},
                              {"a\\.c", "abc", false, false},
                              {"q|v", "v", true, true},
                              {"|q", "q", true, true},
                              {"(q|k)_proj", "k_proj", true, true},
                              {"(?:q|k)_proj", "v_proj", false, false},
                              {"(?P<side>en|de)coder", "decoder", true, true},
                              {"(?#a comment)q", "q", true, true},
                              {"[qv]", "v", true, true},
                              {"[^qv]", "v", false, false},
                              {"[]a]", "]", true, true},
                              {"[a\\-c]", "-", true, true},
                              {"[a-c]", "b", true, true},
                              {"[a-]", "-", true, true},
                              {"[\\d.]+", "1.2", true, true},
                              {"[^\\W_]+", "a_", false, true},
                              {"\\d+\\D\\w\\W\\s\\S", "12-a. x", true, true},
                              {"\\s", "\x1f", true, true},
                              {"a*", "", true, true},
                              {"a+", "aaa", true, true},
                              {"a?b", "b", true, true},
                              {"a{2}", "aaa", false, true},
                              {"a{2,}", "aaa", true, true},
                              {"a{,2}", "aaa", false, true},
                              {"a{1,3}?", "aaa", true, true},
                              {"a*?b", "aab", true, true},
                              {"(ab){2}", "abab", true, true},
                              {"(a{2}){2}", "aaaa", true, true},
                              {"(a*)*", "aaa", true, true},
                              {"(a|b*)*c", "abbac", true, true},
                              {"(){9}q", "q", true, true},
                              {"a{x}", "a{x}", true, true},
                              {"a{", "a{", true, true},
                              {"{}", "{}", true, true},
                              {"^q$", "q", true, true},
                              {"q$", "q\n", false, true},
                              {"q\\Z", "q\n", false, false},
                              {"\\Aq", "q", true, true},
                              {"a^q", "aq", false, false},
                              {"\\bq\\b", "q", true, true},
                              {"a\\Bq", "aq", true, true},
                              {"a\\b.q", "a.q", true, true},
                              {"(?i)selfattention", "SelfAttention", true, true},
                              {"(?i:Q)v", "qV", false, false},
                              {"(?i)[^a]", "A", false, false},
                              {"(?i)a(?-i:B)", "Ab", false, false},
                              {".*(?<!EncDecAttention)\\.(q|v)", "layer.0.SelfAttention.q", true, true},
                              {".*(?<!EncDecAttention)\\.(q|v)", "layer.1.EncDecAttention.q", false, false},
                              {".*(?<=Self)Attention\\.q", "SelfAttention.q", true, true},
                              {"^(?!.*lm_head).*proj", "model.lm_head.proj", false, false},
                              {"^(?!.*lm_head).*proj", "model.q_proj", true, true},
                              {"(?=.*q$)en.*", "encoder.q", true, true},
                              {"(?!(?=b)bc)b.*", "bd", true, true},
                              {"(?!(?=b)bc)b.*", "bcd", false, false},
                              {"((?=a)a|b){3}", "aba", true, true},
                              {"\\x61\\u0062\\n\\\\\\/", "ab\n\\/", true, true},
                              {"\xc3\xa9.", "\xc3\xa9\xe2\x82\xac", true, true},
                              {"[\xc3\xa0-\xc3\xbf]", "\xc3\xa9", true, true},
                              {"[^a]", "\xc3\xa9", true, true}};
  for (const auto& row : rows) {
    CAPTURE(row.pattern);
    CAPTURE(row.text);
    CHECK(full(row.pattern, row.text) == row.full);
    CHECK(begins(row.pattern, row.text) == row.begins);
  }
}

TEST_CASE("PEFT's frame around a pattern matches whole ends of a name") {
  const auto framed = [](const std::string& key) { return "(.*\\.)?(" + key + ")$"; };
  const std::string name = "encoder.block.0.layer.0.SelfAttention.q";
  for (const char* key : {"q", "SelfAttention.q", ".*", "block.0.layer.0.SelfAttention.q", "[qv]", "v|q",
                          "block\\.\\d+\\.layer\\.0\\.SelfAttention\\.(q|v)", "^encoder.*", "q$"}) {
    CAPTURE(key);
    CHECK(begins(framed(key), name));
  }
  for (const char* key : {"tention.q", "Attention", "v", "^block.*", "qq", "encoder"}) {
    CAPTURE(key);
    CHECK_FALSE(begins(framed(key), name));
  }
  CHECK(begins(framed("q"), "q\n"));
}

TEST_CASE("What is no regular expression is malformed, and what this matcher lacks is unsupported") {
  for (const char* pattern :
       {"(",       ")",        "(q",    "q)",     "[",    "[a",  "[b-a]", "[\\d-z]", "*",           "a**",
        "a{1}{2}", "^*",       "(|*)",  "a{2,1}", "\\",   "\\q", "[\\A]", "(?",      "(?P",         "(?P<",
        "(?P<>a)", "(?P<1>a)", "(?P<a", "(?<a)",  "(?z)", "(?#", "(?i",   "\\x1",    "\\U00110000", "\xff"}) {
    CAPTURE(pattern);
    CHECK(refusal(pattern) == "malformed");
  }
  for (const char* pattern : {"(a)\\1", "(?P=a)", "(?>a)", "a*+", "a++", "a{2}+", "(?(1)a|b)", "(?x)a",
                              "(?m)a", "a(?i)", "\\N{DIGIT ONE}", "(?i)\xc3\xa9", "a{9999999999}"}) {
    CAPTURE(pattern);
    CHECK(refusal(pattern) == "unsupported");
  }
}

TEST_CASE("Classes and the flag i refuse a text beyond ASCII rather than guess") {
  for (const char* pattern : {"\\w", "\\d", "\\s", "\\W", "[\\w]", "(?i)a", "\\b."}) {
    CAPTURE(pattern);
    CHECK_THROWS_AS(full(pattern, "\xc3\xa9"), UnsupportedPattern);
  }
  CHECK(full(".", "\xff"));
}

TEST_CASE("Length, nesting, repetition and time are bounded") {
  const std::string deep = std::string(30'000, '(') + std::string(30'000, ')');
  CHECK_THROWS_AS(Pattern{deep}, UnsupportedPattern);
  const auto nested = [](std::size_t n) { return std::string(n, '(') + "q" + std::string(n, ')'); };
  CHECK(full(nested(max_pattern_nesting), "q"));
  CHECK_THROWS_AS(Pattern{nested(max_pattern_nesting + 1)}, UnsupportedPattern);
  CHECK(full(std::string(max_pattern_bytes - 1, 'q'), std::string(max_pattern_bytes - 1, 'q')));
  CHECK_THROWS_AS(Pattern{std::string(max_pattern_bytes + 1, 'q')}, UnsupportedPattern);
  CHECK_THROWS_AS(Pattern{".{40000}"}, UnsupportedPattern);
  CHECK_THROWS_AS(Pattern{"((a{100}){100}){100}"}, UnsupportedPattern);
  CHECK(full("(?:){1000000000}((){1000000000}){1000000000}q", "q"));

  const std::string many(500, 'a');
  CHECK_FALSE(full("(a+)+b", many));
  CHECK_FALSE(full("(a|a)*b", many));
  CHECK_FALSE(full("((a*)*)*b", many));
  CHECK_FALSE(full("(.*)(.*)(.*)(.*)(.*)b", many));
  CHECK_FALSE(full("(?=(a+)+b)a*", many));
  PatternBudget small{10'000};
  CHECK_THROWS_AS(Pattern("(a?){500}b.").full_match(PatternText(many + "bc"), small), UnsupportedPattern);
}
