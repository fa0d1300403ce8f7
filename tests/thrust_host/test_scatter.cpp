// The Thrust code of the CUDA backend on the processor, by Thrust's OpenMP system.

#include <doctest/doctest.h>

#include <thrust/execution_policy.h>

#include <mole/backends/cuda/thrust_scatter.cuh>
#include <mole/ops/gather.hpp>

#include "testing.hpp"

using namespace mole;
using namespace mole::testing;

namespace {

/// y += the rows of x at their indices, by thrust_scatter_add.
template <class T>
std::vector<T> scattered(Index n, Index width, const std::vector<Index>& index, const std::vector<T>& x,
                         std::vector<T> y) {
  const auto rows = static_cast<Index>(index.size());
  auto keys = index;
  std::vector<Index> positions(index.size()), starts(static_cast<std::size_t>(n) + 1);
  detail::thrust_scatter_add(thrust::device, rows, n, width, keys.data(), positions.data(), starts.data(),
                             x.data(), y.data());
  return y;
}

/// Indices in [0, n), most of them repeated.
std::vector<Index> some_indices(Index rows, Index n) {
  std::vector<Index> index;
  for (Index r = 0; r < rows; ++r) index.push_back(r * r * 7 % n * (r % 3 != 0));
  return index;
}

}  // namespace

TEST_CASE_TEMPLATE("Rows with repeated, missing and no indices are added as Cpu::scatter_add adds them", T,
                   float, double) {
  for (const Index rows : {0, 1, 2, 33, 1000})
    for (const Index n : {1, 5, 64})
      for (const Index width : {0, 1, 3, 40}) {
        CAPTURE(rows);
        CAPTURE(n);
        CAPTURE(width);
        const auto index = some_indices(rows, n);
        const auto x = noise<T, Cpu>({rows, width}, 1).to_host(),
                   before = noise<T, Cpu>({n, width}, 2).to_host();
        auto expected = before;
        Cpu::scatter_add(rows, n, width, index.data(), x.data(), expected.data());
        // The same sums in the same order.
        CHECK(scattered(n, width, index, x, before) == expected);
      }
}

TEST_CASE("Bf16 and half are added up in float and rounded once") {
  const auto check = []<class T>(T one) {
    // One by one, additions of 1 to 2048 would be lost in either format.
    const std::vector<Index> index(512, 0);
    const auto y = scattered(1, 1, index, std::vector<T>(512, one), std::vector<T>{T(2048.0f)});
    CHECK(static_cast<float>(y[0]) == 2560);
  };
  check(mole::bf16(1.0f));
  check(mole::half(1.0f));
}

TEST_CASE("The indices themselves are left sorted, the positions of equal ones in their order") {
  std::vector<Index> keys{3, 1, 3, 0, 1}, positions(5), starts(5);
  const std::vector<double> x(5);
  std::vector<double> y(4);
  detail::thrust_scatter_add(thrust::device, 5, 4, 1, keys.data(), positions.data(), starts.data(), x.data(),
                             y.data());
  CHECK(keys == std::vector<Index>{0, 1, 1, 3, 3});
  CHECK(positions == std::vector<Index>{3, 1, 4, 0, 2});
  CHECK(starts == std::vector<Index>{0, 1, 3, 3, 5});
}
