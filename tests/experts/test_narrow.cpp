// bf16 and half in memory, float in between: reductions, products, optimiser states and a MoLE layer lie
// within a few roundings of the same in double.

#include <cmath>
#include <type_traits>
#include <vector>

#include <doctest/doctest.h>
#include <experts/experts.hpp>
#include <mole/experts/ops/gated_mixture.hpp>
#include <mole/loss/balance.hpp>
#include <mole/loss/cross_entropy.hpp>
#include <mole/loss/total.hpp>
#include <mole/ops/activation.hpp>
#include <mole/ops/gather.hpp>
#include <mole/ops/norm.hpp>
#include <mole/ops/softmax.hpp>
#include <mole/optim/adamw.hpp>
#include <mole/optim/clip_gradients.hpp>
#include <mole/optim/sgd.hpp>
#include <testing.hpp>

using namespace mole;
using namespace mole::testing;

namespace {

/// The largest relative error of one rounding: half the distance from 1 to the next number.
template <class T>
constexpr double rounding = std::is_same_v<T, bf16> ? 0x1p-8 : 0x1p-11;

/// The same values in another type.
template <class U, class T>
Tensor<U, Device> as(const Tensor<T, Device>& x) {
  const auto values = doubles(x);
  return Tensor<U, Device>::from(x.shape(), std::vector<U>(values.begin(), values.end()));
}

/// Largest |a - b| in roundings of the largest |b|.
template <class T>
double roundings(const Tensor<T, Device>& a, const Tensor<double, Device>& b) {
  const auto got = doubles(a), expected = doubles(b);
  double error = 0, size = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    if (!std::isfinite(got[i])) return INFINITY;
    error = std::max(error, std::abs(got[i] - expected[i]));
    size = std::max(size, std::abs(expected[i]));
  }
  return error / size / rounding<T>;
}

/// One forward and backward pass of a MoLE layer; results and gradients in the order they are compared in.
template <class T>
std::vector<Tensor<T, Device>> layer_step(const Tensor<T, Device>& x_values, const Tensor<T, Device>& W,
                                          const Tensor<T, Device>& c, const GateOptions& options) {
  const Index S = x_values.size(0), L = x_values.size(1), d_out = W.size(0), d_in = W.size(1);
  MoleLinear<T, Device> layer(W, c,
                              {random_factors(4, d_in, d_out, 0.1, 1), random_factors(3, d_in, d_out, 0.1, 2),
                               random_factors(5, d_in, d_out, 0.1, 3)},
                              options);
  layer.gate().weight.assign(noise<T>(layer.gate().weight.shape(), 7));
  auto x = x_values.clone();
  x.set_requires_grad();
  std::vector<T> real(static_cast<std::size_t>(S * L), T(1));
  real.back() = T(0);
  const auto out = layer(x, Tensor<T, Device>::from({S, L}, real));
  const auto balance = balance_loss<T, Device>({{out.gate.dense, {}, {}}}, 3);
  const auto loss = total_loss(mean(square(out.y)), balance, 0.1);
  backward(loss);
  return {out.y,
          out.gate.weights,
          balance,
          loss,
          x.grad(),
          layer.gate().weight.grad(),
          layer.gate().log_tau.grad()};
}

}  // namespace

TEST_CASE_TEMPLATE("A MoLE layer and its gradients are those of double up to a few roundings", T, bf16,
                   mole::half) {
  const auto x = noise<T>({3, 16, 24}, 1), W = noise<T>({20, 24}, 2), c = noise<T>({20}, 3);
  for (const Pooling pooling : {Pooling::flatten, Pooling::mean, Pooling::token}) {
    const GateOptions options{.pooling = pooling, .length = 16, .temperature = 0.8};
    const auto narrow = layer_step(x, W, c, options);
    const auto wide = layer_step(as<double>(x), as<double>(W), as<double>(c), options);
    const double allowed[] = {2, 4, 4, 4, 4, 8, 8};
    for (std::size_t i = 0; i < narrow.size(); ++i) {
      CAPTURE(std::string(to_string(pooling)));
      CAPTURE(i);
      CHECK(roundings(narrow[i], wide[i]) <= allowed[i]);
    }
  }
}

