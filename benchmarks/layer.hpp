#pragma once
// gemm/ and mole_linear/: one layer, its frozen base alone, MoLE in rank space, and MoLE by the letter.

#include "bench.hpp"

namespace bench {

/// A layer with N experts of rank r, and its batch.
struct LayerShape {
  const char* name;
  Index S, L, d_in, d_out, N, r;
  Index ranks[5] = {};  ///< of each expert, where they are not all r

  double tokens() const { return static_cast<double>(S * L); }
  double weights() const { return static_cast<double>(d_in * d_out); }
  Index rank_of(Index expert) const { return ranks[0] ? ranks[expert] : r; }
  Index sum_of_ranks() const {
    Index sum = 0;
    for (Index i = 0; i < N; ++i) sum += rank_of(i);
    return sum;
  }
  double rank() const { return static_cast<double>(sum_of_ranks()); }
  /// Flops of rank-space MoLE over the base's.
  double phi() const { return 1 + rank() * static_cast<double>(d_in + d_out) / weights(); }
  /// Numbers in H [S, L, sum r].
  double h_size() const { return tokens() * rank(); }
  /// Numbers a literal step holds: E, their concatenation and its unit rows, the weighted E, the partial sums
  /// of y, and one gradient of that size; e and its gradient.
  double literal_size() const {
    const double wide = static_cast<double>(N * d_out);
    return 6 * tokens() * wide + 2 * wide * static_cast<double>(N);
  }
  /// A CPU needs seconds for one step.
  bool large() const { return tokens() * weights() > 1e11; }
};

inline constexpr LayerShape layer_shapes[] = {
    // name, S, L, d_in, d_out, N, r
    {"cpu", 2, 128, 512, 512, 8, 8},        // fits a cache
    {"cpubig", 4, 256, 1024, 1024, 8, 16},  // the CPU's target: mole / base <= 1.15 phi
    {"t5", 12, 512, 768, 768, 3, 8},        // few narrow experts
    {"flan", 12, 512, 1024, 1024, 8, 16},   // FLAN-T5 large
    {"unet", 2, 4096, 320, 320, 3, 16},     // many tokens, a small layer
    {"llm", 4, 2048, 4096, 4096, 8, 16},    // the GPU's target: mole / base <= 1.15 phi
    {"many", 4, 256, 1024, 1024, 128, 8},   // where the literal way drowns
    // Beside them, so that nothing is made for seven shapes alone:
    {"up", 2, 2048, 4096, 14336, 6, 32},
    {"sd", 8, 1024, 640, 640, 3, 32},
    {"twenty", 4, 512, 2048, 2048, 20, 16},
    {"mixed", 3, 1000, 2048, 5120, 5, 0, {4, 8, 16, 32, 64}},
    {"one", 1, 1, 4096, 4096, 8, 16},  // decoding
};

inline constexpr double literal_limit = 8e9;  ///< bytes beyond which the literal way is not tried

/// apart: MoLE whose two wide products are two, on a backend that has a kernel for both.
enum class Way { base, mole, apart, literal };
inline constexpr const char* way_names[] = {"base", "mole", "apart", "literal"};

/// Whether a backend can be told to do without its kernel for both products.
template <class B>
constexpr bool has_apart = requires {
  B::use_two_products() = false;
};

/// Both products of a base step, each by `multiply(spec, A, B, C)`.
template <class T, class B, class F>
void run_gemm(benchmark::State& state, const LayerShape& s, F multiply) {
  const Index tokens = s.S * s.L;
  const auto x = draw<T, B>({tokens, s.d_in}), W = draw<T, B>({s.d_out, s.d_in}, s.d_in),
             G = draw<T, B>({tokens, s.d_out});
  const auto y = mole::Tensor<T, B>::empty({tokens, s.d_out}),
             dx = mole::Tensor<T, B>::empty({tokens, s.d_in});
  const mole::Gemm forward{.transpose_b = true,
                           .m = tokens,
                           .n = s.d_out,
                           .k = s.d_in,
                           .lda = s.d_in,
                           .ldb = s.d_in,
                           .ldc = s.d_out};
  const mole::Gemm backward{
      .m = tokens, .n = s.d_in, .k = s.d_out, .lda = s.d_out, .ldb = s.d_in, .ldc = s.d_in};
  time_steps<B>(state, [&] {
    multiply(forward, x.data(), W.data(), y.data());
    multiply(backward, G.data(), W.data(), dx.data());
    benchmark::ClobberMemory();
  });
  set_flops(state, 4 * s.tokens() * s.weights());
}

/// One way of computing a layer: forward() gives y, whose gradient is G; gradients go to `leaves`.
template <class T, class B>
struct Layer {
  mole::Tensor<T, B> G;
  std::vector<mole::Tensor<T, B>> leaves;
  std::function<mole::Tensor<T, B>()> forward;

