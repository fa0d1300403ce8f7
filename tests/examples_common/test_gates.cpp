// The gates of a pass as text.

#include <doctest/doctest.h>

#include <cmath>
#include <string>

#include "common/gates.hpp"

TEST_CASE("Gates are a line each, their experts by falling weight, those they lack left out") {
  CHECK(common::gate_text({{"encoder", {0.25, 0.75}}, {"head", {1, std::nan("")}}}, {"en>fr", "chat"}) ==
        "encoder  chat   75%  en>fr  25%\n"
        "head     en>fr 100%\n");
}
