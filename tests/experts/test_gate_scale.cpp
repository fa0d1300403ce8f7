// What gates read, standardised: how it is measured, and that it is applied wherever gates decide.

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <experts/experts.hpp>
#include <mole/autodiff/grad_check.hpp>
#include <mole/loss/mse.hpp>
#include <mole/optim/adamw.hpp>
#include <testing.hpp>

using namespace mole;
using namespace mole::testing;

// Not the extents of the other suites that are compiled with this one.
namespace gate_scales {

namespace {

using D = Tensor<double, Device>;
using Rows = std::vector<std::vector<double>>;

constexpr Index S = 5, L = 4, d_in = 6, d_out = 7, N = 3;
constexpr InputScale scales[] = {InputScale::standardised, InputScale::common};

/// Ranks below and above d_out.
std::vector<LoraFactors> experts() {
  return {random_factors(2, d_in, d_out, 0.5, 1), random_factors(9, d_in, d_out, 0.25, 2),
          random_factors(1, d_in, d_out, 2, 3)};
}

D input(std::uint64_t stream = 0) { return noise<double>({S, L, d_in}, stream) + 0.7; }

/// The second sequence has two real tokens, the last one.
D padding() {
  std::vector<double> mask(S * L, 1);
  mask[6] = mask[7] = mask[17] = mask[18] = mask[19] = 0;
  return D::from({S, L}, mask);
}

MoleLinear<double, Device> layer(const GateOptions& options) {
  return {noise<double>({d_out, d_in}, 1), noise<double>({d_out}, 2), experts(), options};
}

/// Measured on the input and a second batch, then with random weights.
MoleLinear<double, Device> measured_layer(const GateOptions& options, const D& mask = {}) {
  auto made = layer(options);
  made.standardise_gates({input(), input(20)}, mask.defined() ? std::vector{mask, D()} : std::vector<D>());
  made.gate().weight.assign(noise<double>(made.gate().weight.shape(), 5));
  return made;
}

/// Rows of what a gate reads at full length, by its definition: of the experts' canonical outputs or of x itself.
Rows rows_of(const MoleLinear<double, Device>& made, const GateOptions& options, const D& x, const D& mask) {
  const auto A = made.experts().A.to_host(), values = x.to_host();
  const auto real = mask.defined() ? mask.to_host() : std::vector<double>(S * L, 1);
  const bool hidden = options.input == GateInput::hidden;
  const auto n = static_cast<std::size_t>(hidden ? d_in : made.experts().rank());
  Rows rows;
  for (std::size_t s = 0; s < S; ++s) {
    std::vector<double> mean(n), all;
    double count = 0;
    for (std::size_t t = s * L; t < (s + 1) * L; ++t) {
      std::vector<double> token(n);
      for (std::size_t j = 0; j < n; ++j)
        for (std::size_t i = 0; i < d_in; ++i)
          token[j] += hidden ? (i == j ? values[t * d_in + i] : 0) : A[j * d_in + i] * values[t * d_in + i];
      if (options.pooling == Pooling::token) rows.push_back(token);
      count += real[t];
      for (std::size_t j = 0; j < n; ++j) {
        mean[j] += real[t] * token[j];
        all.push_back(real[t] * token[j]);
      }
    }
    for (double& value : mean) value /= count;
    if (options.pooling == Pooling::mean) rows.push_back(mean);
    if (options.pooling == Pooling::flatten) rows.push_back(all);
  }
  for (auto& row : rows) {
    double squares = 0;
    for (const double value : row) squares += value * value;
    for (double& value : row) value /= std::sqrt(squares);
  }
  return rows;
}

/// Mean and factor, by two passes over the rows.
void measure(const Rows& rows, InputScale how, std::vector<double>& mean, std::vector<double>& factor) {
  const std::size_t n = rows.front().size();
  const double count = static_cast<double>(rows.size());
  mean.assign(n, 0);
  std::vector<double> variance(n);
  for (const auto& row : rows)
    for (std::size_t j = 0; j < n; ++j) mean[j] += row[j] / count;
  double whole = 0;
  for (const auto& row : rows)
    for (std::size_t j = 0; j < n; ++j) {
      variance[j] += (row[j] - mean[j]) * (row[j] - mean[j]) / count;
      whole += (row[j] - mean[j]) * (row[j] - mean[j]) / count;
    }
  factor.clear();
  for (std::size_t j = 0; j < n; ++j)
    factor.push_back(1 / std::sqrt(how == InputScale::common ? whole : variance[j] * static_cast<double>(n)));
}

std::vector<GateOptions> all_policies() {
  std::vector<GateOptions> list;
  for (const GateInput input : {GateInput::experts, GateInput::hidden})
    for (const Pooling pooling : {Pooling::flatten, Pooling::mean, Pooling::token})
      for (const InputScale scale : {InputScale::unit, InputScale::standardised, InputScale::common})
        list.push_back(
            {.input = input, .pooling = pooling, .length = L, .temperature = 0.7, .input_scale = scale});
  return list;
}

std::string name_of(const GateOptions& options) {
  return message(to_string(options.input), to_string(options.pooling), to_string(options.input_scale));
}

}  // namespace

TEST_CASE("Every policy's gate is the softmax of its standardised input, counted by hand") {
  for (const auto& options : all_policies())
    for (const bool padded : {false, true}) {
      CAPTURE(name_of(options));
      CAPTURE(padded);
      const auto mask = padded ? padding() : D();
      auto made = options.input_scale == InputScale::unit ? layer(options) : measured_layer(options, mask);
      made.gate().weight.assign(noise<double>(made.gate().weight.shape(), 5));
      const auto x = input();
      auto rows = rows_of(made, options, x, mask);
      if (options.input_scale != InputScale::unit) {
        // What was measured: the real tokens of this batch and all of the second.
        Rows counted = rows_of(made, options, input(20), {});
        const auto real = padded ? mask.to_host() : std::vector<double>(S * L, 1);
        for (std::size_t i = 0; i < rows.size(); ++i)
          if (options.pooling != Pooling::token || real[i] == 1) counted.push_back(rows[i]);
        std::vector<double> mean, factor;
        measure(counted, options.input_scale, mean, factor);
        CHECK(worst_error(made.gate().scale.mean, mean) < 1e-13);
        for (auto& row : rows)
          for (std::size_t j = 0; j < row.size(); ++j) row[j] = (row[j] - mean[j]) * factor[j];
      }
      const auto F = made.gate().weight.to_host();
      std::vector<double> expected;
      for (const auto& row : rows) {
        double total = 0;
        std::vector<double> g(N);
        for (std::size_t i = 0; i < N; ++i) {
          double logit = 0;
          for (std::size_t j = 0; j < row.size(); ++j) logit += row[j] * F[j * N + i];
          total += g[i] = std::exp(logit / 0.7);
        }
        for (const double value : g) expected.push_back(value / total);
      }
      CHECK(worst_error(made(x, mask).gate.weights, expected) < 1e-12);
    }
}

TEST_CASE("With one scale for all features the rank-space layer and its gradients are the literal ones") {
  for (const Pooling pooling : {Pooling::flatten, Pooling::mean, Pooling::token})
    for (const bool padded : {false, true})
      for (const bool masked : {false, true}) {
        CAPTURE(message(to_string(pooling), padded, masked));
        const Index span = pooling == Pooling::flatten ? L : 1;
        const double tau = 1.3;
        const D mask = padded ? padding() : D(), keep = masked ? D::from({N}, {1, 0, 1}) : D();
        const auto W = noise<double>({d_out, d_in}, 1), c = noise<double>({d_out}, 2);
        const auto dy = noise<double>({S, L, d_out}, 9);
        const auto e_values = random_numbers(N * span * d_out * N, 8);
        const auto literals = literal_experts<double>(experts());

        // The scale at full width, measured there.
        Rows rows;
        {
          std::vector<D> E;
          for (const auto& expert : literals)
            E.push_back(pool_tokens(lora_output(input(), expert), mask, pooling));
          const auto v = unit_rows(concat(E, -1));
          const auto values = v.to_host();
          const auto real = padded ? mask.to_host() : std::vector<double>(S * L, 1);
          const auto n = static_cast<std::size_t>(v.size(-1));
          for (std::size_t i = 0; i * n < values.size(); ++i)
            if (pooling != Pooling::token || real[i] == 1)
              rows.emplace_back(values.begin() + static_cast<std::ptrdiff_t>(i * n),
                                values.begin() + static_cast<std::ptrdiff_t>((i + 1) * n));
        }
        std::vector<double> mean, factor;
        measure(rows, InputScale::common, mean, factor);
        const Index features = static_cast<Index>(mean.size());
        const GateScale<double, Device> full{D::from({features}, mean), D::scalar(factor.front())};

        const auto x = input().set_requires_grad();
        const auto e = D::from({N * span * d_out, N}, e_values).set_requires_grad();
        const auto t = D::scalar(tau).set_requires_grad();
        const auto literal = literal_mole(x, W, c, literals, e, t, pooling, mask, keep, full);
        backward(literal.y, dy);

        auto fast =
            layer({.pooling = pooling, .length = L, .temperature = tau, .input_scale = InputScale::common});
        fast.standardise_gates({input()}, padded ? std::vector{mask} : std::vector<D>());
        CHECK(std::abs(fast.gate().scale.factor.item() - factor.front()) < 1e-12);
        const auto project = [&](const std::vector<double>& wide) {
          return to_rank_space(wide, fast.experts(), span);
        };
        fast.gate().weight.assign(as_tensor<double>(fast.gate().weight.shape(), project(e_values)));
        const auto z = input().set_requires_grad();
        const auto out = fast(z, mask, keep);
        backward(out.y, dy);

        CHECK(worst_error(out.y, doubles(literal.y)) < 1e-10);
        CHECK(worst_error(out.gate.weights, doubles(literal.gate)) < 1e-10);
        CHECK(worst_error(z.grad(), doubles(x.grad())) < 1e-10);
        CHECK(worst_error(fast.gate().weight.grad(), project(doubles(e.grad()))) < 1e-10);
        CHECK(std::abs(fast.gate().log_tau.grad().item() - tau * t.grad().item()) < 1e-10);
      }
}

TEST_CASE("The gradients of a standardised gate are right by finite differences under every policy") {
  for (const auto& options : all_policies())
    for (const Index top_k : {Index{0}, Index{2}}) {
      if (options.input_scale == InputScale::unit) continue;
      CAPTURE(name_of(options));
      CAPTURE(top_k);
      auto with_k = options;
      with_k.top_k = top_k;
      const auto mask = padding();
      auto made = measured_layer(with_k, mask);
      const auto result = grad_check<Device>(
          [&](const std::vector<D>& in) {
            made.gate().weight = in[1];
            made.gate().log_tau = in[2];
            return made(in[0], mask).y;
          },
          {input(), made.gate().weight, made.gate().log_tau});
      CHECK_MESSAGE(result.ok, result.worst, " ", result.where);
    }
}

TEST_CASE("What a standardised gate reads has mean 0 and squared length 1, and at the start it is even") {
  for (const auto& options : all_policies()) {
    if (options.input_scale == InputScale::unit) continue;
    CAPTURE(name_of(options));
    auto made = layer(options);
    made.standardise_gates({input()});
    for (const double weight : made(input()).gate.weights.to_host()) CHECK(weight == 1.0 / N);
    const auto rows = rows_of(made, options, input(), {});
    const auto mean = made.gate().scale.mean.to_host(), factor = made.gate().scale.factor.to_host();
    double squares = 0;
    for (std::size_t j = 0; j < mean.size(); ++j) {
      double sum = 0;
      for (const auto& row : rows) {
        const double z = (row[j] - mean[j]) * factor[factor.size() == 1 ? 0 : j];
        sum += z;
        squares += z * z / static_cast<double>(rows.size());
      }
      CHECK(std::abs(sum) < 1e-13);
    }
    CHECK(squares == doctest::Approx(1).epsilon(1e-12));
  }
}

TEST_CASE("The scale does not depend on the gate's weights, and padded tokens have no part in it") {
  for (const auto& options : all_policies()) {
    if (options.input_scale == InputScale::unit) continue;
    CAPTURE(name_of(options));
    const auto mask = padding();
    auto plain = layer(options), other = layer(options);
    plain.standardise_gates({input()}, {mask});
    auto values = input().to_host();
    const auto real = mask.to_host();
    for (std::size_t i = 0; i < values.size(); ++i)
      if (real[i / d_in] == 0) values[i] = 100;
    other.gate().weight.assign(noise<double>(other.gate().weight.shape(), 5));
    other.standardise_gates({D::from({S, L, d_in}, values)}, {mask});
    CHECK(other.gate().scale.mean.to_host() == plain.gate().scale.mean.to_host());
    CHECK(other.gate().scale.factor.to_host() == plain.gate().scale.factor.to_host());
  }
}

TEST_CASE("A sequence without a real token does not count, and batches count as one") {
  const GateOptions options{.pooling = Pooling::mean, .input_scale = InputScale::standardised};
  auto whole = layer(options), parts = layer(options);
  const auto x = input();
  auto mask = std::vector<double>(S * L, 1);
  for (std::size_t t = 4 * L; t < 5 * L; ++t) mask[t] = 0;
  whole.standardise_gates({x}, {D::from({S, L}, mask)});
  parts.standardise_gates({slice(x, 0, 0, 1), slice(x, 0, 1, 4)});
  CHECK(worst_error(whole.gate().scale.mean, doubles(parts.gate().scale.mean)) < 1e-14);
  CHECK(worst_error(whole.gate().scale.factor, doubles(parts.gate().scale.factor)) < 1e-12);
}

TEST_CASE_TEMPLATE("A feature that does not vary gets the factor 0", T, float, double) {
  FeatureMoments moments;
  for (const T varying : {T(0.3), T(-0.2), T(0.7)}) {
    const std::vector<T> row{T(0.1), varying, T(0)};
    moments.add(row.data(), 3, false);
  }
  const auto factors = moments.factor<T>(InputScale::standardised);
  CHECK(factors[0] == 0);
  CHECK(factors[1] > 0);
  CHECK(factors[2] == 0);
  FeatureMoments still;
  // Rounding alone: rows of one direction and many lengths.
  for (const T length : {T(1), T(3), T(0.7), T(11)}) {
    const std::vector<T> row{T(0.1) * length, T(0.3) * length, T(-0.77) * length};
    still.add(row.data(), 3, true);
  }
  CHECK(still.factor<T>(InputScale::standardised) == std::vector<double>(3));
  CHECK(still.factor<T>(InputScale::common) == std::vector<double>(1));
}

TEST_CASE("A factor that the scalar cannot hold is 0") {
  FeatureMoments moments;
  for (const double varying : {1e-5, -1e-5}) moments.add(&varying, 1, false);
  CHECK(moments.factor<double>(InputScale::standardised).front() == doctest::Approx(1e5));
  CHECK(moments.factor<mole::half>(InputScale::standardised).front() == 0);
}

TEST_CASE("Masks, top-k and the balance's gates are those of the standardised gate") {
  const GateOptions options{.pooling = Pooling::token, .input_scale = InputScale::standardised};
  auto with_k = options;
  with_k.top_k = 2;
  const auto all = measured_layer(options), kept = measured_layer(with_k);
  const auto x = input(), keep = D::from({N}, {1, 0, 1});
  auto expected = doubles(all(x).gate.weights), best = expected;
  const auto dense = doubles(kept(x).gate.dense);
  CHECK(worst_error(dense, expected) < 1e-14);
  for (std::size_t row = 0; row < expected.size(); row += N) {
    const double rest = expected[row] + expected[row + 2];
    expected[row] /= rest, expected[row + 1] = 0, expected[row + 2] /= rest;
    std::size_t lowest = row;
    for (std::size_t j = row; j < row + N; ++j)
      if (best[j] < best[lowest]) lowest = j;
    const double sum = 1 - best[lowest];
    best[lowest] = 0;
    for (std::size_t j = row; j < row + N; ++j) best[j] /= sum;
  }
  CHECK(worst_error(all(x, {}, keep).gate.weights, expected) < 1e-13);
  CHECK(worst_error(kept(x).gate.weights, best) < 1e-13);
}

TEST_CASE("X-LoRA's classifier reads the hidden state without its mean, over its spread") {
  for (const Pooling pooling : {Pooling::mean, Pooling::token})
    for (const InputScale scale : scales) {
      CAPTURE(message(to_string(pooling), to_string(scale)));
      const auto W = noise<double>({d_out, d_in}, 1);
      MoleLinear<double, Device> made(W, D(), experts(),
                                      XLoraOptions{.pooling = pooling, .input_scale = scale});
      made.standardise_gates({input()}, {padding()});
      const auto read =
          pooling == Pooling::token ? linear(input(), W) : masked_mean(linear(input(), W), padding());
      const auto values = read.to_host();
      const auto real = padding().to_host();
      Rows rows;
      for (std::size_t i = 0; i * d_out < values.size(); ++i)
        if (pooling == Pooling::mean || real[i] == 1)
          rows.emplace_back(values.begin() + static_cast<std::ptrdiff_t>(i * d_out),
                            values.begin() + static_cast<std::ptrdiff_t>((i + 1) * d_out));
      std::vector<double> mean, factor;
      measure(rows, scale, mean, factor);
      const auto z = mul(sub(read, D::from({d_out}, mean)), D::from({d_out}, factor));
      const auto parameters = made.parameters();
      REQUIRE(parameters.size() == 2);
      const auto expected = softmax(linear(z, parameters[0], parameters[1]));
      CHECK(worst_error(made(input(), padding()).gate.weights, doubles(expected)) < 1e-12);
    }
}

TEST_CASE("Gates that were not measured, or have nothing to measure, say so") {
  for (const GateOptions& options :
       {GateOptions{.pooling = Pooling::mean, .input_scale = InputScale::standardised},
        GateOptions{.pooling = Pooling::token, .input_scale = InputScale::common}}) {
    auto made = layer(options);
    CHECK(lacks<ArgumentError>([&] { made(input()); }, {"not been measured", "standardise_gates"}) == "");
  }
  MoleLinear<double, Device> classifier(noise<double>({d_out, d_in}, 1), D(), experts(),
                                        XLoraOptions{.input_scale = InputScale::common});
  CHECK(lacks<ArgumentError>([&] { classifier(input()); }, {"not been measured", "standardise_gates"}) == "");
  CHECK(lacks<ArgumentError>([] { layer({}).standardise_gates({input()}); },
                             {"standardise_gates", "input_scale", "standardised or common"}) == "");
  MoleLinear<double, Device> arrow(noise<double>({d_out, d_in}, 1), D(), experts(), ArrowOptions{});
  CHECK(lacks<ArgumentError>([&] { arrow.standardise_gates({input()}); }, {"standardise_gates"}) == "");
}

TEST_CASE("Fewer than two rows, rows that are not finite and masks of another number are refused") {
  const GateOptions options{.pooling = Pooling::mean, .input_scale = InputScale::standardised};
  auto made = layer(options);
  const auto one = slice(input(), 0, 0, 1);
  CHECK(lacks<ArgumentError>([&] { made.standardise_gates({one}); },
                             {"standardise_gates", "1 rows", "layer"}) == "");
  CHECK(lacks<ArgumentError>([&] { made.standardise_gates({}); }, {"standardise_gates", "0 rows"}) == "");
  CHECK(lacks<ArgumentError>([&] { made.standardise_gates({one, one}, {D()}); }, {"mask", "2", "1"}) == "");
  auto values = input().to_host();
  values[3] = std::numeric_limits<double>::quiet_NaN();
  CHECK(lacks<NumericError>(
            [&] {
              made.standardise_gates({D::from({S, L, d_in}, values)});
            },
            {"layer", "NaN"}) == "");
  CHECK(lacks<ArgumentError>([&] { made(input()); }, {"not been measured"}) == "");
}

TEST_CASE("Input scales have names that read back, and an unknown one is answered with them") {
  for (const auto scale : {InputScale::unit, InputScale::standardised, InputScale::common})
    CHECK(parse_input_scale(to_string(scale)) == scale);
  CHECK(lacks<ArgumentError>([] { parse_input_scale("sd"); }, {"\"sd\"", "unit", "standardised", "common"}) ==
        "");
}

}  // namespace gate_scales