  /// Forward, and backward if asked for; returns the bytes of what it leaves behind.
  double step(bool with_backward) const {
    for (const auto& leaf : leaves) leaf.zero_grad();
    const std::unique_ptr<mole::NoGrad> off(with_backward ? nullptr : new mole::NoGrad);
    const auto y = forward();
    if (with_backward) mole::backward(y, G);
    double outputs = bytes(y);
    for (const auto& leaf : leaves) outputs += bytes(leaf.grad());
    return outputs;
  }
};

template <class T, class B>
Layer<T, B> make_layer(const LayerShape& s, Way way) {
  using Tensor = mole::Tensor<T, B>;
  mole::BufferPool<B>::instance().release_cached();
  auto x = draw<T, B>({s.S, s.L, s.d_in}).set_requires_grad();
  const auto W = draw<T, B>({s.d_out, s.d_in}, s.d_in), G = draw<T, B>({s.S, s.L, s.d_out});
  std::vector<mole::LoraFactors> factors;
  for (Index i = 0; i < (way == Way::base ? 0 : s.N); ++i)
    factors.push_back(draw_lora(s.d_out, s.d_in, s.rank_of(i)));

  if (way == Way::base) return {G, {x}, [=] { return mole::linear(x, W); }};
  if (way == Way::mole || way == Way::apart) {
    mole::MoleLinear<T, B> layer(W, {}, factors, {.pooling = mole::Pooling::token});
    layer.gate().weight.assign(draw<T, B>({s.sum_of_ranks(), s.N}));
    return {G, {x, layer.gate().weight, layer.gate().log_tau}, [=] { return layer(x).y; }};
  }
  std::vector<mole::LoraExpert<T, B>> experts;
  for (const auto& f : factors) {
    const std::vector<T> A(f.A.begin(), f.A.end()), up(f.B.begin(), f.B.end());
    experts.push_back({Tensor::from({f.rank, s.d_in}, A), Tensor::from({s.d_out, f.rank}, up), f.scale});
  }
  auto e = draw<T, B>({s.N * s.d_out, s.N}).set_requires_grad();
  auto log_tau = Tensor::scalar(T(0)).set_requires_grad();
  return {G, {x, e, log_tau}, [=] {
            return mole::literal_mole(x, W, Tensor(), experts, e, mole::exp(log_tau), mole::Pooling::token).y;
          }};
}

template <class T, class B>
void run_layer(benchmark::State& state, const LayerShape& s, Way way, bool with_backward, bool graph) {
  const double literal_bytes = s.literal_size() * sizeof(T);
  if (way == Way::literal && literal_bytes > literal_limit) {
    const auto text = mole::message("the literal way needs", literal_bytes * 1e-9, "GB");
    state.SkipWithError(text.c_str());
    return;
  }
  if constexpr (has_apart<B>) B::use_two_products() = way != Way::apart;
  const auto& layer = prepared(std::string(s.name) + way_names[static_cast<int>(way)],
                               [&] { return make_layer<T, B>(s, way); });
  for (const auto& leaf : layer.leaves) leaf.zero_grad();
  const double peak = peak_bytes<B>([&] { return layer.step(with_backward); });
  time_steps<B>(state, graph, [&] { benchmark::DoNotOptimize(layer.step(with_backward)); });
  // A graph's gradients are in its own memory.
  for (const auto& leaf : layer.leaves) leaf.zero_grad();
  state.counters["peak_bytes"] = benchmark::Counter(peak, {}, benchmark::Counter::kIs1024);
  state.counters["peak/H"] = peak / (s.h_size() * sizeof(T));
  const double work = (with_backward ? 4 : 2) * s.tokens() * s.weights();
  set_flops(state, way == Way::base ? work : work * s.phi());
  state.counters["phi"] = s.phi();
}

/// Adds gemm/, gemm_blas/ and mole_linear/ of one shape.
template <class T, class B>
void add_gemm(const LayerShape& s) {
  add(std::string("gemm/") + s.name,
      [&s](benchmark::State& state) { run_gemm<T, B>(state, s, B::template gemm<T>); });
  using Blas = typename BareBlas<T, B>::type;
  if constexpr (!std::is_void_v<Blas>)
    add(std::string("gemm_blas/") + s.name,
        [&s](benchmark::State& state) { run_gemm<T, B>(state, s, Blas()); });
}

template <class T, class B>
void add_layer(const LayerShape& s) {
  for (const bool with_backward : {true, false})
    for (const Way way : {Way::base, Way::mole, Way::apart, Way::literal})
      for (const bool graph : {false, true}) {
        if ((graph && !mole::has_graphs<B>) || (way == Way::apart && !has_apart<B>)) continue;
        const auto name = std::string("mole_linear/") + way_names[static_cast<int>(way)] + "/" + s.name +
                          (with_backward ? "/step" : "/forward") + (graph ? "/graph" : "");
        add(name, [&s, way, with_backward, graph](benchmark::State& state) {
          run_layer<T, B>(state, s, way, with_backward, graph);
        });
      }
}

}  // namespace bench
