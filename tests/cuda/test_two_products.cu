// The kernels for a mixture's two products against the same sums in double on the processor, and layers with them and
// without. For many rows a device that is no Hopper, or code that is not for sm_90a, has no such kernel: that is said.

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <type_traits>
#include <vector>

#include <mole/cuda.cuh>
#include <mole/experts/ops/mixtures_off_tape.hpp>

#include "cuda/bf16_layer.cuh"
#include "testing.hpp"

using namespace mole;
using namespace mole::testing;

namespace {

struct Sizes {
  Index rows, columns, inner0, inner1;
  int count = 1;
  bool across = false, biased = false, add = false;
};

/// Its operands: A1 of all i side by side.
template <class T>
struct Operands {
  Sizes s;
  Tensor<T, Cuda> a0, a1, b0, b1, c, d;

  explicit Operands(const Sizes& sizes)
      : s(sizes),
        a0(noise<T, Cuda>({s.rows, s.inner0}, 1)),
        a1(noise<T, Cuda>({s.rows, s.count * s.inner1}, 2)),
        b0(noise<T, Cuda>({s.count, s.columns * s.inner0}, 3)),
        b1(noise<T, Cuda>({s.count, s.columns * s.inner1}, 4)),
        c(noise<T, Cuda>({s.count, s.columns}, 5)),
        d(noise<T, Cuda>({s.count * s.rows, s.columns}, 6)) {}

  TwoProducts<T> call() const {
    TwoProducts<T> a{.a0 = a0.data(),
                     .b0 = b0.data(),
                     .a1 = a1.data(),
                     .b1 = b1.data(),
                     .d = d.data(),
                     .rows = s.rows,
                     .columns = s.columns,
                     .inner0 = s.inner0,
                     .inner1 = s.inner1,
                     .stride1 = s.count * s.inner1,
                     .count = s.count,
                     .across = s.across,
                     .add = s.add};
    for (int i = 0; s.biased && i < s.count; ++i) a.c[i] = c.data() + i * s.columns;
    return a;
  }

  /// The sums in double, of what d holds now.
  std::vector<double> expected() const {
    const auto A0 = doubles(a0), A1 = doubles(a1), B0 = doubles(b0), B1 = doubles(b1), C = doubles(c),
               before = doubles(d);
    std::vector<double> sums(before.size());
    const auto at = [](Index i) { return static_cast<std::size_t>(i); };
    for (Index i = 0; i < s.count; ++i) {
#pragma omp parallel for
      for (Index row = 0; row < s.rows; ++row) {
        double* const out = sums.data() + (i * s.rows + row) * s.columns;
        for (Index j = 0; j < s.columns; ++j)
          out[j] = (s.biased ? C[at(i * s.columns + j)] : 0) +
                   (s.add ? before[at((i * s.rows + row) * s.columns + j)] : 0);
        const auto multiply = [&](const double* a, const double* b, Index inner) {
          for (Index k = 0; k < inner; ++k)
            for (Index j = 0; j < s.columns; ++j)
              out[j] += a[k] * (s.across ? b[k * s.columns + j] : b[j * inner + k]);
        };
        multiply(A0.data() + row * s.inner0, B0.data() + i * s.columns * s.inner0, s.inner0);
        multiply(A1.data() + row * s.count * s.inner1 + i * s.inner1, B1.data() + i * s.columns * s.inner1,
                 s.inner1);
      }
    }
    return sums;
  }
};

/// Whether this device and build have the kernel; says so where not.
bool has_kernel() {
  const Operands<bf16> any({8192, 512, 64, 64});
  if (detail::two_products_fit<Cuda>(any.call())) return true;
  MESSAGE("no kernel for two products here: the device is no Hopper, or the build not for sm_90a");
  return false;
}

}  // namespace

