// Text in CSV files.

#include <doctest/doctest.h>

#include <mole/io/csv.hpp>

TEST_CASE("A CSV field is quoted where it has to be, and only there") {
  CHECK(mole::csv_field("plain text, no; ") == "\"plain text, no; \"");
  CHECK(mole::csv_field("plain text") == "plain text");
  CHECK(mole::csv_field("") == "");
  CHECK(mole::csv_field("a \"b\"") == "\"a \"\"b\"\"\"");
  CHECK(mole::csv_field("two\nlines") == "\"two\nlines\"");
}
