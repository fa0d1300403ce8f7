// Spelled numbers: known words, every language of the base, and what happens for a language nobody spells.

#include <doctest/doctest.h>

#include <algorithm>
#include <set>
#include <string>

#include <mole/core/error.hpp>

#include "numbers/spell.hpp"
#include "numbers/tasks.hpp"

using numbers::spell;

TEST_CASE("Numbers are spelled as speakers of each base language write them") {
  struct Known {
    const char* language;
    numbers::Index number;
    const char* words;
  };
  // Romanian words with s or t and a mark below are left out: ICU's choice of cedilla or comma is in flux.
  const Known known[] = {{"en", 0, "zero"},
                         {"en", 206, "two hundred six"},
                         {"en", 9999, "nine thousand nine hundred ninety-nine"},
                         {"fr", 206, "deux cent six"},
                         {"fr", 80, "quatre-vingts"},
                         {"fr", 1984, "mille neuf cent quatre-vingt-quatre"},
                         {"de", 206, "zweihundertsechs"},
                         {"de", 1234, "eintausendzweihundertvierunddreißig"},
                         {"ro", 2, "doi"},
                         {"ro", 9, "nouă"},
                         {"es", 22, "veintidós"},
                         {"es", 1984, "mil novecientos ochenta y cuatro"},
                         {"it", 342, "trecentoquarantadue"},
                         {"pt", 3021, "três mil e vinte e um"},
                         {"nl", 22, "tweeëntwintig"},
                         {"sv", 206, "tvåhundrasex"}};
  for (const Known& it : known) {
    CAPTURE(it.language);
    CHECK(spell(it.language, it.number) == it.words);
  }
}

TEST_CASE("No base language spells two numbers alike, uses digits or keeps a soft hyphen") {
  for (const std::string& language : numbers::base_languages()) {
    CAPTURE(language);
    std::set<std::string> distinct;
    bool clean = true;
    for (numbers::Index number = 0; number < numbers::number_count; ++number) {
      const std::string words = spell(language, number);
      clean = clean && !words.empty() && words.find("\xc2\xad") == std::string::npos &&
              words.find_first_of("0123456789,.") == std::string::npos;
      distinct.insert(words);
    }
    CHECK(clean);
    CHECK(distinct.size() == 10000);
  }
}

TEST_CASE("The languages are those with rules of their own, sorted") {
  const auto& languages = numbers::languages();
  CHECK(languages.size() >= 60);
  CHECK(std::ranges::is_sorted(languages));
  for (const std::string& language : numbers::base_languages()) CHECK(numbers::knows_language(language));
  // ICU has data for Basque but no spelling; it would answer in the machine's own language.
  CHECK_FALSE(numbers::knows_language("eu"));
  CHECK_FALSE(numbers::knows_language(""));
}

TEST_CASE("An unknown language is an error that names the nearest codes") {
  CHECK_THROWS_AS(spell("xx", 1), mole::ArgumentError);
  CHECK_THROWS_AS(spell("", 1), mole::ArgumentError);
  try {
    spell("french", 1);
    FAIL("expected an error");
  } catch (const mole::ArgumentError& error) {
    const std::string text = error.what();
    CAPTURE(text);
    CHECK(text.find("'french'") != text.npos);
    CHECK(text.find("near it: fr") != text.npos);
    CHECK(text.find(" zh") != text.npos);
  }
  CHECK(numbers::unknown_language("EN").find("near it: en") != std::string::npos);
  CHECK_THROWS_WITH_AS(spell("en", -1), "spell: expected a number >= 0, got -1", mole::ArgumentError);
}

TEST_CASE("The spelling digest depends on each language and their order") {
  const std::string en_fr[] = {"en", "fr"}, fr_en[] = {"fr", "en"}, en[] = {"en"};
  CHECK(numbers::spelling_digest(en_fr) == numbers::spelling_digest(en_fr));
  CHECK(numbers::spelling_digest(en_fr) != numbers::spelling_digest(fr_en));
  CHECK(numbers::spelling_digest(en_fr) != numbers::spelling_digest(en));
}