namespace {

/// The kernel's numbers beside those of the processor: how far at most, in units of half a unit of T's last bit and of
/// what sums of Compute<T> lose; all of them written, and the same bits again.
template <class T>
void check_products(const Sizes& s) {
  CAPTURE(message(s.rows, s.columns, s.inner0, s.inner1, s.count, s.across, s.biased, s.add));
  const Operands<T> o(s);
  const auto a = o.call();
  REQUIRE(detail::two_products_fit<Cuda>(a));
  const auto expected = o.expected();
  const auto start = o.d.clone();
  if (!s.add) Cuda::poison(o.d.data(), static_cast<std::size_t>(o.d.size()) * sizeof(T));
  Cuda::two_products(a);
  const auto found = doubles(o.d);
  const double half_unit = std::is_same_v<T, bf16>         ? 1.0 / 256
                           : std::is_same_v<T, mole::half> ? 1.0 / 2048
                                                           : 0,
               sums = std::is_same_v<T, double> ? 1e-11 : 1e-3;
  double worst = 0;
  for (std::size_t i = 0; i < found.size(); ++i) {
    const double error = std::abs(found[i] - expected[i]) / (std::abs(expected[i]) * half_unit + sums);
    worst = std::isnan(error) ? INFINITY : std::max(worst, error);
  }
  CHECK(worst <= 1);
  Cuda::copy(o.d.data(), start.data(), o.d.size());
  Cuda::two_products(a);
  CHECK(doubles(o.d) == found);
  // Tiles of other widths add up in the same order.
  const auto by_width = [&](auto across) {
    detail::for_tile_widths<across()>([&](auto width, Index) {
      CAPTURE(width());
      Cuda::poison(o.d.data(), static_cast<std::size_t>(o.d.size()) * sizeof(T));
      if (s.add) Cuda::copy(o.d.data(), start.data(), o.d.size());
      detail::launch_tiles<width(), decltype(across)::value>(a);
      CHECK(doubles(o.d) == found);
    });
  };
  if constexpr (std::is_same_v<T, bf16>)
    if (s.rows > 8) s.across ? by_width(std::true_type()) : by_width(std::false_type());
}

}  // namespace

TEST_CASE("One kernel for two products gives their sum, rounded once, for any extents that it takes") {
  if (!has_kernel()) return;
  std::vector<Sizes> all{
      {1024, 1024, 512, 128},  {8192, 512, 64, 64},
      {1000, 1536, 264, 8},    {4097, 640, 72, 24},
      {777, 2056, 1000, 256},  {3000, 1032, 128, 120, 1, false, true},
      {1500, 776, 768, 64, 3}, {2001, 520, 200, 40, 4, false, true},
      {6144, 1024, 64, 128},
  };
  const auto forth = all;
  for (auto s : forth) {  // and back
    s.across = true;
    all.push_back(s);
    s.add = true;
    all.push_back(s);
  }
  for (const auto& s : all) check_products<bf16>(s);
}

TEST_CASE_TEMPLATE("A few rows are multiplied with both weights in one kernel on any device", T, float,
                   double, bf16, mole::half) {
  for (Index rows = 1; rows <= 8; ++rows)
    check_products<T>({rows, 1000, 4096, 128, 1, false, rows % 2 == 0, rows % 3 == 0});
  check_products<T>({1, 72, 8, 8, 4, false, true});
  // Rows of one chunk and of several, and more rows than warps.
  for (const Index inner : {8, 1032, 4096, 11008, 20000, 120000})
    check_products<T>({1, inner > 20000 ? 40 : 2200, inner, 72, 2, false, inner % 64 == 0, inner > 4096});
  check_products<T>({3, 5, 1032, 72, 2});
}

