// A gate's kernels that make the product they read, against the product in double on the processor and the gate's kernels
// in float; and layers with them and without. A device that is no Hopper, or code that is not for sm_90a, has no such
// kernel: that is said.

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include <mole/cuda.cuh>

#include "cuda/bf16_layer.cuh"
#include "testing.hpp"

using namespace mole;
using namespace mole::testing;

namespace {

constexpr double last_bit = 1.0 / 256;

struct Sizes {
  Index rows, inner, features, experts;
  int gates = 1;
  bool masked = false, biased = false, gates_read = false, add = false, wanted = true;
};

template <class T>
Tensor<T, Cuda> noise_of_size(const Shape& shape, std::uint64_t stream, Index inner = 1) {
  return Tensor<T, Cuda>::randn(shape, {4711, stream},
                                static_cast<Compute<T>>(1 / std::sqrt(static_cast<double>(inner))));
}

/// The same numbers in float.
Tensor<float, Cuda> floats(const Tensor<bf16, Cuda>& x) {
  const auto values = x.to_host();
  return Tensor<float, Cuda>::from(x.shape(), std::vector<float>(values.begin(), values.end()));
}

/// Filled with what no result is.
template <class T>
Tensor<T, Cuda> unwritten(const Shape& shape) {
  const auto x = Tensor<T, Cuda>::empty(shape);
  Cuda::poison(x.data(), static_cast<std::size_t>(x.size()) * sizeof(T));
  return x;
}

/// Operands of the gates, and what the kernels make of them.
template <class T>
struct Gates {
  Sizes s;
  Index stride;
  Tensor<T, Cuda> F, log_tau, keep, dg;
  Tensor<float, Cuda> bias, norm, dbias;
  Tensor<Index, Cuda> expert;
  Tensor<T, Cuda> v, g, p, dv, dF, dlog_tau;

  explicit Gates(const Sizes& sizes)
      : s(sizes),
        stride(sizes.gates * sizes.features),
        bias(noise_of_size<float>({s.gates, s.experts}, 4)),
        norm(unwritten<float>({s.gates, s.rows})),
        dbias(unwritten<float>({s.gates, s.experts})),
        v(unwritten<T>({s.rows, stride})),
        g(unwritten<T>({s.gates, s.rows, s.experts})),
        p(unwritten<T>({s.rows, stride})),
        dv(unwritten<T>({s.rows, stride})),
        dlog_tau(unwritten<T>({s.gates})) {
    const auto as = [](const Tensor<bf16, Cuda>& x) {
      const auto values = x.to_host();
      return Tensor<T, Cuda>::from(x.shape(), std::vector<T>(values.begin(), values.end()));
    };
    F = as(noise_of_size<bf16>({s.gates, s.features * s.experts}, 1));
    log_tau = as(noise_of_size<bf16>({s.gates}, 2, 16));
    dg = as(noise_of_size<bf16>({s.gates, s.rows, s.experts}, 3));
    dF = s.add ? F.clone() : unwritten<T>(F.shape());
    std::vector<T> kept;
    for (Index i = 0; i < s.experts; ++i) kept.push_back(T(i % 2 == 0 ? 1.0 : 0.0));
    keep = Tensor<T, Cuda>::from({s.experts}, kept);
    // Runs of unequal length, the last expert without a column where there are few.
    std::vector<Index> of;
    for (Index j = 0; j < s.features; ++j)
      of.push_back(std::min(j * j * s.experts / (s.features * s.features), s.experts - 1));
    expert = Tensor<Index, Cuda>::from({s.features}, of);
  }

  GateForward<T> forward() const {
    GateForward<T> a{};
    for (int i = 0; i < s.gates; ++i)
      a.gate[i] = {F.data() + i * s.features * s.experts, log_tau.data() + i,
                   s.masked && i != 1 ? keep.data() : nullptr, expert.data(),
                   s.biased && i != 1 ? bias.data() + i * s.experts : nullptr};
    a.gates = s.gates, a.v = v.data(), a.g = g.data(), a.norm = norm.data(), a.p = p.data();
    a.rows = s.rows, a.features = s.features, a.experts = s.experts, a.stride = stride, a.eps = 1e-3F;
    return a;
  }

