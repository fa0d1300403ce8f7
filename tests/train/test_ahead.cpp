// Batches made on another thread, one step ahead.

#include <atomic>
#include <chrono>
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

TEST_CASE("All batches but the first are made on one other thread") {
  mole::Ahead<std::thread::id> threads([](Index) { return std::this_thread::get_id(); });
  CHECK(threads(0, 4) == std::this_thread::get_id());
  const auto other = threads(1, 4);
  CHECK(other != std::this_thread::get_id());
  CHECK(threads(2, 4) == other);
  CHECK(threads(3, 4) == other);
}

TEST_CASE("A run may end while a batch that nobody will use is being made") {
  std::atomic<int> made{0};
  {
    mole::Ahead<int> batches([&](Index) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      return ++made;
    });
    CHECK(batches(0, 9) == 1);
  }
  CHECK(made <= 2);
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
  CHECK(batches(2, 3) == 2);
}
