// What only CUDA has: memory in the order of streams, threads, exhaustion, graphs.

#include <doctest/doctest.h>
#include <barrier>
#include <stdexcept>
#include <thread>

#include <mole/cuda.cuh>

#include "experts/experts.hpp"
#include "poison.hpp"
#include "testing.hpp"

using namespace mole;
using namespace mole::testing;

namespace {

/// A MoLE layer that learns to give fixed outputs.
template <class T, class B>
struct Training {
  Tensor<T, B> x, target, loss;
  MoleLinear<T, B> layer;
  Sgd<T, B> sgd;

  explicit Training(std::uint64_t seed, const std::vector<LoraFactors>& more = {})
      : x(noise<T, B>({2, 5, 12}, seed)),
        target(noise<T, B>({2, 5, 7}, seed + 1)),
        layer(noise<T, B>({7, 12}, seed + 2), noise<T, B>({7}, seed + 3), experts(seed, more),
              {.pooling = Pooling::token}),
        sgd(layer.parameters(), {.momentum = 0.9}) {}

  void step() {
    sgd.zero_grad();
    loss = mse(layer(x).y, target);
    backward(loss);
    sgd.step(0.1);
  }
  std::vector<T> weights() const { return layer.parameters()[0].to_host(); }

 private:
  static std::vector<LoraFactors> experts(std::uint64_t seed, std::vector<LoraFactors> more) {
    more.push_back(random_factors(3, 12, 7, 0.5, seed));
    more.push_back(random_factors(2, 12, 7, 1, seed + 4));
    return more;
  }
};

/// How often the pool has asked the driver for memory.
std::size_t allocations() { return buffer_stats<Cuda>().allocations; }

void take(Index n) { Tensor<float, Cuda>::empty({n}); }

}  // namespace

TEST_CASE("A steady loop asks the driver for no memory") {
  const ReusesBlocks<Cuda> reuses;
  Training<float, Cuda> training(1);
  for (int warm = 0; warm < 3; ++warm) training.step();
  const auto before = allocations();
  for (int i = 0; i < 50; ++i) training.step();
  CHECK(allocations() == before);
  CHECK(std::isfinite(training.loss.item()));
}

TEST_CASE("A freed block is reused in its own thread's order of work, and in no other's while that goes on") {
  const ReusesBlocks<Cuda> reuses;
  constexpr Index n = 777001;
  take(n);
  const auto before = allocations();
  take(n);
  CHECK(allocations() == before);
  std::thread([] { take(n); }).join();
  CHECK(allocations() == before + 1);
  // The thread has ended: the next one goes on with its stream and its memory.
  std::thread([] { take(n); }).join();
  CHECK(allocations() == before + 1);
}

TEST_CASE("Threads that work at once have streams of their own, and right results") {
  constexpr std::size_t threads = 4;
  std::vector<double> found[threads];
  cudaStream_t streams[threads];
  std::barrier together(static_cast<std::ptrdiff_t>(threads));
  std::vector<std::thread> work;
  for (std::size_t i = 0; i < threads; ++i)
    work.emplace_back([&, i] {
      streams[i] = Cuda::stream();
      together.arrive_and_wait();
      Training<double, Cuda> training(10 * i + 1);
      for (int t = 0; t < 50; ++t) training.step();
      found[i] = training.weights();
    });
  for (auto& thread : work) thread.join();
  for (std::size_t i = 0; i < threads; ++i) {
    for (std::size_t j = 0; j < i; ++j) CHECK(streams[i] != streams[j]);
    Training<double, Cpu> reference(10 * i + 1);
    for (int t = 0; t < 50; ++t) reference.step();
    CHECK(worst_error(found[i], reference.weights()) <= 1e-11);
  }
}

TEST_CASE("Out of memory is a DeviceError with the size asked for, and work goes on after it") {
  constexpr Index ten_terabytes = Index{10} << 40;
  Training<float, Cuda> training(1);
  training.step();
  for (int again = 0; again < 2; ++again) {
    CHECK(lacks<DeviceError>([] { take(ten_terabytes / 4); },
                             {"cuda", "out of memory", "10995116277760 bytes"}) == "");
    CHECK(cudaGetLastError() == cudaSuccess);
    training.step();
    CHECK(std::isfinite(training.loss.item()));
  }
  CHECK(lacks<DeviceError>([] { take(std::numeric_limits<Index>::max()); }, {"cuda", "out of memory"}) == "");
}

