// The gate kernels against the same made of unit rows, a product and a softmax on the processor, in double.

#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <limits>
#include <vector>

#include <mole/cuda.cuh>

#include "testing.hpp"

using namespace mole;
using namespace mole::testing;

namespace {

struct Case {
  Index rows, features, experts;
  int masked = 0;         ///< experts without weight: 0 none, 1 each second, 2 all
  bool gates = true;      ///< whether g has readers of its own
  bool gated = true;      ///< whether p is wanted
  bool add = false;       ///< whether v has a gradient already
  bool in_place = false;  ///< dp turns into dv
  bool biased = false;    ///< a constant for each expert joins the logits
};

constexpr double eps = 0.5;  // above the length of some rows

template <class T, class B>
Tensor<T, B> keep_of(const Case& c) {
  std::vector<T> keep;
  for (Index i = 0; i < c.experts; ++i)
    keep.push_back(T(c.masked == 0 || (c.masked == 1 && i % 2 == 0) ? 1 : 0));
  return Tensor<T, B>::from({c.experts}, keep);
}

/// Runs of unequal length, the last expert without a column where there are fewer features than experts.
template <class B>
Tensor<Index, B> expert_of(const Case& c) {
  std::vector<Index> of;
  for (Index j = 0; j < c.features; ++j)
    of.push_back(std::min(j * j * c.experts / (c.features * c.features), c.experts - 1));
  return Tensor<Index, B>::from({c.features}, of);
}

/// v with a short row and one of zeros, F, log_tau, and the gradients of g and p, as Rounded rounds them.
template <class Rounded, class T, class B>
std::vector<Tensor<T, B>> operands(const Case& c) {
  auto v = noise<Rounded, Cpu>({c.rows, c.features}, 1).to_host();
  for (std::size_t j = 0; j < static_cast<std::size_t>(c.features); ++j) {
    v[j] = Rounded(static_cast<double>(v[j]) * 0.01);
    if (c.rows > 1) v[static_cast<std::size_t>(c.features) + j] = Rounded(0.0);
  }
  auto made = [](const Shape& shape, const std::vector<Rounded>& x) {
    return Tensor<T, B>::from(shape, std::vector<T>(x.begin(), x.end()));
  };
  auto random = [&](const Shape& shape, std::uint64_t stream) {
    return made(shape, noise<Rounded, Cpu>(shape, stream).to_host());
  };
  return {made({c.rows, c.features}, v),   random({c.features, c.experts}, 2),
          made({}, {Rounded(0.3)}),        random({c.rows, c.experts}, 3),
          random({c.rows, c.features}, 4), random({c.rows, c.features}, 5)};
}

/// The constants of a biased case, as Rounded rounds them.
template <class Rounded, class V, class B>
Tensor<V, B> bias_of(const Case& c) {
  const auto x = noise<Rounded, Cpu>({c.experts}, 6).to_host();
  return Tensor<V, B>::from({c.experts}, std::vector<V>(x.begin(), x.end()));
}

using Results = std::vector<std::vector<double>>;  // g, p, dv, dF, dlog_tau, dbias

/// What the kernels of one gate take: v [rows, features], F [features, N], and what they make.
template <class T, class V>
GateForward<T> forward_of(const Tensor<T, Cuda>& v, const Tensor<T, Cuda>& F, const Tensor<T, Cuda>& log_tau,
                          const Tensor<T, Cuda>& g, const Tensor<V, Cuda>& norm) {
  GateForward<T> a{};
  a.gate[0] = {F.data(), log_tau.data(), nullptr, nullptr};
  a.gates = 1;
  a.v = v.data(), a.g = g.data(), a.norm = norm.data();
  a.rows = v.size(0), a.features = a.stride = v.size(1), a.experts = F.size(1), a.eps = V(eps);
  return a;
}
template <class T, class V>
GateBackward<T> backward_of(const Tensor<T, Cuda>& v, const Tensor<T, Cuda>& F,
                            const Tensor<T, Cuda>& log_tau, const Tensor<T, Cuda>& g,
                            const Tensor<V, Cuda>& norm, const Tensor<T, Cuda>& dF,
                            const Tensor<T, Cuda>& dlog_tau) {
  GateBackward<T> a{};
  a.gate[0] = {F.data(), log_tau.data(), nullptr, nullptr, dF.data(), dlog_tau.data(), false};
  a.gates = 1;
  a.v = v.data(), a.g = g.data(), a.norm = norm.data();
  a.rows = v.size(0), a.features = a.stride = v.size(1), a.experts = F.size(1), a.eps = V(eps);
  return a;
}

/// The backward pass reads `stored` as the gate, where it is given.
template <class T, class Rounded = T>
Results by_kernels(const Case& c, const std::vector<double>* stored = nullptr) {
  using V = Compute<T>;
  const auto in = operands<Rounded, T, Cuda>(c);
  const auto &v = in[0], &F = in[1], &log_tau = in[2], &dg = in[3], &dp = in[4], &before = in[5];
  const auto keep = keep_of<T, Cuda>(c);
  const auto of = expert_of<Cuda>(c);
  const V nan = std::numeric_limits<V>::quiet_NaN();
  auto unwritten = [&](const Tensor<T, Cuda>& like) { return Tensor<T, Cuda>::full(like.shape(), T(nan)); };
  const auto g = unwritten(dg), p = unwritten(v), dF = unwritten(F), dlog_tau = unwritten(log_tau);
  const auto norm = Tensor<V, Cuda>::full({c.rows}, nan);
  auto forward = forward_of(v, F, log_tau, g, norm);
  const auto bias = bias_of<Rounded, V, Cuda>(c), dbias = Tensor<V, Cuda>::full({c.experts}, nan);
  if (c.biased) forward.gate[0].bias = bias.data();
  forward.gate[0].keep = c.masked ? keep.data() : nullptr;
  forward.gate[0].expert = of.data();
  forward.p = c.gated ? p.data() : nullptr;
  REQUIRE(Cuda::gate_forward(forward));
  if (stored) g.assign(Tensor<T, Cuda>::from(g.shape(), std::vector<T>(stored->begin(), stored->end())));
  const auto dv = c.in_place ? dp.clone() : c.add ? before.clone() : unwritten(v);
  auto backward = backward_of(v, F, log_tau, g, norm, dF, dlog_tau);
  backward.gate[0].dg = c.gates ? dg.data() : nullptr;
  backward.gate[0].expert = of.data();
  backward.dp = !c.gated ? nullptr : c.in_place ? dv.data() : dp.data();
  backward.dv = dv.data();
  backward.add_dv = c.add;
  if (c.biased) backward.gate[0].bias = bias.data(), backward.gate[0].dbias = dbias.data();
  REQUIRE(Cuda::gate_backward(backward, NothingBeside{}));
  return {doubles(g),        c.gated ? doubles(p) : std::vector<double>{},     doubles(dv), doubles(dF),
          doubles(dlog_tau), c.biased ? doubles(dbias) : std::vector<double>{}};
}

template <class Rounded = double>
Results by_ops(const Case& c) {
  auto in = operands<Rounded, double, Cpu>(c);
  for (int i = 0; i < 3; ++i) in[static_cast<std::size_t>(i)].set_requires_grad();
  if (c.add) in[0].set_grad(in[5]);
  auto bias = bias_of<Rounded, double, Cpu>(c).set_requires_grad();
  const auto z = matmul(unit_rows(in[0], eps), in[1]);
  const auto g = softmax((c.biased ? z + bias : z) * exp(-in[2]),
                         c.masked ? keep_of<double, Cpu>(c) : Tensor<double, Cpu>());
  const auto p = in[0] * transpose(gather(transpose(g), expert_of<Cpu>(c)));
  auto seen = Tensor<double, Cpu>::scalar(0);
  if (c.gates) seen = seen + sum(g * in[3]);
  if (c.gated) seen = seen + sum(p * in[4]);
  backward(seen);
  return {doubles(g),
          c.gated ? doubles(p) : std::vector<double>{},
          doubles(in[0].grad()),
          doubles(in[1].grad()),
          doubles(in[2].grad()),
          c.biased ? doubles(bias.grad()) : std::vector<double>{}};
}

std::vector<Case> cases() {
  std::vector<Case> list;
  for (const Index experts : {1, 3, 4, 8})
    for (const Index features : {1, 5, 33, 64, 128, 200, 256}) {
      if (!Cuda::gate_fits<double>(features, experts)) continue;
      list.push_back({.rows = 7, .features = features, .experts = experts});
      list.push_back({.rows = 70, .features = features, .experts = experts, .masked = 1, .in_place = true});
      list.push_back({.rows = 9, .features = features, .experts = experts, .gates = false, .add = true});
      list.push_back({.rows = 1, .features = features, .experts = experts, .gated = false});
      list.push_back(
          {.rows = 3, .features = features, .experts = experts, .masked = 2, .gated = false, .add = true});
      list.push_back({.rows = 70, .features = features, .experts = experts, .masked = 1, .biased = true});
    }
  // More rows than the grid has warps: some take several.
  list.push_back({.rows = 20000, .features = 12, .experts = 3});
  list.push_back({.rows = 20000, .features = 12, .experts = 3, .biased = true});
  return list;
}

}  // namespace