TEST_CASE_TEMPLATE("Row ops and their gradients are those of double up to a few roundings", T, bf16,
                   mole::half) {
  const auto check = [](const char* name, const auto& op) {
    CAPTURE(name);
    const auto x = noise<T>({6, 40}, 1), seed = noise<T>({6, 40}, 2);
    const auto step = [&](auto input, const auto& G) {
      input.set_requires_grad();
      const auto y = op(input);
      backward(y, G);
      return std::vector{y, input.grad()};
    };
    const auto narrow = step(x.clone(), seed);
    const auto wide = step(as<double>(x), as<double>(seed));
    CHECK(roundings(narrow[0], wide[0]) <= 3);
    CHECK(roundings(narrow[1], wide[1]) <= 6);
  };
  check("softmax", [](const auto& x) { return softmax(x * 3); });
  check("log_softmax", [](const auto& x) { return log_softmax(x * 3); });
  check("unit_rows", [](const auto& x) { return unit_rows(x); });
  check("gelu", [](const auto& x) { return gelu(x); });
  check("standardize", [](const auto& x) { return detail::standardize_rows(x, 1e-5f); });
  check("rms_norm",
        [](const auto& x) { return rms_norm(x, std::decay_t<decltype(x)>::ones({x.size(-1)}), 1e-6f); });
}

TEST_CASE_TEMPLATE("Sums are accumulated in float and rounded once", T, bf16, mole::half) {
  // In T itself the sum of ones stops at 256 or 2048.
  const Index n = std::is_same_v<T, bf16> ? 100000 : 60000;
  const auto ones = Tensor<T, Device>::ones({n});
  CHECK(roundings(sum(ones), Tensor<double, Device>::scalar(static_cast<double>(n))) <= 1);
  CHECK(float{sum(reshape(ones, {n / 4, 4}), {0}).to_host()[3]} == float{T(n / 4)});
  CHECK(float{mean(Tensor<T, Device>::full({100000}, T(3))).item()} == 3);
  CHECK(float{matmul(reshape(ones, {1, n}), reshape(ones, {n, 1})).item()} == float{T(n)});
  const auto index = Tensor<Index, Device>::from({n}, std::vector<Index>(static_cast<std::size_t>(n), 1));
  CHECK(float{scatter_add(reshape(ones, {n, 1}), index, 2).to_host()[1]} == float{T(n)});
  const auto one_row = Tensor<T, Device>::zeros({1, n});
  CHECK(float{cross_entropy(one_row, Tensor<Index, Device>::from({1}, std::vector<Index>{5})).item()} ==
        float{T(std::log(static_cast<double>(n)))});
}

TEST_CASE_TEMPLATE("Gemm reads strided operands, and takes alpha and beta as floats", T, bf16, mole::half) {
  const Index m = 5, n = 6, k = 7, batch = 3;
  for (const bool at : {false, true})
    for (const bool bt : {false, true}) {
      const auto a = noise<T>({batch, at ? k : m, (at ? m : k) + 2}, 1),
                 b = noise<T>({batch, bt ? n : k, (bt ? k : n) + 1}, 2), c = noise<T>({batch, m, n + 3}, 3);
      Gemm spec{.transpose_a = at, .transpose_b = bt, .m = m, .n = n, .k = k, .alpha = 0.3, .beta = -0.7};
      spec.lda = a.size(2);
      spec.ldb = b.size(2);
      spec.ldc = c.size(2);
      spec.batch[1] = batch;
      spec.a_stride[1] = a.size(1) * a.size(2);
      spec.b_stride[1] = b.size(1) * b.size(2);
      spec.c_stride[1] = c.size(1) * c.size(2);
      const auto wide = as<double>(c);
      Device::gemm(spec, as<double>(a).data(), as<double>(b).data(), wide.data());
      const auto result = c.clone();
      Device::gemm(spec, a.data(), b.data(), result.data());
      CHECK(roundings(result, wide) <= 1.001);
      const auto before = c.to_host(), after = result.to_host();
      CHECK(float{before[static_cast<std::size_t>(n)]} == float{after[static_cast<std::size_t>(n)]});
    }
}

TEST_CASE_TEMPLATE("Optimisers keep float states for narrow parameters, and clipping a float norm", T, bf16,
                   mole::half) {
  auto p = Tensor<T, Device>::zeros({3}).set_requires_grad();
  AdamW<T, Device> adamw({p}, {.weight_decay = 0});
  Sgd<T, Device> sgd({p}, {.momentum = 0.5});
  static_assert(std::is_same_v<decltype(adamw.state()), const std::vector<Tensor<float, Device>>&>);
  p.set_grad(Tensor<T, Device>::full({3}, T(1)));
  adamw.step(0.125);
  // 0.001 is neither a bf16 nor a half.
  CHECK(adamw.state()[1].to_host()[0] == doctest::Approx(0.001).epsilon(1e-6));
  CHECK(float{p.to_host()[0]} == -0.125f);
  sgd.step(0.125);
  CHECK(float{p.to_host()[0]} == -0.25f);
  CHECK(sgd.state()[0].to_host()[2] == 1);

  auto long_one = Tensor<T, Device>::zeros({100000}).set_requires_grad();
  long_one.set_grad(Tensor<T, Device>::ones({100000}));
  CHECK(clip_grad_norm<T, Device>({long_one}, 1) == doctest::Approx(std::sqrt(1e5)).epsilon(1e-6));
}

