// Learning rates at steps where they can be said by heart.

#include <doctest/doctest.h>
#include <mole/optim/schedule.hpp>

using mole::Schedule;
using mole::ScheduleKind;

TEST_CASE("Every schedule warms up in equal parts to its peak") {
  for (const auto kind : {ScheduleKind::constant, ScheduleKind::linear, ScheduleKind::cosine}) {
    const Schedule schedule{kind, 0.8, 4, 12, 0.2};
    CHECK(schedule.rate(0) == doctest::Approx(0.2));
    CHECK(schedule.rate(1) == doctest::Approx(0.4));
    CHECK(schedule.rate(3) == doctest::Approx(0.8));
    CHECK(schedule.rate(4) == doctest::Approx(0.8));
  }
}

TEST_CASE("A constant schedule stays at its peak") {
  const Schedule schedule{.peak = 0.3};
  CHECK(schedule.rate(0) == 0.3);
  CHECK(schedule.rate(1000000) == 0.3);
}

TEST_CASE("A linear schedule falls along a line to its floor and stays there") {
  const Schedule schedule{ScheduleKind::linear, 1.0, 2, 12, 0.1};
  CHECK(schedule.rate(7) == doctest::Approx(0.55));
  CHECK(schedule.rate(11) == doctest::Approx(0.19));
  CHECK(schedule.rate(12) == doctest::Approx(0.1));
  CHECK(schedule.rate(100) == doctest::Approx(0.1));
}

TEST_CASE("A cosine schedule falls along half a cosine to its floor and stays there") {
  const Schedule schedule{ScheduleKind::cosine, 1.0, 0, 12, 0.2};
  CHECK(schedule.rate(0) == doctest::Approx(1.0));
  CHECK(schedule.rate(4) == doctest::Approx(0.8));  // cos 60 degrees = 1/2
  CHECK(schedule.rate(6) == doctest::Approx(0.6));
  CHECK(schedule.rate(8) == doctest::Approx(0.4));
  CHECK(schedule.rate(12) == doctest::Approx(0.2));
  CHECK(schedule.rate(13) == doctest::Approx(0.2));
}

TEST_CASE("Steps and lengths that make no schedule are refused") {
  CHECK_THROWS_AS(Schedule{}.rate(-1), mole::ArgumentError);
  CHECK_THROWS_AS(Schedule({.warmup_steps = -1}).rate(0), mole::ArgumentError);
  CHECK_THROWS_WITH_AS(Schedule({ScheduleKind::cosine, 1, 5, 5}).rate(5),
                       doctest::Contains("total_steps above the 5"), mole::ArgumentError);
  CHECK_THROWS_AS(Schedule({ScheduleKind::linear, 1, 0, 0}).rate(0), mole::ArgumentError);
}