TEST_CASE("The gate kernels equal the composite ops in double, with masks, short rows and every use of g") {
  for (const Case& c : cases()) {
    CAPTURE(message(c.rows, c.features, c.experts, c.masked, c.gates, c.gated, c.add, c.in_place, c.biased));
    const auto found = by_kernels<double>(c), expected = by_ops(c);
    for (std::size_t i = 0; i < found.size(); ++i) {
      CAPTURE(i);
      CHECK(worst_error(found[i], expected[i]) <= 1e-12);
    }
  }
}

TEST_CASE("The gate kernels in float equal those in double up to rounding") {
  for (const Case& c : cases()) {
    if (c.rows > 100) continue;  // dF sums over all rows
    CAPTURE(message(c.rows, c.features, c.experts, c.masked, c.gates, c.gated, c.add, c.in_place, c.biased));
    const auto found = by_kernels<float>(c), expected = by_kernels<double, float>(c);
    for (std::size_t i = 0; i < found.size(); ++i)
      CHECK(worst_error(found[i], expected[i]) <= 10 * tight<float>);
  }
}

/// Gates that fit in float and not in double.
std::vector<Case> wide_cases() {
  std::vector<Case> list;
  for (const auto& [features, experts] :
       {std::array<Index, 2>{512, 4}, {300, 3}, {256, 8}, {129, 7}, {128, 16}, {33, 9}, {5, 16}}) {
    list.push_back({.rows = 9, .features = features, .experts = experts});
    list.push_back({.rows = 70, .features = features, .experts = experts, .masked = 1, .in_place = true});
    list.push_back({.rows = 3, .features = features, .experts = experts, .gates = false, .add = true});
    list.push_back({.rows = 1, .features = features, .experts = experts, .gated = false});
    list.push_back({.rows = 9, .features = features, .experts = experts, .add = true, .biased = true});
  }
  return list;
}

