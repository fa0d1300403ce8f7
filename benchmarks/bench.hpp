#pragma once
// What the benchmarks of any scalar T and backend B share: random data, set-ups kept between runs, and the
// timing of a step.

#include <algorithm>
#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <benchmark/benchmark.h>
#include <mole/mole.hpp>

namespace bench {

using mole::Index;

/// Bare gemm calls of the machine's BLAS: multiply(spec, A, B, C) for spec without batches. Void where there
/// are none.
template <class T, class B>
struct BareBlas {
  using type = void;
};

inline mole::Generator generator{.seed = 1};

/// Random values whose sums over `fan_in` terms are of size 1.
template <class T, class B>
mole::Tensor<T, B> draw(const mole::Shape& shape, Index fan_in = 1) {
  using C = mole::Compute<T>;
  return mole::Tensor<T, B>::randn(shape, generator.next(), C(1) / std::sqrt(static_cast<C>(fan_in)));
}

/// The same on the host.
inline std::vector<double> draw_host(Index size, Index fan_in) {
  const auto stream = generator.next();
  std::vector<double> values(static_cast<std::size_t>(size));
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = mole::normal(stream, static_cast<Index>(i)) / std::sqrt(static_cast<double>(fan_in));
  return values;
}

inline mole::LoraFactors draw_lora(Index d_out, Index d_in, Index r) {
  return {r, d_in, d_out, 1.0, draw_host(r * d_in, d_in), draw_host(d_out * r, r)};
}

/// What the benchmark that ran last was set up with.
struct Kept {
  std::string name;
  std::shared_ptr<void> setup;
};
inline Kept kept;

/// The set-up called `name`, made by `make` unless the benchmark that ran last had the same: a benchmark's
/// function is run several times, and some set-ups take longer than what is timed.
template <class Make>
auto& prepared(const std::string& name, Make make) {
  using Setup = decltype(make());
  if (kept.name != name) {
    kept = {};  // first, as two may not fit in memory
    kept = {name, std::make_shared<Setup>(make())};
  }
  return *static_cast<Setup*>(kept.setup.get());
}

/// Times `step` in batches that end in one synchronisation, so long that it does not count. On a CPU a batch
/// is one step. Its length hangs on the iterations alone: repetitions must not differ in it.
template <class B, class F>
void time_steps(benchmark::State& state, F step) {
  step();
  B::synchronize();
  constexpr benchmark::IterationCount most = 200;
  const auto batch = std::is_same_v<B, mole::Cpu> ? 1 : std::min(state.max_iterations, most);
  while (state.KeepRunningBatch(batch)) {
    for (benchmark::IterationCount i = 0; i < batch; ++i) step();
    B::synchronize();
  }
}

/// Times `step`, as it is or captured once and replayed, with `prepare` before each.
template <class B, class F, class Prepare>
void time_steps(benchmark::State& state, bool graph, F step, Prepare prepare) {
  if constexpr (mole::has_graphs<B>) {
    if (graph) {
      typename mole::GraphOf<B>::type captured(step);
      time_steps<B>(state, [&] {
        prepare();
        captured.replay();
      });
      return;
    }
  }
  time_steps<B>(state, [&] {
    prepare();
    step();
  });
}
template <class B, class F>
void time_steps(benchmark::State& state, bool graph, F step) {
  time_steps<B>(state, graph, step, [] {});
}

/// Useful flops a step, as a rate.
inline void set_flops(benchmark::State& state, double flops) {
  state.counters["GFLOP/s"] = benchmark::Counter(flops * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
}

template <class T, class B>
double bytes(const mole::Tensor<T, B>& x) {
  return x.defined() ? static_cast<double>(x.size()) * sizeof(T) : 0;
}

/// Runs `step` once and returns the bytes it holds at its peak, beyond what was held before and what it
/// returns, the bytes of its outputs.
template <class B, class F>
double peak_bytes(F step) {
  auto& pool = mole::BufferPool<B>::instance();
  pool.reset_peak();
  const double before = static_cast<double>(pool.stats().in_use);
  const double outputs = step();
  return std::max(0.0, static_cast<double>(pool.stats().peak) - before - outputs);
}

/// Adds a benchmark; times are of the wall clock, in milliseconds a step.
inline void add(const std::string& name, std::function<void(benchmark::State&)> run) {
  benchmark::RegisterBenchmark(name.c_str(), std::move(run))->UseRealTime()->Unit(benchmark::kMillisecond);
}

}  // namespace bench