TEST_CASE("More work than a launch can count is a DeviceError, and work goes on after it") {
  CHECK(lacks<DeviceError>([] { Cuda::for_each(Index{1} << 45, detail::ProbeEach{}); },
                           {"cuda", "35184372088832"}) == "");
  CHECK(Tensor<float, Cuda>::full({2}, 3).to_host() == std::vector<float>{3, 3});
}

TEST_CASE_TEMPLATE("A replayed graph of a training step ends in the bits of eager steps", T, float, double) {
  const ReusesBlocks<Cuda> reuses;
  Training<T, Cuda> eager(1), captured(1);
  for (int t = 0; t < 20; ++t) eager.step();
  CudaGraph graph([&] { captured.step(); });  // the first of the twenty
  const auto before = allocations();
  for (int t = 1; t < 20; ++t) graph.replay();
  CHECK(captured.weights() == eager.weights());
  CHECK(captured.loss.item() == eager.loss.item());
  CHECK(allocations() == before);
}

TEST_CASE("Gates of many experts, with products side by side in a graph, learn there as they do in order") {
  const auto make = [] {
    std::vector<LoraFactors> more;
    for (std::uint64_t i = 0; i < 40; ++i) more.push_back(random_factors(4, 12, 7, 1, 10 + i));
    Training<double, Cuda> training(1, more);
    training.x.set_requires_grad();
    return training;
  };
  auto eager = make(), captured = make();
  constexpr int steps = 20;
  for (int t = 0; t < steps; ++t) eager.step();
  CudaGraph graph([&] { captured.step(); });
  for (int t = 1; t < steps; ++t) graph.replay();
  CHECK(worst_error(captured.weights(), eager.weights()) <= 1e-12);
  CHECK(worst_error(captured.x.grad().to_host(), eager.x.grad().to_host()) <= 1e-12);
  CHECK(captured.weights() != make().weights());
}

// AdamW's correction of the bias differs from step to step: that half stays outside.
TEST_CASE("AdamW in a graph, prepared before each replay, ends in the bits of eager steps") {
  Training<float, Cuda> eager(1), captured(1);
  AdamW<float, Cuda> plain(eager.layer.parameters()), replayed(captured.layer.parameters());
  const auto gradients = [](Training<float, Cuda>& training) {
    training.sgd.zero_grad();
    backward(mse(training.layer(training.x).y, training.target));
  };
  for (int t = 0; t < 20; ++t) {
    gradients(eager);
    plain.step(0.01 * (t + 1));
  }
  replayed.prepare(0.01);
  CudaGraph graph([&] {
    gradients(captured);
    replayed.apply();
  });
  for (int t = 1; t < 20; ++t) {
    replayed.prepare(0.01 * (t + 1));
    graph.replay();
  }
  CHECK(captured.weights() == eager.weights());
  CHECK(lacks<ArgumentError>([&] { CudaGraph wrong([&] { gradients(captured), replayed.step(0.01); }); },
                             {"AdamW", "prepare"}) == "");
  CHECK(std::isfinite(captured.weights()[0]));
}

TEST_CASE("What a thread computed can be read by whoever joins it") {
  for (int again = 0; again < 20; ++again) {
    Tensor<float, Cuda> y;
    std::thread([&] {
      y = Tensor<float, Cuda>::full({1 << 26}, 1);  // so large that the device lags behind
      for (int i = 0; i < 50; ++i) y = y + 1.0f;
    }).join();
    CHECK(sum(y).item() == doctest::Approx(51.0 * (1 << 26)));
  }
}

TEST_CASE("A graph is replayed by the thread that made it, and by no other") {
  Training<float, Cuda> training(1);
  CudaGraph graph([&] { training.step(); });
  std::thread([&] { CHECK(lacks<DeviceError>([&] { graph.replay(); }, {"graph", "thread"}) == ""); }).join();
  graph.replay();
  CHECK(std::isfinite(training.loss.item()));
}

