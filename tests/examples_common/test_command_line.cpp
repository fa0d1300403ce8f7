// What options of numbers take, and how they refuse the rest.

#include <string>

#include <doctest/doctest.h>

#include "common/command_line.hpp"

namespace common::command_line_tests {

/// What `check` says of a text; empty where it takes it.
std::string refusal_of(const CLI::Validator& check, std::string text) { return check(text); }

TEST_CASE("Options of numbers take what is finite and within their range") {
  for (const char* text : {"0.5", "1e-30", "3", "1e300"}) {
    CAPTURE(text);
    CHECK(refusal_of(positive_number(), text) == "");
    CHECK(refusal_of(number_from_zero(), text) == "");
  }
  CHECK(refusal_of(number_from_zero(), "0") == "");
  CHECK(refusal_of(number(-2, 2, "-2..2"), "-2") == "");
  CHECK(refusal_of(number(-2, 2, "-2..2"), "2") == "");
}

TEST_CASE("Options of numbers refuse NaN, infinity and what is no number, and say what they take") {
  for (const char* text : {"nan", "-nan", "NaN", "inf", "-inf", "1e999", "-1", "one", "", "1x"}) {
    CAPTURE(text);
    CHECK(refusal_of(positive_number(), text) == "expected a finite number >0, got " + std::string(text));
    CHECK(refusal_of(number_from_zero(), text) == "expected a finite number >=0, got " + std::string(text));
  }
  CHECK(refusal_of(positive_number(), "0") == "expected a finite number >0, got 0");
  CHECK(refusal_of(number(0.1, 2, "0.1..2"), "2.1") == "expected a finite number 0.1..2, got 2.1");
  CHECK(refusal_of(number(0.1, 2, "0.1..2"), "nan") == "expected a finite number 0.1..2, got nan");
}

TEST_CASE("The help of an option of numbers says what it takes") {
  CLI::App app;
  double rate = 0;
  app.add_option("--rate", rate, "a rate")->check(positive_number());
  CHECK(app.help().find("FLOAT:>0") != std::string::npos);
}

}  // namespace common::command_line_tests
