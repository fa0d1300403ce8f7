// One MoLE layer: the rank-space path against the literal one, and what its policies promise.

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include <doctest/doctest.h>
#include <omp.h>
#include <experts/experts.hpp>
#include <mole/autodiff/grad_check.hpp>
#include <testing.hpp>

using namespace mole;
using namespace mole::testing;
using D = Tensor<double, Device>;

namespace mole_linear_tests {

namespace {

constexpr Index S = 3, L = 4, d_in = 6, d_out = 5, N = 3;

/// Ranks below, at and above d_out.
std::vector<LoraFactors> experts() {
  return {random_factors(2, d_in, d_out, 0.5, 1), random_factors(7, d_in, d_out, 0.25, 2),
          random_factors(1, d_in, d_out, 2, 3)};
}

template <class T>
MoleLinear<T, Device> layer(const GateOptions& options) {
  return {noise<T>({d_out, d_in}, 1), noise<T>({d_out}, 2), experts(), options};
}

/// A layer with a random gate.
template <class T>
MoleLinear<T, Device> random_layer(const GateOptions& options) {
  auto result = layer<T>(options);
  result.gate().weight.assign(noise<T>(result.gate().weight.shape(), 5));
  return result;
}

std::vector<double> row_sums(const std::vector<double>& rows, Index n) {
  std::vector<double> sums;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    if (i % static_cast<std::size_t>(n) == 0) sums.push_back(0);
    sums.back() += rows[i];
  }
  return sums;
}

template <class T>
Tensor<T, Device> padding() {
  return Tensor<T, Device>::from({S, L}, {1, 1, 1, 1, 1, 1, 0, 0, 1, 0, 0, 0});
}

}  // namespace

TEST_CASE("The rank-space layer and its gradients equal the literal ones for every policy") {
  for (const Pooling pooling : {Pooling::flatten, Pooling::mean, Pooling::token})
    for (const bool padded : {false, true})
      for (const bool masked : {false, true}) {
        CAPTURE(std::string(to_string(pooling)));
        CAPTURE(padded);
        CAPTURE(masked);
        const Index span = pooling == Pooling::flatten ? L : 1;
        const double tau = 1.3;
        const D mask = padded ? padding<double>() : D(), keep = masked ? D::from({N}, {1, 0, 1}) : D();
        const auto dy = noise<double>({S, L, d_out}, 9);
        const auto e_values = random_numbers(N * span * d_out * N, 8);

        const auto x = noise<double>({S, L, d_in}).set_requires_grad();
        const auto e = D::from({N * span * d_out, N}, e_values).set_requires_grad();
        const auto t = D::scalar(tau).set_requires_grad();
        const auto literal = literal_mole(x, noise<double>({d_out, d_in}, 1), noise<double>({d_out}, 2),
                                          literal_experts<double>(experts()), e, t, pooling, mask, keep);
        backward(literal.y, dy);

        auto fast = layer<double>({.pooling = pooling, .length = L, .temperature = tau});
        auto project = [&](const std::vector<double>& full) {
          return to_rank_space(full, fast.experts(), span);
        };
        fast.gate().weight.assign(as_tensor<double>(fast.gate().weight.shape(), project(e_values)));
        const auto z = noise<double>({S, L, d_in}).set_requires_grad();
        const auto out = fast(z, mask, keep);
        backward(out.y, dy);

        CHECK(worst_error(out.y, doubles(literal.y)) < 1e-12);
        CHECK(worst_error(out.gate.weights, doubles(literal.gate)) < 1e-12);
        CHECK(worst_error(z.grad(), doubles(x.grad())) < 1e-12);
        CHECK(worst_error(fast.gate().weight.grad(), project(doubles(e.grad()))) < 1e-12);
        CHECK(std::abs(fast.gate().log_tau.grad().item() - tau * t.grad().item()) < 1e-12);
        CHECK(worst_error(literal.gate, std::vector<double>(static_cast<std::size_t>(literal.gate.size()))) >
              0.1);
      }
}

