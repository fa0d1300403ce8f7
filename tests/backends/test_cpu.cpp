// The primitives of the Cpu backend against loops, at awkward sizes and for one to four threads.

#include <doctest/doctest.h>
#include <omp.h>

#include <algorithm>
#include <string>
#include <vector>

#include <mole/backends/cpu.hpp>

#include "testing.hpp"

using namespace mole;
using namespace mole::testing;

namespace {

/// f() for one to four threads: all equal to the bit?
template <class F>
bool same_for_any_threads(F f) {
  const int before = omp_get_max_threads();
  omp_set_num_threads(1);
  const auto one = f();
  bool same = true;
  for (const int threads : {2, 3, 4}) {
    omp_set_num_threads(threads);
    same = same && f() == one;
  }
  omp_set_num_threads(before);
  return same;
}

template <class T>
struct SoftRow {
  const T* x;
  T* y;
  Index n;
  template <class Row>
  void operator()(const Row& row) const {
    const T* from = x + row.index() * n;
    T* to = y + row.index() * n;
    const T top = row.max(n, [=](Index j) { return from[j]; });
    const T total = row.sum(n, [=](Index j) { return mole::exp(from[j] - top); });
    row.each(n, [=](Index j) { to[j] = mole::exp(from[j] - top) / total; });
  }
};

}  // namespace

TEST_CASE_TEMPLATE("Reduce equals a loop at any outer, middle and inner size", T, float, double) {
  for (const Index outer : {0, 1, 2, 5})
    for (const Index n : {0, 1, 3, 15, 16, 17, 1025})
      for (const Index inner : {0, 1, 2, 63, 64, 65, 130}) {
        const auto x = noise<T>({outer, n, inner});
        const auto values = doubles(x);
        std::vector<double> total, largest;
        for (Index o = 0; o < outer; ++o)
          for (Index i = 0; i < inner; ++i) {
            total.push_back(0);
            largest.push_back(-INFINITY);
            for (Index j = 0; j < n; ++j) {
              const double v = values[static_cast<std::size_t>((o * n + j) * inner + i)];
              total.back() += v;
              largest.back() = std::max(largest.back(), v);
            }
          }
        CAPTURE(message(outer, n, inner));
        const auto y = Tensor<T>::full({outer, inner}, T(99));
        Cpu::reduce(Reduction::sum, outer, n, inner, x.data(), y.data());
        CHECK(worst_error(y, total) <= 20 * tight<T>);
        Cpu::reduce(Reduction::max, outer, n, inner, x.data(), y.data());
        CHECK(worst_error(y, largest) == 0);
      }
}

TEST_CASE(
    "For_chunks calls f once for each chunk of rows, in which primitives may be used, and rethrows what f throws") {
  for (const Index rows : {0, 1, 7, 64, 65, 300})
    for (const Index size : {1, 7, 64, 1000}) {
      CAPTURE(message(rows, size));
      auto seen = Tensor<double>::zeros({std::max<Index>(rows, 1)});
      double* const count_of = seen.data();
      Cpu::for_chunks(rows, size, [=](Index first, Index count) {
        Cpu::for_each(count, [=](Index i) { count_of[first + i] += 1; });
      });
      const auto counts = seen.to_host();
      CHECK(std::count(counts.begin(), counts.end(), 1.0) == rows);
    }
  CHECK_THROWS_AS(Cpu::for_chunks(100, 10,
                                  [](Index first, Index) {
                                    if (first == 50) throw ArgumentError("chunk");
                                  }),
                  ArgumentError);
}

TEST_CASE_TEMPLATE("Gemm equals a loop: transposes, padding, alpha, beta, two batch levels", T, float,
                   double) {
  for (const auto& extents :
       {std::array<Index, 3>{1, 1, 1}, {3, 5, 7}, {17, 1, 4}, {1, 19, 6}, {33, 34, 35}, {2, 3, 0}, {0, 2, 3}})
    for (int flags = 0; flags < 4; ++flags)
      for (const double beta : {0.0, 1.0, -0.5}) {
        const Index m = extents[0], n = extents[1], k = extents[2];
        const bool ta = flags & 1, tb = flags & 2;
        Gemm g{.transpose_a = ta, .transpose_b = tb, .m = m, .n = n, .k = k, .alpha = 1.5, .beta = beta};
        g.lda = (ta ? m : k) + 2, g.ldb = (tb ? k : n) + 1, g.ldc = n + 3;
        g.batch[0] = 2, g.batch[1] = 3;
        const Index rows_a = ta ? k : m, rows_b = tb ? n : k;
        g.a_stride[0] = 3 * rows_a * g.lda, g.a_stride[1] = rows_a * g.lda;
        g.b_stride[0] = rows_b * g.ldb, g.b_stride[1] = 0;
        g.c_stride[0] = m * g.ldc, g.c_stride[1] = 2 * m * g.ldc;
        const auto a = noise<T>({6 * rows_a * g.lda}, 1), b = noise<T>({2 * rows_b * g.ldb}, 2);
        const auto c = noise<T>({6 * m * g.ldc}, 3);
        const auto va = doubles(a), vb = doubles(b);
        auto expected = doubles(c);
        for (Index i0 = 0; i0 < 2; ++i0)
          for (Index i1 = 0; i1 < 3; ++i1)
            for (Index i = 0; i < m; ++i)
              for (Index j = 0; j < n; ++j) {
                double dot = 0;
                for (Index l = 0; l < k; ++l) {
                  const Index at =
                      i0 * g.a_stride[0] + i1 * g.a_stride[1] + (ta ? l * g.lda + i : i * g.lda + l);
                  const Index bt =
                      i0 * g.b_stride[0] + i1 * g.b_stride[1] + (tb ? j * g.ldb + l : l * g.ldb + j);
                  dot += va[static_cast<std::size_t>(at)] * vb[static_cast<std::size_t>(bt)];
                }
                double& to = expected[static_cast<std::size_t>(i0 * g.c_stride[0] + i1 * g.c_stride[1] +
                                                               i * g.ldc + j)];
                to = 1.5 * dot + beta * to;
              }
        CAPTURE(message(m, n, k, ta, tb, beta));
        Cpu::gemm(g, a.data(), b.data(), c.data());
        CHECK(worst_error(c, expected) <= (2 + static_cast<double>(k) / 8) * tight<T>);
      }
}