TEST_CASE_TEMPLATE("A product of a row with a large weight is the one in double", T, float, bf16,
                   mole::half) {
  const Index columns = 602, inner = 520;
  const auto W = noise<T, Cuda>({columns, inner}, 1), x = noise<T, Cuda>({1, inner}, 2),
             start = noise<T, Cuda>({1, columns}, 3);
  const auto w = doubles(W), a = doubles(x), c = doubles(start);
  const double half_unit = std::is_same_v<T, bf16>         ? 1.0 / 256
                           : std::is_same_v<T, mole::half> ? 1.0 / 2048
                                                           : 0;
  for (const bool add : {false, true}) {
    CAPTURE(add);
    const auto y = start.clone();
    if (!add) Cuda::poison(y.data(), static_cast<std::size_t>(y.size()) * sizeof(T));
    REQUIRE(detail::product_of_a_row(detail::gemm_nt(1, columns, inner, add), x.data(), W.data(), y.data()));
    const auto found = doubles(y);
    double worst = 0;
    for (std::size_t i = 0; i < found.size(); ++i) {
      double expected = add ? c[i] : 0;
      for (std::size_t k = 0; k < a.size(); ++k) expected += a[k] * w[i * a.size() + k];
      const double error = std::abs(found[i] - expected) / (std::abs(expected) * half_unit + 1e-3);
      worst = std::isnan(error) ? INFINITY : std::max(worst, error);
    }
    CHECK(worst <= 1);
  }
  const auto y = start.clone();
  const auto taken = [&](const Gemm& g) { return detail::product_of_a_row(g, x.data(), W.data(), y.data()); };
  CHECK_FALSE(taken(detail::gemm_nt(2, columns, inner)));
  CHECK_FALSE(taken(detail::gemm_nt(1, 8, inner)));
  CHECK_FALSE(taken(detail::gemm_nn(1, inner, columns)));
  Gemm scaled = detail::gemm_nt(1, columns, inner);
  scaled.alpha = 2;
  CHECK_FALSE(taken(scaled));
}

TEST_CASE_TEMPLATE("A few rows of layers off the tape, with experts and without, are those on it", T, float,
                   double, bf16, mole::half) {
  const Index d_in = 264, N = 3, widths[] = {40, 9, 203}, ranks[] = {24, 0, 40};
  const auto as_double = [](const Tensor<T, Cuda>& value) {
    return Tensor<double, Cuda>::from(value.shape(), doubles(value));
  };
  const double tolerance = std::is_same_v<T, double>       ? 1e-12
                           : std::is_same_v<T, float>      ? 1e-5
                           : std::is_same_v<T, mole::half> ? 2e-3
                                                           : 1e-2;
  for (const bool per_token : {false, true})
    for (const auto& [S, L] : {std::pair<Index, Index>{1, 1}, {3, 1}, {3, 2}}) {
      CAPTURE(message(per_token, S, L));
      const auto x = noise<T, Cuda>({S, L, d_in}, 5);
      std::vector<KnownMixture<T, Cuda>> layers;
      std::vector<std::vector<double>> expected;
      for (int i = 0; i < 3; ++i) {
        const auto seed = static_cast<unsigned>(10 * i + 10);
        const auto W = noise<T, Cuda>({widths[i], d_in}, seed);
        KnownMixture<T, Cuda> layer{.W = W};
        if (i != 1) layer.c = noise<T, Cuda>({widths[i]}, seed + 1);
        const auto X = as_double(x), c = layer.c.defined() ? as_double(layer.c) : Tensor<double, Cuda>();
        if (ranks[i] == 0) {
          expected.push_back(doubles(linear(X, as_double(W), c)));
        } else {
          layer.A = noise<T, Cuda>({ranks[i], d_in}, seed + 2);
          layer.Q = noise<T, Cuda>({widths[i], ranks[i]}, seed + 3);
          layer.g = noise<T, Cuda>(per_token ? Shape{S, L, N} : Shape{S, N}, seed + 4);
          std::vector<Index> of;
          for (Index j = 0; j < ranks[i]; ++j) of.push_back(j * N / ranks[i]);
          layer.column = Tensor<Index, Cuda>::from({ranks[i]}, of);
          expected.push_back(
              doubles(mixture(X, FrozenWeight<double, Cuda>(as_double(W)), c, linear(X, as_double(layer.A)),
                              as_double(layer.g), as_double(layer.Q), layer.column)));
        }
        layers.push_back(layer);
      }
      const auto y = mixtures_off_tape(x, layers);
      REQUIRE(y.size() == 3);
      for (std::size_t i = 0; i < 3; ++i) {
        double size = 0;
        for (const double v : expected[i]) size = std::max(size, std::abs(v));
        CHECK(worst_error(doubles(y[i]), expected[i]) <= tolerance * size);
      }
      // One launch right behind another, in memory that the one before has just left.
      for (int again = 0; again < 20; ++again) {
        const auto z = mixtures_off_tape(x, layers, again % 2 == 1);
        for (std::size_t i = 0; i < 3; ++i) CHECK(doubles(z[i]) == doubles(y[i]));
      }
      auto trained = x.clone();
      trained.set_requires_grad();
      CHECK(mixtures_off_tape(trained, layers).empty());
    }
}

