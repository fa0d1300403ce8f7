// The routers on one layer: Arrow and X-LoRA against computations by hand, and what all routers promise.

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <vector>

#include <doctest/doctest.h>
#include <Eigen/SVD>
#include <experts/experts.hpp>
#include <mole/autodiff/grad_check.hpp>
#include <testing.hpp>

using namespace mole;
using namespace mole::testing;
using D = Tensor<double, Device>;
using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using Row = std::vector<double>;

namespace {

constexpr Index S = 3, L = 4, d_in = 6, d_out = 5, N = 3;

/// Ranks below, above and below d_out, with different scales.
std::vector<LoraFactors> experts() {
  return {random_factors(2, d_in, d_out, 0.5, 1), random_factors(7, d_in, d_out, 0.25, 2),
          random_factors(1, d_in, d_out, 2, 3)};
}

template <class T, class R>
MoleLinear<T, Device> layer(const R& router, const std::vector<LoraFactors>& list = experts()) {
  return {noise<T>({d_out, d_in}, 1), noise<T>({d_out}, 2), list, router};
}

/// softmax of the logits at the positions of `kept`, 0 elsewhere.
Row softmax_of(const Row& logits, const std::vector<std::size_t>& kept, double temperature = 1) {
  Row result(logits.size());
  double total = 0;
  for (const auto i : kept) total += result[i] = std::exp(logits[i] / temperature);
  for (auto& value : result) value /= total;
  return result;
}

std::vector<std::size_t> largest(const Row& logits, std::size_t k) {
  std::vector<std::size_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return logits[a] > logits[b]; });
  order.resize(k);
  return order;
}

const std::vector<std::size_t> all_columns{0, 1, 2};

/// The rows of a matrix of n columns, one after another.
std::vector<Row> rows_of(const D& x) {
  const auto values = doubles(x);
  const auto n = static_cast<std::ptrdiff_t>(x.size(-1));
  std::vector<Row> rows;
  for (auto at = values.begin(); at != values.end(); at += n) rows.emplace_back(at, at + n);
  return rows;
}

/// Each token's |x . v_i|, v_i by a singular value decomposition of the full s B A.
std::vector<Row> arrow_logits(const D& x, const std::vector<LoraFactors>& list) {
  std::vector<Row> logits;
  for (const auto& token : rows_of(x)) {
    logits.emplace_back();
    for (const auto& expert : list) {
      const auto change = delta(expert);
      const Eigen::JacobiSVD<Matrix> svd(Eigen::Map<const Matrix>(change.data(), d_out, d_in),
                                         Eigen::ComputeFullU | Eigen::ComputeFullV);
      const Eigen::Map<const Eigen::VectorXd> input(token.data(), d_in);
      logits.back().push_back(std::abs(input.dot(svd.matrixV().col(0))));
    }
  }
  return logits;
}

Row flat(const std::vector<Row>& rows) {
  Row list;
  for (const auto& row : rows) list.insert(list.end(), row.begin(), row.end());
  return list;
}

/// One linear layer by hand.
Row affine(const Row& x, const Row& W, const Row& c) {
  Row y = c;
  for (std::size_t o = 0; o < y.size(); ++o)
    for (std::size_t i = 0; i < x.size(); ++i) y[o] += W[o * x.size() + i] * x[i];
  return y;
}

/// What the classifier of a layer says of each token, by hand: its first pass has W + sum of factor s B A.
std::vector<Row> xlora_logits(const MoleLinear<double, Device>& built, const D& x, double factor) {
  auto W = doubles(noise<double>({d_out, d_in}, 1));
  for (const auto& expert : experts()) {
    const auto change = delta(expert);
    for (std::size_t i = 0; i < W.size(); ++i) W[i] += factor * change[i];
  }
  std::vector<Row> logits;
  const auto parameters = built.parameters();
  for (const auto& token : rows_of(x)) {
    auto z = affine(token, W, doubles(noise<double>({d_out}, 2)));
    for (std::size_t i = 0; i < parameters.size(); i += 2) {
      if (i > 0)
        for (auto& value : z) value = std::max(value, 0.0);
      z = affine(z, doubles(parameters[i]), doubles(parameters[i + 1]));
    }
    logits.push_back(z);
  }
  return logits;
}

/// The routers that are compared, all gates by token but for one.
std::vector<RouterOptions> routers(Index top_k = 0) {
  return {GateOptions{.pooling = Pooling::token, .top_k = top_k},
          GateOptions{.input = GateInput::hidden, .pooling = Pooling::mean, .top_k = top_k},
          ArrowOptions{.top_k = top_k, .temperature = 0.7},
          XLoraOptions{.top_k = top_k, .renormalize = Renormalize::sum}};
}

