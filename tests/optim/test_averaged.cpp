// Running means of parameters against plain loops.

#include <algorithm>
#include <cmath>
#include <vector>

#include <doctest/doctest.h>
#include <mole/optim/averaged.hpp>
#include <testing.hpp>

using mole::Index;
using mole::testing::Device;

namespace {

using Doubles = mole::Tensor<double, Device>;

/// Parameter i after step n.
std::vector<double> values(Index n, Index i, std::size_t count) {
  std::vector<double> list(count);
  for (std::size_t j = 0; j < count; ++j)
    list[j] = mole::normal({7, static_cast<std::uint64_t>(100 * n + i)}, static_cast<Index>(j));
  return list;
}

}  // namespace

TEST_CASE("Means of parameters follow them by the decay, and forget their start early") {
  const std::size_t sizes[] = {3, 5000};
  std::vector<Doubles> parameters;
  std::vector<std::vector<double>> expected;
  for (Index i = 0; i < 2; ++i) {
    const auto size = sizes[i];
    parameters.push_back(Doubles::from({static_cast<Index>(size)}, values(0, i, size)));
    expected.push_back(values(0, i, size));
  }
  mole::AveragedParameters<double, Device> averaged(parameters, 0.6);
  for (Index n = 0; n < 20; ++n) {
    for (Index i = 0; i < 2; ++i) {
      const auto at = static_cast<std::size_t>(i);
      const auto now = values(n + 1, i, sizes[i]);
      parameters[at].assign(Doubles::from(parameters[at].shape(), now));
      const double decay = std::min(0.6, (1.0 + static_cast<double>(n)) / (10.0 + static_cast<double>(n)));
      for (std::size_t j = 0; j < sizes[i]; ++j)
        expected[at][j] = decay * expected[at][j] + (1 - decay) * now[j];
    }
    averaged.update();
  }
  averaged.take();
  for (std::size_t i = 0; i < 2; ++i) {
    const auto found = parameters[i].to_host();
    double worst = 0;
    for (std::size_t j = 0; j < found.size(); ++j)
      worst = std::max(worst, std::abs(found[j] - expected[i][j]));
    CHECK(worst <= 1e-14);
  }
}

TEST_CASE("A decay outside [0, 1) and an empty list are refused") {
  const std::vector<Doubles> one{Doubles::from({1}, {1.0})};
  CHECK_THROWS_AS((mole::AveragedParameters<double, Device>(one, 1.0)), mole::ArgumentError);
  CHECK_THROWS_AS((mole::AveragedParameters<double, Device>(one, -0.1)), mole::ArgumentError);
  CHECK_THROWS_AS((mole::AveragedParameters<double, Device>({}, 0.5)), mole::ArgumentError);
}