TEST_CASE("A gate that reads the hidden input is a softmax of the pooled input's direction") {
  for (const bool padded : {false, true})
    for (const Pooling pooling : {Pooling::flatten, Pooling::mean, Pooling::token}) {
      CAPTURE(std::string(to_string(pooling)));
      const D mask = padded ? padding<double>() : D();
      const auto fast = random_layer<double>(
          {.input = GateInput::hidden, .pooling = pooling, .length = L, .temperature = 2});
      const auto x = noise<double>({S, L, d_in});
      const auto v = unit_rows(pool_tokens(x, mask, pooling, L));
      auto built = fast;
      const auto& F = built.gate().weight;
      CHECK(F.shape() == Shape{pooling == Pooling::flatten ? L * d_in : d_in, N});
      const auto expected = softmax(scale(matmul(reshape(v, {-1, v.size(-1)}), F), 0.5));
      CHECK(worst_error(fast(x, mask).gate.weights, doubles(expected)) < 1e-12);
    }
}

TEST_CASE("Every policy's gradients are right by finite differences") {
  for (const GateInput input : {GateInput::experts, GateInput::hidden})
    for (const Pooling pooling : {Pooling::flatten, Pooling::mean, Pooling::token})
      for (const Index top_k : {Index{0}, Index{2}}) {
        CAPTURE(std::string(to_string(input)));
        CAPTURE(std::string(to_string(pooling)));
        CAPTURE(top_k);
        auto built = random_layer<double>(
            {.input = input, .pooling = pooling, .length = L, .top_k = top_k, .temperature = 0.7});
        const auto mask = padding<double>();
        const auto result = grad_check<Device>(
            [&](const std::vector<D>& in) {
              built.gate().weight = in[1];
              built.gate().log_tau = in[2];
              return built(in[0], mask).y;
            },
            {noise<double>({S, L, d_in}), built.gate().weight, built.gate().log_tau});
        CHECK_MESSAGE(result.ok, result.worst, " ", result.where);
      }
}

TEST_CASE("A gate of a rank is the whole gate F = U V, with its gradients, for every policy") {
  for (const GateInput input : {GateInput::experts, GateInput::hidden})
    for (const Pooling pooling : {Pooling::flatten, Pooling::mean, Pooling::token})
      for (const Index top_k : {Index{0}, Index{2}}) {
        CAPTURE(std::string(to_string(input)));
        CAPTURE(std::string(to_string(pooling)));
        CAPTURE(top_k);
        GateOptions options{
            .input = input, .pooling = pooling, .length = L, .top_k = top_k, .temperature = 0.7};
        auto whole = layer<double>(options);
        options.gate_rank = 2;
        auto built = layer<double>(options);
        const auto& gate = built.gate();
        CHECK(!gate.weight.defined());
        const auto x = noise<double>({S, L, d_in}), mask = padding<double>(), keep = D::from({N}, {1, 0, 1});
        // V is zero at the start: the gate is even, and learns.
        CHECK(worst_error(built(x, mask).y, doubles(whole(x, mask).y)) <= 1e-14);
        backward(built(x, mask).y, noise<double>({S, L, d_out}, 9));
        CHECK(worst_error(gate.V.grad(), std::vector<double>(static_cast<std::size_t>(gate.V.size()))) >
              1e-6);
        gate.V.assign(noise<double>(gate.V.shape(), 5));
        whole.gate().weight.assign(matmul(gate.U, gate.V).detach());
        CHECK(worst_error(built(x, mask, keep).y, doubles(whole(x, mask, keep).y)) <= 1e-13);
        const auto result = grad_check<Device>(
            [&](const std::vector<D>& in) {
              built.gate().U = in[1];
              built.gate().V = in[2];
              built.gate().log_tau = in[3];
              return built(in[0], mask).y;
            },
            {x, gate.U, gate.V, gate.log_tau});
        CHECK_MESSAGE(result.ok, result.worst, " ", result.where);
      }
}

