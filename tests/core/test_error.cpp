// Errors: one base, and the check macros that throw them in every build type.

#include <doctest/doctest.h>

#include "testing.hpp"

using namespace mole;
using namespace mole::testing;

TEST_CASE("A failed check throws its own kind of error, made of its parts") {
  CHECK(lacks<ShapeError>([] { MOLE_CHECK_SHAPE(1 > 2, "op: got", 3, "and", 'x'); }, {"op: got 3 and x"}) ==
        "");
  CHECK(lacks<ArgumentError>([] { MOLE_CHECK_ARG(false, "k", 0.5); }, {"k 0.5"}) == "");
  CHECK(lacks<FormatError>([] { MOLE_CHECK_FORMAT(false, "file"); }, {"file"}) == "");
  CHECK(lacks<NumericError>([] { MOLE_CHECK_AS(NumericError, false, "loss"); }, {"loss"}) == "");
  CHECK(lacks<DeviceError>([] { MOLE_CHECK_AS(DeviceError, false, "cpu"); }, {"cpu"}) == "");
}

TEST_CASE("A message puts no space before a closing sign or after an opening one") {
  CHECK(message("expected [0,", 4, ")", "; got", "", 5, ":", "why") == "expected [0, 4); got 5: why");
  CHECK(message("(", 1, ",", 2, ")") == "(1, 2)");
}

TEST_CASE("Every error is a mole::Error and a std::runtime_error") {
  CHECK_THROWS_AS(MOLE_CHECK_SHAPE(false, ""), Error);
  CHECK_THROWS_AS(MOLE_CHECK_ARG(false, ""), Error);
  CHECK_THROWS_AS(MOLE_CHECK_FORMAT(false, ""), Error);
  CHECK_THROWS_AS(MOLE_CHECK_AS(DeviceError, false, ""), std::runtime_error);
}

TEST_CASE("A check that holds throws nothing and evaluates no part of its message") {
  int evaluated = 0;
  MOLE_CHECK_ARG(true, ++evaluated);
  CHECK(evaluated == 0);
}