TEST_CASE("Gates too large for double equal the composite ops in float") {
  for (const Case& c : wide_cases()) {
    CAPTURE(message(c.rows, c.features, c.experts, c.masked, c.gates, c.gated, c.add, c.in_place, c.biased));
    CHECK_FALSE(Cuda::gate_fits<double>(c.features, c.experts));
    const auto found = by_kernels<float>(c), expected = by_ops<float>(c);
    for (std::size_t i = 0; i < found.size(); ++i)
      CHECK(worst_error(found[i], expected[i]) <= 10 * tight<float>);
  }
}

TEST_CASE_TEMPLATE("Gates on bf16 and half are those of float, rounded when they are stored", T, mole::bf16,
                   mole::half) {
  const double step = std::same_as<T, mole::bf16> ? 0x1p-8 : 0x1p-11;
  auto all = cases();
  for (const Case& c : wide_cases()) all.push_back(c);
  for (const Case& c : all) {
    if (c.rows > 100) continue;
    CAPTURE(message(c.rows, c.features, c.experts, c.masked, c.gates, c.gated, c.add, c.in_place, c.biased));
    const auto found = by_kernels<T>(c), exact = by_kernels<float, T>(c);
    CHECK(worst_error(found[0], exact[0]) <= step);
    CHECK(worst_error(found[1], exact[1]) <= 2 * step);
    // The gradients are those of the gate as it was rounded, rounded themselves.
    const auto expected = by_kernels<float, T>(c, &found[0]);
    for (std::size_t i = 2; i < found.size(); ++i) {
      CAPTURE(i);
      CHECK(worst_error(found[i], expected[i]) <= step);
    }
  }
}