/// A router with something to say: MoLE's gate starts uniform, so give it weights.
template <class T>
MoleLinear<T, Device> random_layer(const RouterOptions& router) {
  auto built = layer<T>(router);
  if (std::holds_alternative<GateOptions>(router))
    built.gate().weight.assign(noise<T>(built.gate().weight.shape(), 5));
  return built;
}

}  // namespace

TEST_CASE("Arrow's logits are the tokens' components along the top right singular vector of each s B A") {
  const auto x = noise<double>({S, L, d_in});
  for (const double temperature : {1.0, 0.3}) {
    const auto built = layer<double>(ArrowOptions{.temperature = temperature});
    std::vector<Row> expected;
    for (const auto& logits : arrow_logits(x, experts()))
      expected.push_back(softmax_of(logits, all_columns, temperature));
    const auto out = built(x);
    CHECK(out.gate.weights.shape() == Shape{S, L, N});
    CHECK(worst_error(out.gate.weights, flat(expected)) < 1e-13);
    CHECK(worst_error(out.gate.dense, flat(expected)) < 1e-13);
    CHECK(built.parameters().empty());
  }
}

TEST_CASE("Arrow's top-k is the softmax over the k largest logits, and the gates before it are kept too") {
  const auto x = noise<double>({S, L, d_in});
  const auto built = layer<double>(ArrowOptions{.top_k = 2});
  std::vector<Row> expected, dense;
  for (const auto& logits : arrow_logits(x, experts())) {
    expected.push_back(softmax_of(logits, largest(logits, 2)));
    dense.push_back(softmax_of(logits, all_columns));
  }
  const auto gate = built(x).gate;
  CHECK(worst_error(gate.weights, flat(expected)) < 1e-13);
  CHECK(worst_error(gate.dense, flat(dense)) < 1e-13);
}

TEST_CASE("Arrow tells close singular values apart, and gives an untrained expert the logit 0") {
  // Two ranks along known directions; the second's singular value is smaller by a millionth.
  LoraFactors close{2, d_in, d_out, 1, Row(2 * d_in), Row(2 * d_out)};
  close.A[3] = 1;
  close.A[d_in + 4] = 1 - 1e-6;
  close.B[0] = close.B[3] = 1;
  auto untrained = random_factors(2, d_in, d_out, 1, 4);
  std::fill(untrained.B.begin(), untrained.B.end(), 0.0);
  const auto built = layer<double>(ArrowOptions{}, {close, untrained});
  const auto x = noise<double>({1, 1, d_in});
  const auto values = doubles(x);
  const auto expected = softmax_of({std::abs(values[3]), 0}, {0, 1});
  CHECK(worst_error(built(x).gate.weights, expected) < 1e-9);
}

TEST_CASE("Arrow's gradient to the input is right by finite differences") {
  const auto built = layer<double>(ArrowOptions{.top_k = 2, .temperature = 0.5});
  const auto result = grad_check<Device>([&](const std::vector<D>& inputs) { return built(inputs[0]).y; },
                                         {noise<double>({1, 2, d_in}, 3)});
  CAPTURE(result.where);
  CHECK(result.ok);
}

TEST_CASE("X-LoRA's gates are the classifier's softmax of the first pass, computed by hand") {
  const auto x = noise<double>({S, L, d_in});
  for (const Index depth : {Index{1}, Index{3}})
    for (const double first : {0.0, 0.4}) {
      CAPTURE(depth);
      CAPTURE(first);
      const auto built =
          layer<double>(XLoraOptions{.depth = depth, .width = 4, .temperature = 0.5, .first_pass = first});
      CHECK(built.parameters().size() == static_cast<std::size_t>(2 * depth));
      std::vector<Row> expected;
      for (const auto& logits : xlora_logits(built, x, first))
        expected.push_back(softmax_of(logits, all_columns, 0.5));
      const auto gate = built(x).gate;
      CHECK(gate.weights.shape() == Shape{S, L, N});
      CHECK(worst_error(gate.weights, flat(expected)) < 1e-13);
      const auto raw =
          layer<double>(XLoraOptions{.depth = depth, .width = 4, .softmax = false, .first_pass = first});
      CHECK(worst_error(raw(x).gate.weights, flat(xlora_logits(raw, x, first))) < 1e-13);
    }
}

TEST_CASE("X-LoRA's top-k leaves the k largest as they are, over their sum, or as their softmax") {
  const auto x = noise<double>({S, L, d_in});
  for (const Renormalize how : {Renormalize::none, Renormalize::sum, Renormalize::softmax}) {
    CAPTURE(static_cast<int>(how));
    const auto built = layer<double>(XLoraOptions{.top_k = 2, .renormalize = how, .weight = 1.5});
    std::vector<Row> expected;
    for (const auto& logits : xlora_logits(built, x, 0)) {
      const auto dense = softmax_of(logits, all_columns);
      const auto kept = largest(logits, 2);
      Row row(3);
      double total = 0;
      for (const auto i : kept) total += dense[i];
      if (how == Renormalize::softmax) row = softmax_of(dense, kept);
      for (const auto i : kept)
        if (how != Renormalize::softmax) row[i] = how == Renormalize::sum ? dense[i] / total : dense[i];
      for (auto& value : row) value *= 1.5;
      expected.push_back(row);
    }
    CHECK(worst_error(built(x).gate.weights, flat(expected)) < 1e-13);
  }
}