TEST_CASE_TEMPLATE("Gemm gives the same bits for any number of threads", T, float, double) {
  // m, n, k: a shape that OpenBLAS's own threads cut otherwise than one thread; a layer's products forth and back; a
  // long sum; few rows; few columns; products that are not cut.
  const Index shapes[][3] = {{333, 777, 1000}, {260, 128, 128}, {128, 384, 260}, {64, 64, 4096},
                             {3, 700, 400},    {1100, 5, 300},  {70, 60, 60},    {1, 1, 300000}};
  for (const auto& shape : shapes)
    for (const bool ta : {false, true})
      for (const bool tb : {false, true}) {
        const Index m = shape[0], n = shape[1], k = shape[2];
        CAPTURE(m);
        CAPTURE(n);
        CAPTURE(k);
        CAPTURE(ta);
        CAPTURE(tb);
        const auto a = noise<T>({m, k}), b = noise<T>({k, n}, 2);
        const Gemm g{.transpose_a = ta,
                     .transpose_b = tb,
                     .m = m,
                     .n = n,
                     .k = k,
                     .lda = ta ? m : k,
                     .ldb = tb ? k : n,
                     .ldc = n};
        const bool same = same_for_any_threads([&] {
          const auto c = Tensor<T, Cpu>::empty({m, n});
          Cpu::gemm(g, a.data(), b.data(), c.data());
          return c.to_host();
        });
        CHECK(same);
      }
}

TEST_CASE_TEMPLATE("Gemm with beta 0 never reads what it writes", T, float, double) {
  const auto a = Tensor<T>::ones({2, 3}), b = Tensor<T>::ones({3, 2});
  for (const Index k : {0, 3}) {
    const auto c = Tensor<T>::full({2, 2}, std::numeric_limits<T>::quiet_NaN());
    Cpu::gemm(Gemm{.m = 2, .n = 2, .k = k, .lda = 3, .ldb = 2, .ldc = 2}, a.data(), b.data(), c.data());
    CHECK(c.to_host() == std::vector<T>(4, static_cast<T>(k)));
  }
}

TEST_CASE_TEMPLATE("scatter_add adds every row, however often an index repeats", T, float, double) {
  for (const Index width : {0, 1, 15, 16, 17, 100}) {
    constexpr Index rows = 37, n = 5;
    std::vector<Index> at;
    for (Index r = 0; r < rows; ++r) at.push_back(r * r % n);
    const auto index = Tensor<Index>::from({rows}, at);
    const auto x = noise<T>({rows, width}, 1), y = noise<T>({n, width}, 2);
    auto expected = doubles(y);
    const auto values = doubles(x);
    for (Index r = 0; r < rows; ++r)
      for (Index j = 0; j < width; ++j)
        expected[static_cast<std::size_t>(at[static_cast<std::size_t>(r)] * width + j)] +=
            values[static_cast<std::size_t>(r * width + j)];
    Cpu::scatter_add(rows, n, width, index.data(), x.data(), y.data());
    CHECK(worst_error(y, expected) <= 5 * tight<T>);
  }
}

