// How fast MoLE is, against its own frozen base layer, the method by the letter, and the bare BLAS.
//
//   gemm/<shape>                            the two products of a base step: x W^T and G W, by the backend
//   gemm_blas/<shape>                       the same by bare sgemm calls; only in a build with EIGEN_USE_BLAS
//   mole_linear/<way>/<shape>/<what>        way: base (the frozen layer), mole (rank space), literal (eq.
//   8-13)
//                                           what: step = forward + backward to x, F and log_tau; forward
//   t5_gate_step/small                      one gate-training step of a FLAN-T5-small
//
// All in float. Gates read the experts' outputs and are token gates (Pooling::token), whose width does not
// depend on L; the data is random.
// GFLOP/s counts useful flops: the base's products, and for mole and literal those of the rank-space experts,
// so that of two ways the faster one shows more. phi is their ratio to the base's, the floor of mole / base.
// peak_bytes is what a step holds at its peak beyond its inputs and outputs (y and the gradients);
// peak/H is that over the bytes of H [S, L, sum r].
//
// Times of one machine wander. To compare ways, interleave repetitions:
//   --benchmark_filter='(base|mole)/cpubig/step' --benchmark_repetitions=9
//   --benchmark_enable_random_interleaving=true --benchmark_report_aggregates_only=true

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>

#include <mole/mole.hpp>

namespace {

using mole::Index;
using T = float;
using B = mole::Cpu;
using Tensor = mole::Tensor<T, B>;

/// A layer with N experts of rank r, and its batch.
struct LayerShape {
  const char* name;
  Index S, L, d_in, d_out, N, r;