TEST_CASE("X-LoRA's gradients reach all of its classifier and are right by finite differences") {
  for (const Renormalize how : {Renormalize::none, Renormalize::sum, Renormalize::softmax}) {
    const auto built = layer<double>(XLoraOptions{
        .depth = 2, .width = 4, .top_k = 2, .renormalize = how, .weight = 1.5, .first_pass = 0.3});
    const auto x = noise<double>({S, L, d_in}), dy = noise<double>({S, L, d_out}, 9);
    auto value = [&] { return sum(mul(built(x).y, dy)); };
    backward(value());
    double worst = 0;
    const NoGrad off;
    for (const auto& parameter : built.parameters()) {
      REQUIRE(parameter.grad().defined());
      const auto original = parameter.to_host(), gradient = parameter.grad().to_host();
      for (std::size_t k = 0; k < original.size(); ++k) {
        auto at = [&](double offset) {
          auto moved = original;
          moved[k] += offset;
          parameter.assign(D::from(parameter.shape(), moved));
          return value().item();
        };
        worst = std::max(worst, std::abs((at(1e-5) - at(-1e-5)) / 2e-5 - gradient[k]));
      }
      parameter.assign(D::from(parameter.shape(), original));
    }
    CHECK(worst < 1e-8);
  }
}

TEST_CASE("The output of every router is the base's plus the experts' by its gates") {
  const auto x = noise<double>({S, L, d_in});
  for (const auto& router : routers(2)) {
    CAPTURE(std::string(router_name(router)));
    const auto out = random_layer<double>(router)(x);
    const bool by_token = out.gate.weights.rank() == 3;
    auto expected = linear(x, noise<double>({d_out, d_in}, 1), noise<double>({d_out}, 2));
    Index i = 0;
    for (const auto& expert : literal_experts<double>(experts())) {
      const auto g = slice(out.gate.weights, -1, i, i + 1);
      expected = add(expected, mul(lora_output(x, expert), by_token ? g : reshape(g, {S, 1, 1})));
      ++i;
    }
    CHECK(worst_error(out.y, doubles(expected)) < 1e-13);
  }
}

TEST_CASE_TEMPLATE("The gates of every router sum to 1 to the order of the last bit", T, float, double) {
  const auto x = noise<T>({S, L, d_in});
  for (const Index top_k : {Index{0}, Index{2}})
    for (const auto& router : routers(top_k)) {
      CAPTURE(std::string(router_name(router)));
      const auto gate = random_layer<T>(router)(x).gate;
      const std::vector<Tensor<T, Device>> values{gate.weights, gate.dense};
      for (const auto& value : values) {
        const auto rows = doubles(value);
        for (std::size_t r = 0; r < rows.size(); r += 3)
          CHECK(std::abs(rows[r] + rows[r + 1] + rows[r + 2] - 1) <=
                4 * static_cast<double>(std::numeric_limits<T>::epsilon()));
      }
    }
}

TEST_CASE("Masking an expert is the softmax over the logits of the others, for every router") {
  const auto x = noise<double>({S, L, d_in});
  const auto keep = D::from({N}, {1, 0, 1});
  for (const auto& router : routers()) {
    CAPTURE(std::string(router_name(router)));
    const auto built = random_layer<double>(router);
    auto expected = rows_of(built(x).gate.weights);
    for (auto& row : expected) {
      const double rest = row[0] + row[2];
      row = {row[0] / rest, 0, row[2] / rest};
    }
    CHECK(worst_error(built(x, {}, keep).gate.weights, flat(expected)) < 1e-14);
  }
}

TEST_CASE("With top-k a masked expert leaves its place to the next one") {
  const auto x = noise<double>({S, L, d_in});
  const auto keep = D::from({N}, {1, 0, 1});
  for (const auto& router : routers(2)) {
    CAPTURE(std::string(router_name(router)));
    const auto built = random_layer<double>(router);
    auto expected = rows_of(built(x).gate.dense);
    for (auto& row : expected) row = {row[0] / (row[0] + row[2]), 0, row[2] / (row[0] + row[2])};
    CHECK(worst_error(built(x, {}, keep).gate.weights, flat(expected)) < 1e-14);
  }
}

