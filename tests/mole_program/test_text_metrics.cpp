#include "mole/text_metrics.hpp"

#include <doctest/doctest.h>

#include <mole/core/error.hpp>
#include <mole/io/json.hpp>

using namespace program;

namespace {

/// What sacrebleu and rouge_score say; tests/data/text_metrics/make_expected.py wrote it.
mole::Json expected() { return mole::read_json(std::string(MOLE_TEST_DATA) + "/text_metrics/expected.json"); }

Answer answer_of(const mole::Json& pair) {
  return {pair.at("written").get<std::string>(), pair.at("wanted").get<std::string>()};
}

}  // namespace

TEST_CASE("BLEU's tokens are those of sacrebleu's 13a") {
  const auto json = expected();
  int compared = 0;
  for (const auto& pair : json.at("pairs")) {
    ++compared;
    CAPTURE(pair.at("written").get<std::string>());
    CHECK(bleu_tokens(answer_of(pair).written) == pair.at("tokens").get<std::vector<std::string>>());
  }
  CHECK(compared == 10);
}

TEST_CASE("Corpus BLEU equals sacrebleu's") {
  const auto json = expected();
  CHECK(json.at("corpora").size() == 5);
  for (const auto& corpus : json.at("corpora")) {
    CAPTURE(corpus.at("name").get<std::string>());
    std::vector<Answer> answers;
    for (const auto& pair : corpus.at("pairs")) answers.push_back(answer_of(pair));
    CHECK(corpus_bleu(answers) == doctest::Approx(corpus.at("bleu").get<double>()).epsilon(1e-9));
  }
}

TEST_CASE("ROUGE-L equals rouge_score's on ASCII texts, and knows the letters of other scripts") {
  const auto json = expected();
  int compared = 0;
  for (const auto& pair : json.at("pairs")) {
    if (pair.at("rouge_l").is_null()) continue;
    ++compared;
    CAPTURE(pair.at("written").get<std::string>());
    CHECK(rouge_l(answer_of(pair)) == doctest::Approx(pair.at("rouge_l").get<double>()).epsilon(1e-9));
  }
  CHECK(compared >= 5);
  CHECK(rouge_l({"über", "ÜBER!"}) == 1);
  CHECK(rouge_l({"uber", "über"}) == 0);
}

TEST_CASE("Token F1 counts shared words with their repetitions, without articles, case and punctuation") {
  CHECK(token_f1({"The cat.", "a CAT"}) == 1);
  CHECK(token_f1({"cat cat dog", "cat dog dog"}) == doctest::Approx(2.0 / 3));
  CHECK(token_f1({"one two", "three"}) == 0);
  CHECK(token_f1({"", ""}) == 1);
  CHECK(token_f1({"", "word"}) == 0);
  // 2 of 4 words written, of 3 wanted.
  CHECK(token_f1({"red green blue black", "green black white"}) == doctest::Approx(4.0 / 7));
}

TEST_CASE("Exact match overlooks white space at the ends alone") {
  CHECK(exact_match({" deux cent \n", "deux cent"}));
  CHECK(!exact_match({"deux  cent", "deux cent"}));
  CHECK(!exact_match({"Deux cent", "deux cent"}));
  CHECK(trimmed("\xC2\xA0 x y\t") == "x y");
  CHECK(trimmed(" \n") == "");
}

TEST_CASE("Scores are means over the answers, and of none there are none") {
  const auto scores = score({{"a b c d", "a b c d"}, {"x", "y"}});
  CHECK(scores.exact == 0.5);
  CHECK(scores.f1 == 0.5);
  CHECK(scores.rouge_l == 0.5);
  CHECK(scores.bleu > 0);
  CHECK_THROWS_AS(score({}), mole::ArgumentError);
}