  double tokens() const { return static_cast<double>(S * L); }
  double weights() const { return static_cast<double>(d_in * d_out); }
  double rank() const { return static_cast<double>(N * r); }
  /// Flops of rank-space MoLE over the base's.
  double phi() const { return 1 + rank() * static_cast<double>(d_in + d_out) / weights(); }
  double bytes_of_h() const { return tokens() * rank() * sizeof(T); }
  /// What a literal step holds: E, their concatenation and its unit rows, the weighted E, the partial sums of
  /// y, and one gradient of that size; e and its gradient.
  double literal_bytes() const {
    const double wide = static_cast<double>(N * d_out);
    return (6 * tokens() * wide + 2 * wide * static_cast<double>(N)) * sizeof(T);
  }
};

constexpr LayerShape shapes[] = {
    // name, S, L, d_in, d_out, N, r
    {"cpu", 2, 128, 512, 512, 8, 8},        // fits a cache
    {"cpubig", 4, 256, 1024, 1024, 8, 16},  // the CPU's target: mole / base <= 1.15 phi
    {"t5", 12, 512, 768, 768, 3, 8},        // few narrow experts
    {"flan", 12, 512, 1024, 1024, 8, 16},   // FLAN-T5 large
    {"unet", 2, 4096, 320, 320, 3, 16},     // many tokens, a small layer
    {"many", 4, 256, 1024, 1024, 128, 8},   // where the literal way drowns
};

constexpr double literal_limit = 8e9;  ///< bytes beyond which the literal way is not tried

enum class Way { base, mole, literal };
constexpr const char* way_names[] = {"base", "mole", "literal"};

mole::Generator generator{.seed = 1};

/// Random values whose sums over `fan_in` terms are of size 1.
Tensor draw(const mole::Shape& shape, Index fan_in = 1) {
  return Tensor::randn(shape, generator.next(), 1 / std::sqrt(static_cast<T>(fan_in)));
}

std::vector<double> draw_host(Index size, Index fan_in) {
  const auto values = draw({size}, fan_in).to_host();
  return {values.begin(), values.end()};
}

mole::LoraFactors draw_lora(Index d_out, Index d_in, Index r) {
  return {r, d_in, d_out, 1.0, draw_host(r * d_in, d_in), draw_host(d_out * r, r)};
}

void set_flops(benchmark::State& state, double flops) {
  state.counters["GFLOP/s"] = benchmark::Counter(flops * 1e-9, benchmark::Counter::kIsIterationInvariantRate);
}

double bytes(const Tensor& x) { return x.defined() ? static_cast<double>(x.size()) * sizeof(T) : 0; }

/// Both products of a base step, each by `multiply(spec, A, B, C)`.
template <class F>
void run_gemm(benchmark::State& state, const LayerShape& s, F multiply) {
  const Index tokens = s.S * s.L;
  const auto x = draw({tokens, s.d_in}), W = draw({s.d_out, s.d_in}, s.d_in), G = draw({tokens, s.d_out});
  const auto y = Tensor::empty({tokens, s.d_out}), dx = Tensor::empty({tokens, s.d_in});
  const mole::Gemm forward{.transpose_b = true,
                           .m = tokens,
                           .n = s.d_out,
                           .k = s.d_in,
                           .lda = s.d_in,
                           .ldb = s.d_in,
                           .ldc = s.d_out};
  const mole::Gemm backward{
      .m = tokens, .n = s.d_in, .k = s.d_out, .lda = s.d_out, .ldb = s.d_in, .ldc = s.d_in};
  for (auto _ : state) {
    multiply(forward, x.data(), W.data(), y.data());
    multiply(backward, G.data(), W.data(), dx.data());
    benchmark::ClobberMemory();
  }
  set_flops(state, 4 * s.tokens() * s.weights());
}

#ifdef EIGEN_USE_BLAS
/// Row-major C = A op(B) is column-major C^T = op(B)^T A^T.
void bare_sgemm(const mole::Gemm& g, const T* a, const T* b, T* c) {
  const int m = static_cast<int>(g.m), n = static_cast<int>(g.n), k = static_cast<int>(g.k);
  const int lda = static_cast<int>(g.lda), ldb = static_cast<int>(g.ldb), ldc = static_cast<int>(g.ldc);
  const T one = 1, zero = 0;
  sgemm_(g.transpose_b ? "T" : "N", "N", &n, &m, &k, &one, b, &ldb, a, &lda, &zero, c, &ldc);
}
#endif

/// Times forward(), with backward by the seed G to `leaves` if asked for, and measures its peak memory.
template <class F>
void measure(benchmark::State& state, const LayerShape& s, bool with_backward, const Tensor& G,
             const std::vector<Tensor>& leaves, F forward) {
  const auto step = [&] {
    for (const auto& leaf : leaves) leaf.zero_grad();
    const std::unique_ptr<mole::NoGrad> off(with_backward ? nullptr : new mole::NoGrad);
    const Tensor y = forward();
    if (with_backward) mole::backward(y, G);
    double outputs = bytes(y);
    for (const auto& leaf : leaves) outputs += bytes(leaf.grad());
    return outputs;
  };
  auto& pool = mole::BufferPool<B>::instance();
  for (const auto& leaf : leaves) leaf.zero_grad();
  pool.reset_peak();
  const double before = static_cast<double>(pool.stats().in_use);
  const double outputs = step();
  const double peak = std::max(0.0, static_cast<double>(pool.stats().peak) - before - outputs);
  for (auto _ : state) benchmark::DoNotOptimize(step());
  state.counters["peak_bytes"] = benchmark::Counter(peak, {}, benchmark::Counter::kIs1024);
  state.counters["peak/H"] = peak / s.bytes_of_h();
}

void run_layer(benchmark::State& state, const LayerShape& s, Way way, bool with_backward) {
  if (way == Way::literal && s.literal_bytes() > literal_limit) {
    const auto text = mole::message("the literal way needs", s.literal_bytes() * 1e-9, "GB");
    state.SkipWithError(text.c_str());
    return;
  }
  mole::BufferPool<B>::instance().release_cached();
  auto x = draw({s.S, s.L, s.d_in}).set_requires_grad();
  const auto W = draw({s.d_out, s.d_in}, s.d_in), G = draw({s.S, s.L, s.d_out});
  std::vector<mole::LoraFactors> factors;
  for (Index i = 0; i < (way == Way::base ? 0 : s.N); ++i) factors.push_back(draw_lora(s.d_out, s.d_in, s.r));

  if (way == Way::base) {
    measure(state, s, with_backward, G, {x}, [&] { return mole::linear(x, W); });
  } else if (way == Way::mole) {
    mole::MoleLinear<T, B> layer(W, {}, factors, {.pooling = mole::Pooling::token});
    layer.gate().weight.assign(draw({s.N * s.r, s.N}));
    measure(state, s, with_backward, G, {x, layer.gate().weight, layer.gate().log_tau},
            [&] { return layer(x).y; });
  } else {
    std::vector<mole::LoraExpert<T, B>> experts;
    for (const auto& f : factors) {
      const std::vector<T> A(f.A.begin(), f.A.end()), up(f.B.begin(), f.B.end());
      experts.push_back({Tensor::from({s.r, s.d_in}, A), Tensor::from({s.d_out, s.r}, up), f.scale});
    }
    auto e = draw({s.N * s.d_out, s.N}).set_requires_grad();
    auto log_tau = Tensor::scalar(0).set_requires_grad();
    measure(state, s, with_backward, G, {x, e, log_tau}, [&] {
      return mole::literal_mole(x, W, Tensor(), experts, e, mole::exp(log_tau), mole::Pooling::token).y;
    });
  }
  const double work = (with_backward ? 4 : 2) * s.tokens() * s.weights();
  set_flops(state, way == Way::base ? work : work * s.phi());
  state.counters["phi"] = s.phi();
}

/// A FLAN-T5-small with 8 experts of rank 16 on every linear layer and a token gate each, on 12 sequences of
/// 64 tokens in and 32 out: forward, both losses (eq. 16), backward to the gates, and their update.
void run_t5_gate_step(benchmark::State& state) {
  mole::BufferPool<B>::instance().release_cached();
  constexpr Index S = 12, tokens_in = 64, tokens_out = 32, n_experts = 8, r = 16;
  mole::T5<T, B> model{mole::T5Config{}};
  model.initialize(generator);
  std::vector<mole::LoraSet> sets;
  for (Index i = 0; i < n_experts; ++i) {
    mole::LoraSet set{mole::message("expert", i), "", {}, {}};
    for (const auto& slot : model.layers().table.slots) set.slots.push_back(slot.name);
    set.factors = [&model](const std::string& name) {
      const auto& table = model.layers().table;
      const auto& W = table.slots[table.find(name)].weight;
      return draw_lora(W.size(0), W.size(1), r);
    };
    sets.push_back(std::move(set));
  }
  model.attach(sets, {.scope = mole::Scope::matrix, .pooling = mole::Pooling::token});

  auto ids = [&](Index length) {
    const auto stream = generator.next();
    std::vector<Index> values(static_cast<std::size_t>(S * length));
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] = 2 + static_cast<Index>(mole::uniform(stream, static_cast<Index>(i)) * 32000);
    return mole::Tensor<Index, B>::from({S, length}, values);
  };
  const mole::T5Batch<T, B> batch{ids(tokens_in), Tensor::ones({S, tokens_in}), ids(tokens_out)};
  mole::AdamW<T, B> optimizer(model.mixer().parameters());
  for (auto _ : state) {
    mole::MolePass<T, B> pass;
    const auto domain = model.loss(batch, pass);
    const auto loss = mole::total_loss(domain, model.balance(pass), 0.5);
    optimizer.zero_grad();
    mole::backward(loss);
    optimizer.step(1e-4);
  }
}

void add(const std::string& name, std::function<void(benchmark::State&)> run) {
  benchmark::RegisterBenchmark(name.c_str(), std::move(run))->UseRealTime()->Unit(benchmark::kMillisecond);
}

}  // namespace

int main(int argc, char** argv) {
  for (const auto& s : shapes) {
    add(std::string("gemm/") + s.name, [&s](benchmark::State& state) { run_gemm(state, s, B::gemm<T>); });
#ifdef EIGEN_USE_BLAS
    add(std::string("gemm_blas/") + s.name,
        [&s](benchmark::State& state) { run_gemm(state, s, bare_sgemm); });
#endif
  }
  for (const auto& s : shapes)
    for (const bool with_backward : {true, false})
      for (const Way way : {Way::base, Way::mole, Way::literal})
        add(std::string("mole_linear/") + way_names[static_cast<int>(way)] + "/" + s.name +
                (with_backward ? "/step" : "/forward"),
            [&s, way, with_backward](benchmark::State& state) { run_layer(state, s, way, with_backward); });
  add("t5_gate_step/small", run_t5_gate_step);

  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
}