TEST_CASE("A graph's memory is not used for anything else") {
  Training<double, Cuda> captured(1), reference(1);
  CudaGraph graph([&] { captured.step(); });
  reference.step();
  for (int t = 0; t < 10; ++t) {
    Training<double, Cuda> other(50 + static_cast<std::uint64_t>(t));
    other.step();
    graph.replay();
    other.step();
    reference.step();
    CHECK(captured.weights() == reference.weights());
  }
}

TEST_CASE("Sorting and sums are captured too") {
  auto table = noise<float>({5, 40}, 1).set_requires_grad();
  const auto ids = Tensor<Index, Cuda>::from({6}, {0, 3, 3, 1, 0, 3});
  const auto step = [&] {
    table.zero_grad();
    backward(sum(square(gather(table, ids))));
  };
  CudaGraph graph(step);
  table.assign(noise<float>({5, 40}, 2));
  graph.replay();
  const auto replayed = table.grad().to_host();
  step();
  CHECK(table.grad().to_host() == replayed);
}

TEST_CASE("What a step reads from tensors is read anew, what it uploads stays as it was captured") {
  std::vector<float> host{1, 2, 3};
  const auto x = Tensor<float, Cuda>::zeros({3}), y = Tensor<float, Cuda>::zeros({3});
  CudaGraph graph([&] { y.assign(x + Tensor<float, Cuda>::from({3}, host)); });
  host = {100, 100, 100};
  x.assign(Tensor<float, Cuda>::from({3}, {10, 20, 30}));
  graph.replay();
  CHECK(y.to_host() == std::vector<float>{11, 22, 33});
}

TEST_CASE("A step that reads back or waits cannot be captured; the program and later captures go on") {
  Training<float, Cuda> training(1);
  for (int again = 0; again < 2; ++again) {
    CHECK(lacks<DeviceError>(
              [&] {
                CudaGraph graph([&] {
                  training.step();
                  training.loss.item();
                });
              },
              {"captured", "read"}) == "");
    CHECK(lacks<DeviceError>([&] { CudaGraph graph([&] { Cuda::synchronize(); }); }, {"captured", "wait"}) ==
          "");
    training.step();
    CHECK(std::isfinite(training.loss.item()));
  }
  CudaGraph graph([&] { training.step(); });
  graph.replay();
  CHECK(std::isfinite(training.loss.item()));
}

TEST_CASE("What a step throws while it is captured comes out, and work goes on") {
  int runs = 0;
  CHECK_THROWS_AS(CudaGraph([&] {
                    take(3);
                    if (runs++ == 1) throw std::runtime_error("the step's own");
                  }),
                  std::runtime_error);
  CHECK(runs == 2);
  CHECK(sum(Tensor<float, Cuda>::ones({10})).item() == 10);
}

TEST_CASE("The memory of a graph goes back when it ends") {
  const auto held = [] {
    const auto stats = buffer_stats<Cuda>();
    return stats.in_use + stats.cached;
  };
  BufferPool<Cuda>::instance().release_cached();
  const auto before = held();
  for (int i = 0; i < 3; ++i) {
    Training<float, Cuda> training(1);
    CudaGraph graph([&] { training.step(); });
    graph.replay();
  }
  BufferPool<Cuda>::instance().release_cached();
  CHECK(held() == before);
}

TEST_CASE("Blocks that are cached give way to what is asked for when the card is full") {
  const ReusesBlocks<Cuda> reuses;
  std::size_t free = 0, total = 0;
  BufferPool<Cuda>::instance().release_cached();
  REQUIRE(cudaMemGetInfo(&free, &total) == cudaSuccess);
  const auto most = static_cast<Index>(free * 6 / 10 / sizeof(float));
  take(most);  // cached from here on
  const auto other = Tensor<float, Cuda>::empty({most - most / 8});
  CHECK(buffer_stats<Cuda>().cached == 0);
  Training<float, Cuda> training(1);
  training.step();
  CHECK(std::isfinite(training.loss.item()));
}