TEST_CASE("A gate of a rank reads a scaled input as the whole gate does") {
  for (const InputScale input_scale : {InputScale::standardised, InputScale::common}) {
    GateOptions options{.input_scale = input_scale};
    auto whole = layer<double>(options);
    options.gate_rank = 2;
    auto built = layer<double>(options);
    const std::vector<D> inputs{noise<double>({S, L, d_in}, 21), noise<double>({S, L, d_in}, 22)};
    whole.standardise_gates(inputs);
    built.standardise_gates(inputs);
    built.gate().V.assign(noise<double>(built.gate().V.shape(), 5));
    whole.gate().weight.assign(matmul(built.gate().U, built.gate().V).detach());
    const auto x = noise<double>({S, L, d_in});
    CHECK(worst_error(built(x).y, doubles(whole(x).y)) <= 1e-13);
  }
}

TEST_CASE("A gate has no higher rank than its matrix, and none below zero") {
  CHECK(layer<double>({.gate_rank = 99}).gate().V.shape() == Shape{N, N});
  CHECK_THROWS_AS(layer<double>({.gate_rank = -1}), ArgumentError);
}

TEST_CASE_TEMPLATE("A zero gate mixes to exactly the mean of the experts", T, float, double) {
  const auto x = noise<T>({S, L, d_in});
  std::vector<double> W = doubles(noise<T>({d_out, d_in}, 1));
  for (const auto& expert : experts()) {
    const auto change = delta(expert);
    for (std::size_t i = 0; i < W.size(); ++i) W[i] += change[i] / N;
  }
  const auto expected = linear(x, as_tensor<T>({d_out, d_in}, W), noise<T>({d_out}, 2));
  for (const Pooling pooling : {Pooling::flatten, Pooling::mean, Pooling::token}) {
    const auto out = layer<T>({.pooling = pooling, .length = L})(x);
    for (const T weight : out.gate.weights.to_host()) CHECK(weight == T(1) / T(N));
    CHECK(worst_error(out.y, doubles(expected)) < 10 * tight<T>);
  }
}

TEST_CASE_TEMPLATE("One expert has all the weight whatever the gate", T, float, double) {
  const std::vector<LoraFactors> one{experts().front()};
  const auto W = noise<T>({d_out, d_in}, 1), x = noise<T>({S, L, d_in});
  MoleLinear<T, Device> single(W, {}, one, {.pooling = Pooling::token});
  single.gate().weight.assign(noise<T>(single.gate().weight.shape(), 3));
  const auto expected = add(linear(x, W), lora_output(x, literal_experts<T>(one).front()));
  const auto out = single(x);
  for (const T weight : out.gate.weights.to_host()) CHECK(weight == T(1));
  CHECK(worst_error(out.y, doubles(expected)) < 10 * tight<T>);
}

TEST_CASE_TEMPLATE("Top-k keeps the k largest gates and renormalises them", T, float, double) {
  const auto x = noise<T>({S, L, d_in});
  for (const Index k : {1, 2, 3}) {
    const auto out = random_layer<T>({.pooling = Pooling::token, .top_k = k})(x);
    const auto dense = doubles(out.gate.dense), kept = doubles(out.gate.weights);
    CHECK(worst_error(row_sums(kept, N), std::vector<double>(S * L, 1)) < tight<T>);
    for (std::size_t row = 0; row < kept.size(); row += N) {
      std::vector<double> sorted(dense.begin() + static_cast<std::ptrdiff_t>(row),
                                 dense.begin() + static_cast<std::ptrdiff_t>(row) + N);
      std::sort(sorted.rbegin(), sorted.rend());
      double sum = 0;
      for (Index i = 0; i < k; ++i) sum += sorted[static_cast<std::size_t>(i)];
      for (std::size_t j = row; j < row + N; ++j) {
        const double expected = dense[j] >= sorted[static_cast<std::size_t>(k - 1)] ? dense[j] / sum : 0;
        CHECK(std::abs(kept[j] - expected) < tight<T>);
      }
    }
  }
}