TEST_CASE_TEMPLATE("Reduce, rows, maps and scatter_add give the same bits for any number of threads", T,
                   float, double) {
  const auto x = noise<T>({12, 70, 131});
  const auto size = x.size();
  for (const auto& [outer, n, inner] :
       {std::array<Index, 3>{1, size, 1}, {1, 840, 131}, {12, 70, 131}, {840, 131, 1}})
    for (const auto op : {Reduction::sum, Reduction::max})
      CHECK(same_for_any_threads([&, outer = outer, n = n, inner = inner] {
        const auto y = Tensor<T>::empty({outer, inner});
        Cpu::reduce(op, outer, n, inner, x.data(), y.data());
        return y.to_host();
      }));
  CHECK(same_for_any_threads([&] {
    const auto y = Tensor<T>::empty(x.shape());
    Cpu::for_rows(840, 131, SoftRow<T>{x.data(), y.data(), 131});
    return y.to_host();
  }));
  CHECK(same_for_any_threads([&] {
    const auto y = Tensor<T>::empty(x.shape());
    Cpu::for_each(size, [to = y.data(), from = x.data()](Index i) { to[i] = mole::exp(from[i]); });
    return y.to_host();
  }));
  std::vector<Index> at;
  for (Index r = 0; r < 840; ++r) at.push_back(r * 7 % 11);
  const auto index = Tensor<Index>::from({840}, at);
  CHECK(same_for_any_threads([&] {
    const auto y = Tensor<T>::zeros({11, 131});
    Cpu::scatter_add(840, 11, 131, index.data(), x.data(), y.data());
    return y.to_host();
  }));
}

TEST_CASE_TEMPLATE("max keeps NaN, along rows and down columns, for any number of threads", T, float,
                   double) {
  for (const Index inner : {1, 3, 70})
    for (const Index at : {0, 1, 17, 4999}) {
      const auto x = Tensor<T>::ones({5000, inner});
      x.data()[at * inner] = std::numeric_limits<T>::quiet_NaN();
      const auto y = Tensor<T>::empty({inner});
      Cpu::reduce(Reduction::max, 1, 5000, inner, x.data(), y.data());
      CHECK(std::isnan(y.data()[0]));
      for (Index i = 1; i < inner; ++i) CHECK(y.data()[i] == T(1));
    }
}

TEST_CASE("A long float sum keeps its digits") {
  const auto x = Tensor<float>::full({1 << 22}, 0.1f), y = Tensor<float>::empty({1});
  Cpu::reduce(Reduction::sum, 1, x.size(), 1, x.data(), y.data());
  CHECK(y.item() == doctest::Approx(double(0.1f) * (1 << 22)).epsilon(1e-6));
}

// One large term and many that are less than half its last bit: added one by one to it, all of them are lost.
// The bound is that of sixteen partial sums.
TEST_CASE_TEMPLATE("A row's sum is rounded a sixteenth as often as it has terms", T, float, double) {
  const T epsilon = std::numeric_limits<T>::epsilon(), small = epsilon * T(0.45);
  for (const Index n : {16, 17, 128, 4099}) {
    CAPTURE(n);
    const detail::CpuRow row(0);
    const T total = row.sum(n, [=](Index j) { return j == 0 ? T(1) : small; });
    const double lost =
        1.0 + static_cast<double>(n - 1) * static_cast<double>(small) - static_cast<double>(total);
    const double roundings = static_cast<double>(n / 16 + 4 + n % 16);
    CHECK(std::abs(lost) <= roundings * static_cast<double>(epsilon) / 2);
    CHECK(row.max(n, [=](Index j) { return j == n - 1 ? T(2) : small; }) == T(2));
  }
}

TEST_CASE("Rows of nothing sum to 0 and have no maximum") {
  const detail::CpuRow row(0);
  CHECK(row.sum(0, [](Index) { return 1.0; }) == 0);
  CHECK(row.max(0, [](Index) { return 1.0; }) == -INFINITY);
}

TEST_CASE("What a functor throws reaches the caller, whatever the number of threads") {
  struct Throw {
    Index at;
    void operator()(Index i) const {
      if (i == at) throw ShapeError("element " + std::to_string(i));
    }
  };
  struct ThrowRow {
    Index at;
    void operator()(const detail::CpuRow& row) const { Throw{at}(row.index()); }
  };
  const int before = omp_get_max_threads();
  for (const int threads : {1, 2, 3}) {
    CAPTURE(threads);
    omp_set_num_threads(threads);
    for (const Index n : {Index{100}, 4 * Cpu::grain})
      for (const Index at : {Index{0}, n / 2, n - 1}) {
        CHECK_THROWS_WITH_AS(Cpu::for_each(n, Throw{at}), ("element " + std::to_string(at)).c_str(),
                             ShapeError);
        CHECK_THROWS_AS(Cpu::for_rows(n, 10, ThrowRow{at}), ShapeError);
      }
    Cpu::for_each(4 * Cpu::grain, Throw{-1});
  }
  omp_set_num_threads(before);
}

TEST_CASE("Each element is visited once for any number of threads") {
  CHECK(same_for_any_threads([] {
    std::vector<int> seen;
    for (const Index n : {Index{0}, Index{1}, Cpu::grain + 1, 3 * Cpu::grain + 7}) {
      std::vector<int> visits(static_cast<std::size_t>(n));
      Cpu::for_each(n, [to = visits.data()](Index i) { ++to[i]; });
      Cpu::for_rows(n, 100, [to = visits.data()](const detail::CpuRow& row) { ++to[row.index()]; });
      seen.push_back(static_cast<int>(std::count(visits.begin(), visits.end(), 2)) - static_cast<int>(n));
    }
    CHECK(seen == std::vector<int>{0, 0, 0, 0});
    return seen;
  }));
}