TEST_CASE_TEMPLATE("Large layers without experts are one launch for one row, and cuBLAS's for two", T, float,
                   bf16, mole::half) {
  const Index d_in = 512, widths[] = {300, 9, 404};
  std::vector<KnownMixture<T, Cuda>> layers;
  for (const Index width : widths)
    layers.push_back({.W = noise<T, Cuda>({width, d_in}, static_cast<unsigned>(width))});
  const auto x = noise<T, Cuda>({1, 1, d_in}, 5);
  const auto y = mixtures_off_tape(x, layers);
  REQUIRE(y.size() == 3);
  for (std::size_t i = 0; i < 3; ++i)
    CHECK(doubles(y[i]) == doubles(mixtures_off_tape(x, {layers[i], layers[0], layers[2]}).front()));
  CHECK(mixtures_off_tape(noise<T, Cuda>({2, 1, d_in}, 5), layers).empty());
  CHECK(mixtures_off_tape(x, {layers[1]}).empty());
}

TEST_CASE("Extents that the copy engine cannot read, few tiles and other types are left to cuBLAS") {
  const auto fits = [](const Sizes& s) { return detail::two_products_fit<Cuda>(Operands<bf16>(s).call()); };
  CHECK_FALSE(fits({8192, 512, 64, 4}));
  CHECK_FALSE(fits({8192, 516, 64, 64}));
  CHECK_FALSE(fits({8192, 512, 100, 64}));
  CHECK_FALSE(fits({16, 512, 64, 64}));
  auto shifted = Operands<bf16>({8192, 512, 64, 64}).call();
  ++shifted.a0;
  CHECK_FALSE(detail::two_products_fit<Cuda>(shifted));
  CHECK_FALSE(detail::two_products_fit<Cuda>(
      TwoProducts<float>{.rows = 8192, .columns = 512, .inner0 = 64, .inner1 = 64, .stride1 = 64}));
}

TEST_CASE("A layer in bf16 is no further from double with the kernel than without it") {
  if (!has_kernel()) return;
  struct Way {
    Index N, r;
    Pooling pooling;
  };
  for (const Way& way :
       {Way{8, 16, Pooling::token}, Way{20, 16, Pooling::token}, Way{8, 16, Pooling::mean}}) {
    CAPTURE(message(way.N, way.pooling == Pooling::token));
    const auto run = [&]<class T>(T) { return layer_step<T>({4, 512}, 256, 512, way.N, way.r, way.pooling); };
    const auto exact = run(double()), with = run(bf16());
    Cuda::use_two_products() = false;
    const auto without = run(bf16());
    Cuda::use_two_products() = true;
    CHECK(with[0] != without[0]);  // rounded once, not twice
    // y, dx and dF; log_tau's gradient is one number.
    for (std::size_t i = 0; i < 3; ++i) {
      CAPTURE(i);
      CHECK(relative_distance(with[i], exact[i]) <= 1.02 * relative_distance(without[i], exact[i]) + 1e-12);
    }
  }
}
