// Batches made on another thread, one step ahead.

#include <atomic>
#include <stdexcept>
#include <thread>

#include <doctest/doctest.h>
#include <mole/train/ahead.hpp>

using mole::Index;

TEST_CASE("Steps in a row get their own batches, each made once, and none beyond the end") {
  std::atomic<int> made{0};
  mole::Ahead<Index> batches([&](Index step) {
    ++made;
    return 10 * step;
  });
  for (Index step = 3; step < 8; ++step) CHECK(batches(step, 8) == 10 * step);
  CHECK(made == 5);
}

TEST_CASE("The next batch is made on another thread") {
  mole::Ahead<std::thread::id> threads([](Index) { return std::this_thread::get_id(); });
  CHECK(threads(0, 2) == std::this_thread::get_id());
  CHECK(threads(1, 2) != std::this_thread::get_id());
}

TEST_CASE("A step that nobody foresaw gets its batch too") {
  mole::Ahead<Index> batches([](Index step) { return step; });
  CHECK(batches(0, 9) == 0);
  CHECK(batches(5, 9) == 5);
  CHECK(batches(6, 9) == 6);
}

TEST_CASE("What making a batch throws, its own step throws") {
  mole::Ahead<Index> batches([](Index step) {
    if (step == 1) throw std::runtime_error("no batch");
    return step;
  });
  CHECK(batches(0, 3) == 0);
  CHECK_THROWS_WITH(batches(1, 3), "no batch");
}
