// exp, tanh and sigmoid in float against double, over the whole range of floats.

#include <doctest/doctest.h>
#include <bit>

#include "testing.hpp"

using namespace mole;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity(),
                not_a_number = std::numeric_limits<float>::quiet_NaN();

/// f for every 997th float in [low, high], both positive, and its negative: a step is far below an
/// exponent's.
template <class F>
void for_floats(float low, float high, F f) {
  for (auto bits = std::bit_cast<std::uint32_t>(low); bits <= std::bit_cast<std::uint32_t>(high);
       bits += 997) {
    f(std::bit_cast<float>(bits));
    f(-std::bit_cast<float>(bits));
  }
}

double relative(float got, double expected) { return std::abs(static_cast<double>(got) / expected - 1); }

}  // namespace

TEST_CASE("exp(float) is within 2e-7 of e^x wherever that is a normal float") {
  double worst = 0;
  for_floats(0.0f, 88.72283f, [&](float x) {
    if (x > -87.3365f) worst = std::max(worst, relative(mole::exp(x), std::exp(static_cast<double>(x))));
  });
  CHECK(worst <= 2e-7);
}

TEST_CASE("exp(float) ends in 0 and infinity, keeps NaN, and is 1 at 0") {
  CHECK(mole::exp(0.0f) == 1.0f);
  CHECK(mole::exp(-0.0f) == 1.0f);
  CHECK(mole::exp(std::numeric_limits<float>::denorm_min()) == 1.0f);
  CHECK(std::isfinite(mole::exp(88.72283f)));
  CHECK(std::isnan(mole::exp(not_a_number)));
  CHECK(std::isnan(mole::exp(-not_a_number)));
  bool up = true, down = true;
  for_floats(88.73f, std::numeric_limits<float>::max(), [&](float x) {
    if (x > 0) up = up && mole::exp(x) == infinity;
    if (x < 0) down = down && mole::exp(x) == 0.0f;
  });
  CHECK(up);
  CHECK(down);
  CHECK(mole::exp(infinity) == infinity);
  CHECK(mole::exp(-infinity) == 0.0f);
}

TEST_CASE("exp(float) never falls as x grows") {
  bool rises = true;
  float before = 0;
  for (float x = -90; x < 89; x += 1.0f / 128) {
    rises = rises && mole::exp(x) >= before;
    before = mole::exp(x);
  }
  CHECK(rises);
}

TEST_CASE("tanh(float) is within 3e-7 of tanh over all floats, subnormals too") {
  double worst = 0;
  bool odd = true;
  for_floats(std::numeric_limits<float>::denorm_min(), std::numeric_limits<float>::max(), [&](float x) {
    worst = std::max(worst, relative(mole::tanh(x), std::tanh(static_cast<double>(x))));
    odd = odd && mole::tanh(-x) == -mole::tanh(x);
  });
  CHECK(worst <= 3e-7);
  CHECK(odd);
  CHECK(mole::tanh(infinity) == 1.0f);
  CHECK(mole::tanh(-infinity) == -1.0f);
  CHECK(mole::tanh(0.0f) == 0.0f);
  CHECK(std::isnan(mole::tanh(not_a_number)));
}

TEST_CASE("sigmoid(float) is within 5e-7 of its formula and never overflows") {
  double worst = 0;
  for_floats(1e-30f, 87.0f, [&](float x) {
    worst = std::max(worst, relative(mole::sigmoid(x), 1 / (1 + std::exp(-static_cast<double>(x)))));
  });
  CHECK(worst <= 5e-7);
  for (const float x : {200.0f, std::numeric_limits<float>::max(), infinity}) {
    CHECK(mole::sigmoid(x) == 1.0f);
    CHECK(mole::sigmoid(-x) == 0.0f);
  }
  CHECK(std::isnan(mole::sigmoid(not_a_number)));
}

TEST_CASE("In double they are the standard library's") {
  for (const double x : {-800.0, -1.0, 0.0, 1e-300, 0.3, 40.0, 710.0}) {
    CHECK(mole::exp(x) == std::exp(x));
    CHECK(mole::tanh(x) == std::tanh(x));
    CHECK(mole::sigmoid(x) == doctest::Approx(1 / (1 + std::exp(-x))));
  }
}
