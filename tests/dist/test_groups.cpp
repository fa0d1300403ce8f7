// Groups of ranks: what they exchange, and how they end.

#include <doctest/doctest.h>

#include <chrono>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <dist/sums_there.hpp>
#include <mole/autodiff/backward.hpp>
#include <mole/dist/all_reduce.hpp>
#include <mole/dist/any_group.hpp>
#include <mole/dist/thread_group.hpp>
#include <mole/ops/arithmetic.hpp>
#include <mole/ops/reduce.hpp>
#include <testing.hpp>

using namespace mole::dist;
using mole::Index;
using Real = mole::Tensor<double, mole::testing::Device>;

namespace {

/// What each rank of `size` threads makes of f(group), by rank.
template <class R, class F>
std::vector<R> on_ranks(int size, F f) {
  std::vector<R> results(static_cast<std::size_t>(size));
  ThreadGroup::run(
      size, [&](const AnyGroup& group) { results[static_cast<std::size_t>(group.rank())] = f(group); });
  return results;
}

}  // namespace

TEST_CASE("A group of one leaves sums as they are and gathers its own") {
  const AnyGroup group;
  CHECK(group.rank() == 0);
  CHECK(group.size() == 1);
  std::vector<double> x{1, 2}, all(2);
  group.all_reduce_sum(x.data(), 2);
  group.all_gather(x.data(), 2, all.data());
  group.broadcast(x.data(), 2, 0);
  group.barrier();
  CHECK(x == std::vector<double>{1, 2});
  CHECK(all == x);
}

TEST_CASE("Every rank of threads gets the sum, all parts in order, and the root's values") {
  for (const int size : {1, 2, 3, 5}) {
    CAPTURE(size);
    const auto results = on_ranks<std::vector<float>>(size, [](const AnyGroup& group) {
      const auto rank = static_cast<float>(group.rank());
      std::vector<float> result;
      // Many rounds: a rank must not overtake another that still reads.
      for (int round = 0; round < 200; ++round) {
        std::vector<float> sum{rank, 1}, root{rank + 10}, mine{rank, rank * rank},
            all(2 * static_cast<std::size_t>(group.size()));
        group.all_reduce_sum(sum.data(), 2);
        group.all_gather(mine.data(), 2, all.data());
        group.broadcast(root.data(), 1, group.size() - 1);
        group.barrier();
        result = sum;
        result.insert(result.end(), all.begin(), all.end());
        result.push_back(root.front());
      }
      return result;
    });
    std::vector<float> want{static_cast<float>(size * (size - 1) / 2), static_cast<float>(size)};
    for (int rank = 0; rank < size; ++rank)
      want.insert(want.end(), {static_cast<float>(rank), static_cast<float>(rank * rank)});
    want.push_back(static_cast<float>(size + 9));
    for (const auto& result : results) CHECK(result == want);
  }
}

TEST_CASE("The sum over the ranks passes its gradient on as it is") {
  const auto gradients = on_ranks<std::vector<double>>(3, [](const AnyGroup& group) {
    auto x = Real::from({2}, {1.0 + group.rank(), 2.0}).set_requires_grad();
    const auto y = all_reduce_sum(group, x);
    backward(sum(mul(y, y)));
    auto result = mole::testing::doubles(y);
    const auto gradient = mole::testing::doubles(x.grad());
    result.insert(result.end(), gradient.begin(), gradient.end());
    return result;
  });
  // y = [6, 6] on every rank, and dy = 2 y: not three times that.
  for (const auto& result : gradients) CHECK(result == std::vector<double>{6, 6, 12, 12});
}

TEST_CASE("An ordered sum has the same bits however many ranks hold its parts") {
  std::vector<Real> parts;
  for (std::uint64_t i = 0; i < 12; ++i) parts.push_back(mole::testing::noise<double>({5}, i));
  const auto want = ordered_sum(SelfGroup(), parts).to_host();
  for (const int size : {1, 2, 3, 4, 6, 12}) {
    CAPTURE(size);
    const auto sums = on_ranks<std::vector<double>>(size, [&](const AnyGroup& group) {
      const auto each = static_cast<std::ptrdiff_t>(parts.size()) / group.size();
      const auto first = parts.begin() + group.rank() * each;
      const auto results = all_reduce_ordered(group, std::vector<Real>(first, first + each));
      for (const auto& result : results) REQUIRE(result.to_host() == results.front().to_host());
      return results.front().to_host();
    });
    for (const auto& sum : sums) CHECK(sum == want);
  }
}