TEST_CASE_TEMPLATE("A masked expert gets nothing and the rest are renormalised", T, float, double) {
  const auto x = noise<T>({S, L, d_in}), keep = Tensor<T, Device>::from({N}, {1, 0, 1});
  for (const Pooling pooling : {Pooling::flatten, Pooling::mean, Pooling::token}) {
    const auto mixed = random_layer<T>({.pooling = pooling, .length = L});
    auto expected = doubles(mixed(x).gate.weights);
    for (std::size_t row = 0; row < expected.size(); row += N) {
      expected[row + 1] = 0;
      const double sum = expected[row] + expected[row + 2];
      expected[row] /= sum;
      expected[row + 2] /= sum;
    }
    CHECK(worst_error(mixed(x, {}, keep).gate.weights, expected) < tight<T>);
  }
}

TEST_CASE_TEMPLATE("Padded tokens do not change a sequence gate", T, float, double) {
  const auto x = noise<T>({S, L, d_in}), mask = padding<T>();
  auto values = x.to_host();
  const auto real = mask.to_host();
  for (std::size_t i = 0; i < values.size(); ++i)
    if (real[i / d_in] == T(0)) values[i] = T(100);
  const auto other = Tensor<T, Device>::from(x.shape(), values);
  for (const GateInput input : {GateInput::experts, GateInput::hidden})
    for (const Pooling pooling : {Pooling::flatten, Pooling::mean}) {
      const auto mixed = random_layer<T>({.input = input, .pooling = pooling, .length = L});
      CHECK(worst_error(mixed(other, mask).gate.weights, doubles(mixed(x, mask).gate.weights)) < tight<T>);
      CHECK(worst_error(mixed(other).gate.weights, doubles(mixed(x).gate.weights)) > 1e-3);
    }
}

TEST_CASE("Flatten pooling names both lengths when a sequence has another") {
  const auto fixed = layer<double>({.pooling = Pooling::flatten, .length = L});
  CHECK(lacks<ShapeError>([&] { fixed(noise<double>({S, L + 3, d_in})); }, {"flatten", "4", "7"}) == "");
  CHECK(lacks<ArgumentError>([] { layer<double>({.pooling = Pooling::flatten}); }, {"flatten", "length"}) ==
        "");
}

TEST_CASE("Experts that do not fit the weight are refused with both shapes") {
  const auto W = noise<double>({d_out, d_in});
  CHECK(lacks<ShapeError>(
            [&] { MoleLinear<double, Device>(W, {}, {random_factors(2, d_in, d_out + 1, 1, 1)}); },
            {"[5, 6]", "[6, 6]"}) == "");
  CHECK_THROWS_AS((MoleLinear<double, Device>(W, {}, {})), ArgumentError);
  for (const double temperature : {0.0, 1e-40, 1e40})
    CHECK_THROWS_AS((MoleLinear<double, Device>(W, {}, experts(), {.temperature = temperature})),
                    ArgumentError);
}

TEST_CASE("A gate whose input is too long for its scalar to square is NaN, not even") {
  std::vector<LoraFactors> list;
  for (const auto& expert : experts()) list.push_back(expert);
  const auto weights = [&](auto zero, Pooling pooling) {
    using T = decltype(zero);
    const MoleLinear<T, Device> layer(noise<T>({d_out, d_in}), {}, list, {.pooling = pooling});
    return layer(Tensor<T, Device>::full({1, 2, d_in}, T(1e25))).gate.weights.to_host();
  };
  for (const Pooling pooling : {Pooling::token, Pooling::mean}) {
    for (const float g : weights(0.0F, pooling)) CHECK(mole::is_nan(g));
    for (const double g : weights(0.0, pooling)) CHECK(mole::is_finite(g));
  }
}