  GateBackward<T> backward() const {
    GateBackward<T> a{};
    const Index size = s.features * s.experts;
    for (int i = 0; i < s.gates; ++i)
      a.gate[i] = {F.data() + i * size,
                   log_tau.data() + i,
                   s.gates_read && i != 1 ? dg.data() + i * s.rows * s.experts : nullptr,
                   expert.data(),
                   s.gates > 2 && i == 2 ? nullptr : dF.data() + i * size,
                   dlog_tau.data() + i,
                   s.add,
                   s.biased && i != 1 ? bias.data() + i * s.experts : nullptr,
                   s.biased && i != 1 ? dbias.data() + i * s.experts : nullptr};
    a.gates = s.gates, a.v = v.data(), a.g = g.data(), a.norm = norm.data();
    a.dv = s.wanted ? dv.data() : nullptr;
    a.rows = s.rows, a.features = s.features, a.experts = s.experts, a.stride = stride, a.eps = 1e-3F;
    return a;
  }
};

/// The product of a [rows, inner] with b's `gates` matrices in double: [features, inner] each, or [inner, features].
std::vector<double> product(const Sizes& s, const std::vector<std::vector<double>>& a,
                            const std::vector<double>& b, bool across) {
  const Index stride = s.gates * s.features;
  std::vector<double> made(static_cast<std::size_t>(s.rows * stride));
#pragma omp parallel for
  for (Index row = 0; row < s.rows; ++row)
    for (int i = 0; i < s.gates; ++i) {
      const double* const from = a[across ? static_cast<std::size_t>(i) : 0].data() + row * s.inner;
      const double* const matrix = b.data() + i * s.inner * s.features;
      double* const to = made.data() + row * stride + i * s.features;
      for (Index k = 0; k < s.inner; ++k)
        for (Index j = 0; j < s.features; ++j)
          to[j] += from[k] * (across ? matrix[k * s.features + j] : matrix[j * s.inner + k]);
    }
  return made;
}

/// The largest |a - b| / (unit |b| + rest): `rest` stands for what float loses in sums of numbers of b's size.
double distance(const std::vector<double>& a, const std::vector<double>& b, double unit, double lost) {
  double squares = 0, worst = 0;
  for (const double x : b) squares += x * x;
  const double rest = lost * std::sqrt(squares / static_cast<double>(std::max<std::size_t>(b.size(), 1)));
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (a[i] == b[i]) continue;
    const double error = std::abs(a[i] - b[i]) / (std::abs(b[i]) * unit + rest);
    worst = std::isnan(error) ? INFINITY : std::max(worst, error);
  }
  return worst;
}

/// Whether this device and build have the kernels; says so where not.
bool has_kernel() {
  const GateProduct<bf16> any{.a = {nullptr},
                              .b = nullptr,
                              .made = nullptr,
                              .rows = 8192,
                              .inner = 64,
                              .features = 64,
                              .experts = 4,
                              .stride = 64,
                              .gates = 1,
                              .back = false};
  if (Cuda::gate_product_fits(any)) return true;
  MESSAGE("no gates with their product here: the device is no Hopper, or the build not for sm_90a");
  return false;
}