TEST_CASE("A group that sums where tensors lie has the results of one that sums on the host") {
  std::vector<Real> parts;
  for (std::uint64_t i = 0; i < 6; ++i) parts.push_back(mole::testing::noise<double>({5}, i));
  const auto of = [&](const AnyGroup& group) {
    auto x = parts[static_cast<std::size_t>(group.rank())].clone().set_requires_grad();
    const auto sum = all_reduce_sum(group, x);
    backward(mole::sum(mul(sum, sum)));
    const auto own =
        std::vector<Real>(parts.begin() + 3 * group.rank(), parts.begin() + 3 * group.rank() + 3);
    const std::vector<Real> both{own[0].clone(), own[1].clone()};
    all_reduce_in_place(group, both);
    std::vector<std::vector<double>> results;
    for (const auto& one : {sum, x.grad(), ordered_sum(group, own), both[0], both[1]})
      results.push_back(one.to_host());
    return results;
  };
  const auto want = on_ranks<std::vector<std::vector<double>>>(2, of);
  const auto got = on_ranks<std::vector<std::vector<double>>>(2, [&](const AnyGroup& group) {
    int calls = 0;
    const auto results = of(mole::testing::SumsThere(group, &calls));
    // A sum, a gathering, a sum of two tensors.
    REQUIRE(calls == 3);
    return results;
  });
  CHECK(got == want);
}

TEST_CASE("A group that sums on the host alone says so") {
  const AnyGroup group;
  CHECK(!group.sums_on("cpu"));
  CHECK(AnyGroup(mole::testing::SumsThere(group, nullptr)).sums_on("cpu"));
  CHECK(!AnyGroup(mole::testing::SumsThere(group, nullptr)).sums_on("cuda"));
  const auto refused = mole::testing::lacks<mole::ArgumentError>(
      [&] { group.device_sums(std::vector<Piece<float>>{}); }, {"host", "sums_on()"});
  CHECK(refused == "");
}

TEST_CASE("A group that has ended can be asked for the reason without waiting") {
  const auto ranks = ThreadGroup::make(2);
  CHECK_NOTHROW(AnyGroup(ranks[0]).check());
  CHECK_NOTHROW(AnyGroup().check());
  ranks[1].leave("no milk");
  CHECK(mole::testing::lacks<PeerFailed>([&] { AnyGroup(ranks[0]).check(); }, {"rank 1 of 2", "no milk"}) ==
        "");
}

TEST_CASE("Tensors of every rank become those of rank 0") {
  const auto values = on_ranks<std::vector<double>>(3, [](const AnyGroup& group) {
    const auto x = Real::full({2, 2}, 1.0 + group.rank());
    broadcast_first(group, std::vector<Real>{x});
    return x.to_host();
  });
  for (const auto& value : values) CHECK(value == std::vector<double>{1, 1, 1, 1});
}

TEST_CASE("A rank that throws ends those that wait for it, and its error is the run's") {
  int ended = 0;
  std::mutex mutex;
  const auto run = [&] {
    ThreadGroup::run(3, [&](const ThreadGroup& group) {
      if (group.rank() == 1) throw mole::ArgumentError("no bread");
      const auto missing = mole::testing::lacks<PeerFailed>([&] { group.barrier(); }, {"rank 1", "no bread"});
      const std::lock_guard lock(mutex);
      ended += missing.empty();
    });
  };
  CHECK(mole::testing::lacks<mole::ArgumentError>(run, {"no bread"}).empty());
  CHECK(ended == 2);
}

TEST_CASE("Of a rank's own error and those of its peers, the run throws the own one") {
  const auto run = [] {
    ThreadGroup::run(2, [](const ThreadGroup& group) {
      if (group.rank() == 1) {
        group.leave("the mill is shut");
        std::this_thread::sleep_for(std::chrono::milliseconds(30));
        throw mole::ArgumentError("the mill is shut");
      }
      group.barrier();
    });
  };
  CHECK(mole::testing::lacks<mole::ArgumentError>(run, {"the mill is shut"}).empty());
}

TEST_CASE("A rank that never comes ends the others after the timeout") {
  const auto ranks = ThreadGroup::make(2, std::chrono::milliseconds(20));
  CHECK(mole::testing::lacks<PeerFailed>([&] { ranks[0].barrier(); }, {"rank 0 of 2", "waited 0.02 s"}) ==
        "");
  CHECK_THROWS_AS(ranks[1].barrier(), PeerFailed);
}

TEST_CASE("Ranks that give different numbers of values to one call are told so") {
  CHECK_THROWS_AS(ThreadGroup::run(2,
                                   [](const ThreadGroup& group) {
                                     std::vector<double> x(5);
                                     group.all_reduce_sum(x.data(), 2 + group.rank());
                                   }),
                  PeerFailed);
  CHECK_THROWS_AS(ThreadGroup::make(0), mole::ArgumentError);
}