// The middle gate's F is frozen, the last one's experts are masked; dv goes over dp.
TEST_CASE("Several gates in one launch are those of a launch each") {
  constexpr int gates = 3;
  constexpr Index rows = 40, N = 4;
  for (const Index R : {6, 8}) {  // rows that are read number by number, and by fours
    CAPTURE(R);
    const Case one{.rows = rows, .features = R, .experts = N, .masked = 1};
    const auto keep = keep_of<double, Cuda>(one);
    const auto of = expert_of<Cuda>(one);
    const auto v = noise<double>({rows, gates * R}, 1), dp = noise<double>({rows, gates * R}, 2);
    const auto nan = [](const Shape& shape) {
      return Tensor<double, Cuda>::full(shape, std::numeric_limits<double>::quiet_NaN());
    };
    /// The gates [first, first + count), with what they read and write from the first one's columns on.
    const auto run = [&](int first, int count) {
      const Index stride = gates * R, column = first * R;
      const auto g = nan({count, rows, N}), norm = nan({count, rows}), p = nan(v.shape()), dv = dp.clone();
      GateForward<double> forward{};
      GateBackward<double> backward{};
      std::vector<Tensor<double, Cuda>> made{g, norm, p, dv}, parameters;
      for (int i = 0; i < count; ++i) {
        const auto stream = static_cast<std::uint64_t>(10 * (first + i));
        const auto F = noise<double>({R, N}, stream + 3), log_tau = noise<double>({}, stream + 4),
                   dg = noise<double>({rows, N}, stream + 5), dF = nan({R, N}), dlog_tau = nan({});
        const bool frozen = first + i == 1, masked = first + i == 2;
        forward.gate[i] = {F.data(), log_tau.data(), masked ? keep.data() : nullptr, of.data()};
        backward.gate[i] = {
            F.data(),        log_tau.data(), dg.data(), of.data(), frozen ? nullptr : dF.data(),
            dlog_tau.data(), false};
        if (!frozen) made.push_back(dF);
        made.push_back(dlog_tau);
        parameters.insert(parameters.end(), {F, log_tau, dg});
      }
      forward.gates = backward.gates = count;
      forward.rows = backward.rows = rows;
      forward.features = backward.features = R;
      forward.experts = backward.experts = N;
      forward.stride = backward.stride = stride;
      forward.eps = backward.eps = eps;
      forward.v = v.data() + column, forward.g = g.data(), forward.norm = norm.data();
      forward.p = p.data() + column;
      REQUIRE(Cuda::gate_forward(forward));
      backward.v = v.data() + column, backward.g = g.data(), backward.norm = norm.data();
      backward.dp = backward.dv = dv.data() + column;
      REQUIRE(Cuda::gate_backward(backward, NothingBeside{}));
      std::vector<std::vector<double>> values;
      for (const auto& x : made) values.push_back(doubles(x));
      return values;
    };
    const auto all = run(0, gates);
    std::size_t next = 4;
    for (int i = 0; i < gates; ++i) {
      CAPTURE(i);
      const auto alone = run(i, 1);
      const auto part = [&](std::size_t k, Index size) {
        return std::vector<double>(all[k].begin() + i * size, all[k].begin() + (i + 1) * size);
      };
      CHECK(worst_error(part(0, rows * N), alone[0]) <= 1e-14);
      CHECK(worst_error(part(1, rows), alone[1]) <= 1e-14);
      for (const std::size_t k : {2, 3})
        for (Index row = 0; row < rows; ++row)
          for (Index j = i * R; j < (i + 1) * R; ++j) {
            const auto at = static_cast<std::size_t>(row * gates * R + j);
            CHECK(std::abs(all[k][at] - alone[k][at]) <= 1e-13);
          }
      for (std::size_t k = 4; k < alone.size(); ++k) CHECK(worst_error(all[next++], alone[k]) <= 1e-13);
    }
    CHECK(next == all.size());
  }
}

TEST_CASE("More experts or features than the kernels are made for are left alone, to the composite ops") {
  for (const auto& [features, experts] : {std::array<Index, 2>{64, 33}, {8, 17}, {4096, 4}}) {
    const auto v = noise<float>({2, features}), F = noise<float>({features, experts}),
               tau = Tensor<float, Cuda>::scalar(0);
    const auto g = Tensor<float, Cuda>::full({2, experts}, 7), norm = Tensor<float, Cuda>::full({2}, 7);
    CHECK_FALSE(Cuda::gate_forward(forward_of(v, F, tau, g, norm)));
    auto backward = backward_of(v, F, tau, g, norm, g, norm);
    backward.gate[0].dg = g.data();
    CHECK_FALSE(Cuda::gate_backward(backward, NothingBeside{}));
    CHECK_FALSE(Cuda::gate_fits<float>(features, experts));
    CHECK(g.to_host() == std::vector<float>(static_cast<std::size_t>(2 * experts), 7));
    CHECK(norm.to_host() == std::vector<float>(2, 7));
  }
}

TEST_CASE("The gate's gradients are the same bits each time, and can be added to what is there") {
  const Case c{.rows = 999, .features = 24, .experts = 8, .gated = false};
  const auto in = operands<float, float, Cuda>(c);
  const auto g = Tensor<float, Cuda>::empty({c.rows, c.experts}), norm = Tensor<float, Cuda>::empty({c.rows});
  REQUIRE(Cuda::gate_forward(forward_of(in[0], in[1], in[2], g, norm)));
  std::vector<std::vector<float>> found;
  for (const bool add : {false, false, true}) {
    const auto dF = Tensor<float, Cuda>::ones(in[1].shape()), dlog_tau = Tensor<float, Cuda>::empty({});
    auto backward = backward_of(in[0], in[1], in[2], g, norm, dF, dlog_tau);
    backward.gate[0].dg = in[3].data();
    backward.gate[0].add_dF = add;
    REQUIRE(Cuda::gate_backward(backward, NothingBeside{}));
    found.push_back(dF.to_host());
    found.push_back(dlog_tau.to_host());
  }
  CHECK(found[0] == found[2]);
  CHECK(found[1] == found[3]);
  for (std::size_t i = 0; i < found[0].size(); ++i) CHECK(found[4][i] == found[0][i] + 1);
}