void check(const Sizes& s) {
  CAPTURE(message(s.rows, s.inner, s.features, s.experts, s.gates, s.masked, s.biased, s.gates_read, s.add));
  const Gates<bf16> o(s);
  const auto x = noise_of_size<bf16>({s.rows, s.inner}, 11),
             A = noise_of_size<bf16>({s.gates, s.features * s.inner}, 12, s.inner),
             Q = noise_of_size<bf16>({s.gates, s.features * s.inner}, 13, s.inner);
  std::vector<Tensor<bf16, Cuda>> G;
  for (int i = 0; i < s.gates; ++i)
    G.push_back(noise_of_size<bf16>({s.rows, s.inner}, 20 + static_cast<std::uint64_t>(i)));
  GateProduct<bf16> forth{.a = {x.data()},
                          .b = A.data(),
                          .made = o.v.data(),
                          .rows = s.rows,
                          .inner = s.inner,
                          .features = s.features,
                          .experts = s.experts,
                          .stride = o.stride,
                          .gates = s.gates,
                          .back = false};
  const bool made_forth = Cuda::gate_product_fits(forth);
  REQUIRE(made_forth == (s.features <= 64));
  const auto exact_v = product(s, {doubles(x)}, doubles(A), false);
  if (made_forth) {
    Cuda::gate_product_forward(o.forward(), forth);
  } else {
    o.v.assign(Tensor<bf16, Cuda>::from(o.v.shape(), std::vector<bf16>(exact_v.begin(), exact_v.end())));
    REQUIRE(Cuda::gate_forward(o.forward()));
  }
  CHECK(distance(doubles(o.v), exact_v, last_bit, 1e-3) <= 1);
  // The gates are those of v as it was rounded.
  Gates<float> f(s);
  f.v = floats(o.v);
  REQUIRE(Cuda::gate_forward(f.forward()));
  CHECK(worst_error(doubles(o.norm), doubles(f.norm)) <= 1e-5);
  CHECK(worst_error(doubles(o.g), doubles(f.g)) <= last_bit);
  CHECK(worst_error(doubles(o.p), doubles(f.p)) <= 2 * last_bit);
  if (made_forth) {
    const std::vector found{doubles(o.v), doubles(o.g), doubles(o.norm), doubles(o.p)};
    for (const auto& made : {o.v, o.g, o.p})
      Cuda::poison(made.data(), static_cast<std::size_t>(made.size()) * sizeof(bf16));
    Cuda::gate_product_forward(o.forward(), forth);
    CHECK(std::vector{doubles(o.v), doubles(o.g), doubles(o.norm), doubles(o.p)} == found);
  }

  auto back = forth;
  back.b = Q.data(), back.back = true;
  std::vector<std::vector<double>> of_G;
  for (int i = 0; i < s.gates; ++i) {
    back.a[i] = G[static_cast<std::size_t>(i)].data();
    of_G.push_back(doubles(G[static_cast<std::size_t>(i)]));
  }
  REQUIRE(Cuda::gate_product_fits(back));
  Cuda::gate_product_backward(o.backward(), back, NothingBeside{});
  const auto dp = product(s, of_G, doubles(Q), true);
  const auto dP = Tensor<float, Cuda>::from({s.rows, o.stride}, std::vector<float>(dp.begin(), dp.end()));
  f.g = floats(o.g), f.norm = o.norm.clone();
  auto expected = f.backward();
  expected.dp = dP.data();
  REQUIRE(Cuda::gate_backward(expected, NothingBeside{}));
  const auto results = [&] {
    std::vector<std::vector<double>> all{doubles(o.dF), doubles(o.dlog_tau)};
    if (s.wanted) all.push_back(doubles(o.dv));
    if (s.biased) all.push_back(doubles(o.dbias));
    return all;
  };
  const auto found = results();
  // Of each gate by itself: sums that nobody wants are not written.
  const auto part = [&](const std::vector<double>& all, int i) {
    const auto each = static_cast<std::ptrdiff_t>(all.size()) / s.gates;
    return std::vector<double>(all.begin() + i * each, all.begin() + (i + 1) * each);
  };
  const auto check_parts = [&](const std::vector<double>& ours, const std::vector<double>& exact, int but) {
    for (int i = 0; i < s.gates; ++i)
      if (i != but) CHECK(distance(part(ours, i), part(exact, i), last_bit, 2e-3) <= 1);
  };
  check_parts(found[0], doubles(f.dF), 2);
  check_parts(found[1], doubles(f.dlog_tau), -1);
  if (s.wanted) CHECK(distance(found[2], doubles(f.dv), last_bit, 2e-3) <= 1);
  if (s.biased) check_parts(found.back(), doubles(f.dbias), 1);
  for (int again = 0; again < 3; ++again) {
    if (s.add) Cuda::copy(o.dF.data(), o.F.data(), o.F.size());
    Cuda::poison(o.dv.data(), static_cast<std::size_t>(o.dv.size()) * sizeof(bf16));
    Cuda::gate_product_backward(o.backward(), back, NothingBeside{});
    const auto next = results();
    for (std::size_t i = 0; i < next.size(); ++i)
      for (int k = 0; k < s.gates; ++k)
        if (!(i == 0 && k == 2) && !(i == 3 && k == 1) && !(i == 2 && s.biased && !s.wanted && k == 1))
          CHECK(part(next[i], k) == part(found[i], k));
  }
}

}  // namespace