TEST_CASE("One expert has the gate 1 from every router, and the layer is that LoRA merged") {
  const auto x = noise<double>({S, L, d_in});
  const std::vector<LoraFactors> one{random_factors(2, d_in, d_out, 0.5, 1)};
  auto W = doubles(noise<double>({d_out, d_in}, 1));
  const auto change = delta(one[0]);
  for (std::size_t i = 0; i < W.size(); ++i) W[i] += change[i];
  const auto merged = linear(x, D::from({d_out, d_in}, W), noise<double>({d_out}, 2));
  for (const auto& router : routers()) {
    CAPTURE(std::string(router_name(router)));
    const auto out = layer<double>(router, one)(x);
    for (const double g : doubles(out.gate.weights)) CHECK(g == 1);
    CHECK(worst_error(out.y, doubles(merged)) < 4e-15);
  }
}

TEST_CASE("With mean pooling X-LoRA scales whole sequences by their real tokens") {
  const auto mask = D::from({S, L}, {1, 1, 1, 1, 1, 1, 0, 0, 1, 0, 0, 0});
  const auto built = layer<double>(XLoraOptions{.pooling = Pooling::mean});
  const auto x = noise<double>({S, L, d_in});
  const auto logits = xlora_logits(built, x, 0);
  std::vector<Row> expected;
  const std::size_t lengths[] = {4, 2, 1};
  for (std::size_t s = 0; s < 3; ++s) {
    Row mean(3);
    // The classifier is linear here: the mean of its outputs is its output for the mean.
    for (std::size_t l = 0; l < lengths[s]; ++l)
      for (std::size_t i = 0; i < 3; ++i) mean[i] += logits[4 * s + l][i] / static_cast<double>(lengths[s]);
    expected.push_back(softmax_of(mean, all_columns));
  }
  const auto gate = built(x, mask).gate;
  CHECK(gate.weights.shape() == Shape{S, N});
  CHECK(worst_error(gate.weights, flat(expected)) < 1e-13);
}

TEST_CASE_TEMPLATE("Two-byte scalars route as double does, to their rounding", T, bf16, mole::half) {
  for (const auto& router : routers()) {
    CAPTURE(std::string(router_name(router)));
    const auto out = random_layer<T>(router)(noise<T>({S, L, d_in}));
    const auto exact = random_layer<double>(router)(noise<double>({S, L, d_in}));
    const double tolerance = std::same_as<T, bf16> ? 0.1 : 0.02;
    CHECK(worst_error(out.gate.weights, doubles(exact.gate.weights)) < tolerance);
    CHECK(worst_error(out.y, doubles(exact.y)) < tolerance);
  }
}

TEST_CASE("A router is one word, by type or by name") {
  const GateOptions policies{.scope = Scope::layer, .pooling = Pooling::mean, .top_k = 2, .temperature = 3};
  CHECK(std::get<GateOptions>(router_named("mole", policies)).input == GateInput::experts);
  CHECK(std::get<GateOptions>(router_named("hidden", policies)).input == GateInput::hidden);
  CHECK(std::get<ArrowOptions>(router_named("arrow", policies)).top_k == 2);
  const auto xlora = std::get<XLoraOptions>(router_named("xlora", policies));
  CHECK(xlora.scope == Scope::layer);
  CHECK(xlora.pooling == Pooling::mean);
  CHECK(xlora.temperature == 3);
  // Without policies each has its own defaults, whichever way it is chosen.
  const auto plain = std::get<XLoraOptions>(router_named("xlora"));
  CHECK(plain.scope == XLoraOptions{}.scope);
  CHECK(plain.pooling == XLoraOptions{}.pooling);
  CHECK(std::get<GateOptions>(router_named("mole")).scope == GateOptions{}.scope);
  CHECK(std::get<ArrowOptions>(router_named("arrow")).temperature == ArrowOptions{}.temperature);
  CHECK(lacks<ArgumentError>([] { router_named("x-lora"); },
                             {"x-lora", "mole", "hidden", "arrow", "xlora"}) == "");
}

TEST_CASE("Options that a router cannot follow are refused, naming why") {
  for (const auto& router : routers(4))
    CHECK(lacks<ArgumentError>([&] { layer<double>(router); }, {"top-k", "4", "3"}) == "");
  CHECK(lacks<ArgumentError>([] { layer<double>(ArrowOptions{.temperature = 0}); },
                             {"temperature", "above 0"}) == "");
  CHECK(lacks<ArgumentError>([] { layer<double>(XLoraOptions{.pooling = Pooling::flatten}); },
                             {"X-LoRA", "flatten"}) == "");
  CHECK(lacks<ArgumentError>([] { layer<double>(XLoraOptions{.depth = 0}); }, {"depth", "0"}) == "");
  CHECK(
      lacks<ArgumentError>(
          [] { layer<double>(XLoraOptions{.softmax = false, .top_k = 1, .renormalize = Renormalize::sum}); },
          {"softmax", "Renormalize"}) == "");
}