TEST_CASE_TEMPLATE("Updates too small for a narrow number add up: the steps are those of float, rounded", T,
                   bf16, mole::half) {
  const auto check = [](auto make) {
    const auto p = Tensor<T, Device>::full({8}, T(1)).set_requires_grad();
    const auto q = Tensor<float, Device>::full({8}, 1).set_requires_grad();
    auto narrow = make(p);
    auto wide = make(q);
    for (std::uint64_t t = 0; t < 300; ++t) {
      const auto g = noise<T>({8}, t) + T(2);
      p.set_grad(g);
      q.set_grad(as<float>(g));
      // Of 1, half a rounding is 0.002 in bf16 and 0.0002 in half.
      narrow.step(5e-5);
      wide.step(5e-5);
    }
    const auto got = p.to_host();
    const auto exact = q.to_host();
    for (std::size_t i = 0; i < got.size(); ++i) {
      CHECK(exact[i] < 0.99);
      CHECK(float{got[i]} == float{T(exact[i])});
    }
  };
  check([]<class U>(const Tensor<U, Device>& x) { return AdamW<U, Device>({x}); });
  check([]<class U>(const Tensor<U, Device>& x) { return Sgd<U, Device>({x}); });
  check([]<class U>(const Tensor<U, Device>& x) { return Sgd<U, Device>({x}, {0.5, 0.01}); });
}

TEST_CASE_TEMPLATE("A narrow parameter that is set between two steps goes on from there", T, bf16,
                   mole::half) {
  const auto p = Tensor<T, Device>::full({3}, T(1)).set_requires_grad();
  AdamW<T, Device> adamw({p}, {.weight_decay = 0});
  p.set_grad(Tensor<T, Device>::ones({3}));
  adamw.step(0.25);
  CHECK(float{p.to_host()[1]} == 0.75f);
  p.assign(Tensor<T, Device>::from({3}, {T(4), T(0), T(-2)}));
  adamw.step(0.25);
  const auto values = p.to_host();
  for (std::size_t i = 0; i < 3; ++i) CHECK(float{values[i]} == std::vector{3.75f, -0.25f, -2.25f}[i]);
}

TEST_CASE_TEMPLATE("A standardised gate keeps apart what differs by little from a large mean", T, bf16,
                   mole::half) {
  // Each feature of v is near 1. Beside what is common to all rows the product with F' is 50 times as long as what
  // tells them apart.
  const Index rows = 24, features = 64, N = 4;
  const auto v = noise<T>({1, rows, features}, 1) * (T(1) / T(32)) + T(1);
  FeatureMoments moments;
  add_rows(moments, v, {}, true);
  const GateScale<T, Device> scale{Tensor<T, Device>::zeros({features}),
                                   Tensor<T, Device>::zeros({features})};
  set_scale(scale, moments, InputScale::standardised, "gate");
  const auto F = noise<T>({features, N}, 2) * T(4), log_tau = Tensor<T, Device>::scalar(T(0));
  const GateScale<double, Device> exact{as<double>(scale.mean), as<double>(scale.factor)};
  const auto wide = gate_softmax(as<double>(v), as<double>(F), as<double>(log_tau), {}, 1e-12, exact);
  double spread = 0;
  for (const double g : doubles(wide)) spread = std::max(spread, g);
  CHECK(spread > 0.9);
  const auto close = [&](const Tensor<T, Device>& g) {
    const auto got = doubles(g), expected = doubles(wide);
    double error = 0;
    for (std::size_t i = 0; i < got.size(); ++i) error = std::max(error, std::abs(got[i] - expected[i]));
    return error <= 6 * rounding<T>;
  };
  CHECK(close(gate_softmax(v, F, log_tau, {}, 1e-12F, scale)));
  // And where it is made with its mixture: the experts read x itself here.
  std::vector<T> one(static_cast<std::size_t>(features * features), T(0));
  std::vector<Index> expert;
  for (Index i = 0; i < features; ++i) {
    one[static_cast<std::size_t>(i * features + i)] = T(1);
    expert.push_back(i * N / features);
  }
  const auto A = Tensor<T, Device>::from({features, features}, one);
  const auto mixed = gated_mixture(v, {noise<T>({5, features}, 3),
                                       {},
                                       A,
                                       noise<T>({5, features}, 4),
                                       Tensor<Index, Device>::from({features}, expert),
                                       F,
                                       log_tau,
                                       {},
                                       scale});
  CHECK(close(mixed.g));
}