TEST_CASE("Gates that make the product they read are those of the product, and so are their gradients") {
  if (!has_kernel()) return;
  for (const Sizes& s : {
           Sizes{6000, 64, 64, 4},
           Sizes{6144, 768, 24, 3},
           Sizes{5700, 1024, 128, 4},
           Sizes{5634, 72, 8, 1},
           Sizes{5999, 8, 48, 3, 1, true, false, true},
           Sizes{5800, 200, 96, 3, 1, false, true, true, true},
           Sizes{6001, 136, 120, 4, 1, true, true},
           Sizes{2000, 264, 64, 4, 3, true, true, true},
           Sizes{1430, 520, 40, 3, 4, true, false, true, true},
           Sizes{2047, 512, 128, 4, 3, false, true, false, false, false},
       })
    check(s);
}

TEST_CASE("Products and gates of other extents and types are left to cuBLAS and the gates' own kernels") {
  if (!has_kernel()) return;
  const auto fits = [](const Sizes& s) {
    return Cuda::gate_product_fits(GateProduct<bf16>{.a = {nullptr},
                                                     .b = nullptr,
                                                     .made = nullptr,
                                                     .rows = s.rows,
                                                     .inner = s.inner,
                                                     .features = s.features,
                                                     .experts = s.experts,
                                                     .stride = s.gates * s.features,
                                                     .gates = s.gates,
                                                     .back = false});
  };
  CHECK(fits({8192, 64, 64, 4}));
  CHECK_FALSE(fits({8192, 60, 64, 4}));
  CHECK_FALSE(fits({8192, 64, 60, 4}));
  CHECK_FALSE(fits({8192, 64, 72, 4}));
  CHECK_FALSE(fits({8192, 64, 64, 5}));
  CHECK_FALSE(fits({4096, 64, 64, 4}));
  CHECK_FALSE(Cuda::gate_product_fits(GateProduct<float>{}));
}

TEST_CASE("A layer in bf16 is no further from double with the gate's product in one kernel than without") {
  if (!has_kernel()) return;
  const auto run = []<class T>(T, Index N, Index r) {
    return layer_step<T>({12, 512}, 256, 512, N, r, Pooling::token);
  };
  for (const auto& [N, r] : {std::pair<Index, Index>{3, 8}, {4, 32}, {2, 40}}) {
    CAPTURE(N);
    const auto exact = run(double(), N, r), with = run(bf16(), N, r);
    Cuda::use_gate_products() = false;
    const auto without = run(bf16(), N, r);
    Cuda::use_gate_products() = true;
    // y and dx; log_tau's gradient is one number.
    for (std::size_t i = 0; i < 2; ++i) {
      CAPTURE(i);
      CHECK(relative_distance(with[i], exact[i]) <= 1.02 * relative_distance(without[i], exact[i]) + 1e-12);
    }
    CHECK(relative_distance(with[3], exact[3]) <= 0.02);
  }
}

// One dF has some dozens of numbers, whose roundings scatter by a tenth.
TEST_CASE(
    "The dF of many layers are no further from double with the gate's product in one kernel than without") {
  if (!has_kernel()) return;
  const Index d_in = 256, d_out = 512;
  const auto gradients = [&]<class T>(T, Index N, Index r) {
    const auto x = bf16_noise<T>({12, 512, d_in}, 1), G = bf16_noise<T>({12, 512, d_out}, 5);
    std::vector<double> all;
    for (std::uint64_t seed = 0; seed < 64; ++seed) {
      auto layer = bf16_layer<T>(d_in, d_out, N, r, Pooling::token, seed);
      backward(layer(x).y, G);
      for (const double g : doubles(layer.gate().weight.grad())) all.push_back(g);
    }
    return all;
  };
  for (const auto& [N, r] : {std::pair<Index, Index>{3, 8}, {4, 32}, {2, 40}}) {
    const auto exact = gradients(double(), N, r), with = gradients(bf16(), N, r);
    Cuda::use_gate_products() = false;
    const auto without = gradients(bf16(), N, r);
    Cuda::use_gate_products() = true;
    const double found = relative_distance(with, exact), bound = relative_distance(without, exact);
    CAPTURE(message(N, found, bound));
    CHECK(found <= 1.02 * bound);
  }
}