TEST_CASE_TEMPLATE("Experts that are not finite, or not once scaled, are refused by name and slot", T, float,
                   double) {
  const auto refusal = [](const auto& spoil) {
    auto list = experts();
    spoil(list[1]);
    std::string text;
    try {
      const MoleLinear<T, Device> layer(noise<T>({d_out, d_in}, 1), {}, list, {});
    } catch (const NumericError& error) {
      text = error.what();
    }
    return text;
  };
  const auto names = [](const std::string& text) {
    return text.find("adapter 1") != text.npos && text.find("at layer") != text.npos;
  };
  for (const double bad :
       {std::numeric_limits<double>::quiet_NaN(), -std::numeric_limits<double>::infinity()}) {
    CHECK(names(refusal([&](LoraFactors& f) { f.A.back() = bad; })));
    CHECK(names(refusal([&](LoraFactors& f) { f.B.back() = bad; })));
    CHECK(names(refusal([&](LoraFactors& f) { f.scale = bad; })));
  }
  // Each number is a float, their scaled product is none.
  const auto text = refusal([](LoraFactors& f) {
    for (auto* factor : {&f.A, &f.B})
      for (double& value : *factor) value *= 1e20;
    f.scale = 1e9;
  });
  CHECK((std::is_same_v<T, double> ? text.empty() : names(text) && text.find("lora_alpha") != text.npos));
}

TEST_CASE("A gate's choices are parsed by name, and unknown names list the choices") {
  for (const Scope scope : {Scope::matrix, Scope::layer, Scope::block, Scope::network})
    CHECK(parse_scope(to_string(scope)) == scope);
  for (const Pooling pooling : {Pooling::flatten, Pooling::mean, Pooling::token})
    CHECK(parse_pooling(to_string(pooling)) == pooling);
  for (const GateInput input : {GateInput::experts, GateInput::hidden})
    CHECK(parse_gate_input(to_string(input)) == input);
  CHECK(lacks<ArgumentError>([] { parse_scope("blok"); }, {"blok", "matrix", "layer", "block", "network"}) ==
        "");
  CHECK(lacks<ArgumentError>([] { parse_pooling("max"); }, {"max", "flatten", "mean", "token"}) == "");
  CHECK(lacks<ArgumentError>([] { parse_gate_input("x"); }, {"\"x\"", "experts", "hidden"}) == "");
}

TEST_CASE_TEMPLATE("A layer and its gradients have the same bits for 1 to 4 threads", T, float, double) {
  // Beyond the backend's grain, so that loops are shared, and products that a BLAS does not share by itself: what it
  // does with larger ones depends on its threads. Chunks of rows of each size, whole and not, as many as threads and not.
  const Index d_in = 32, d_out = 16, rank = 4;
  std::vector<LoraFactors> loras;
  for (std::uint64_t i = 0; i < 3; ++i) loras.push_back(random_factors(rank, d_in, d_out, 0.5, 10 * i + 1));
  const auto run = [&](Index S, Index L, Pooling pooling, int threads) {
    const int before = omp_get_max_threads();
    omp_set_num_threads(threads);
    const auto W = Tensor<T, Device>::randn({d_out, d_in}, {1, 1});
    auto x = Tensor<T, Device>::randn({S, L, d_in}, {2, 1});
    x.set_requires_grad();
    MoleLinear<T, Device> layer(W, {}, loras, GateOptions{.pooling = pooling});
    layer.gate().weight.assign(Tensor<T, Device>::randn(layer.gate().weight.shape(), {3, 1}));
    const auto y = layer(x).y;
    backward(sum(mul(y, y)));
    auto bits = y.to_host();
    for (const auto& tensor : {x.grad(), layer.gate().weight.grad(), layer.gate().log_tau.grad()}) {
      const auto more = tensor.to_host();
      bits.insert(bits.end(), more.begin(), more.end());
    }
    omp_set_num_threads(before);
    return bits;
  };
  for (const Shape& tokens : {Shape{8, 64}, Shape{3, 111}, Shape{2, 600}, Shape{1, 40}})
    for (const Pooling pooling : {Pooling::token, Pooling::mean}) {
      const Index S = tokens[0], L = tokens[1];
      const auto one = run(S, L, pooling, 1);
      CHECK(one.size() > static_cast<std::size_t>(S * L * (d_in + d_out)));
      for (const int threads : {2, 3, 4}) {
        CAPTURE(message(S, L, threads));
        const bool same = run(S, L, pooling, threads) == one;
        CHECK(same);
      }
    }
}

}  // namespace mole_linear_tests
