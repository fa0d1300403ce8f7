// Sums, means and maxima against a walk over all elements.

#include <doctest/doctest.h>
#include <map>

#include <mole/mole.hpp>

#include "testing.hpp"

using namespace mole;
using namespace mole::testing;

TEST_CASE_TEMPLATE("sum, mean and max over any axes equal a walk over all elements", T, float, double) {
  const auto x = noise<T>({3, 4, 2, 5});
  const auto values = doubles(x);
  for (int subset = 1; subset < 16; ++subset) {
    std::vector<int> axes;
    Shape kept, squeezed;
    for (int axis = 0; axis < 4; ++axis) {
      const bool gone = subset >> axis & 1;
      if (gone) axes.push_back(axis % 2 ? axis : axis - 4);
      if (!gone) squeezed.push_back(x.size(axis));
      kept.push_back(gone ? 1 : x.size(axis));
    }
    CAPTURE(squeezed);
    std::map<Index, std::vector<double>> groups;
    for (Index i = 0; i < x.size(); ++i) {
      Index rest = i, key = 0, step = 1;
      for (int axis = 3; axis >= 0; --axis) {
        key += kept[axis] == 1 ? 0 : rest % x.size(axis) * step;
        step *= kept[axis];
        rest /= x.size(axis);
      }
      groups[key].push_back(values[static_cast<std::size_t>(i)]);
    }
    std::vector<double> total, average, largest;
    for (const auto& [key, group] : groups) {
      total.push_back(0);
      for (const double v : group) total.back() += v;
      average.push_back(total.back() / static_cast<double>(group.size()));
      largest.push_back(*std::max_element(group.begin(), group.end()));
    }
    CHECK(sum(x, axes).shape() == squeezed);
    CHECK(sum(x, axes, true).shape() == kept);
    CHECK(worst_error(sum(x, axes), total) <= 4 * tight<T>);
    CHECK(worst_error(mean(x, axes), average) <= tight<T>);
    CHECK(worst_error(max(x, axes), largest) == 0);
    CHECK(worst_error(max(x, axes, true), largest) == 0);
  }
}

TEST_CASE_TEMPLATE("No axes means all of them", T, float, double) {
  const auto x = Tensor<T, Device>::from({2, 2}, {1, 2, 3, 6});
  CHECK(sum(x).item() == T(12));
  CHECK(mean(x).item() == T(3));
  CHECK(max(x).item() == T(6));
  CHECK(sum(x, {}, true).shape() == Shape{1, 1});
  CHECK(sum(Tensor<T, Device>::ones({0, 3})).item() == T(0));
  CHECK(sum(Tensor<T, Device>::ones({0, 3}), {0}).to_host() == std::vector<T>{0, 0, 0});
}

TEST_CASE("A float sum of a million ones is exact, and of tenths nearly so") {
  CHECK(sum(Tensor<float, Device>::ones({1 << 20})).item() == float(1 << 20));
  CHECK(sum(Tensor<float, Device>::full({1 << 20}, 0.1f)).item() ==
        doctest::Approx(0.1f * double(1 << 20)).epsilon(1e-6));
}

TEST_CASE_TEMPLATE("max keeps NaN wherever it stands, and takes minus infinity", T, float, double) {
  constexpr T nan = std::numeric_limits<T>::quiet_NaN(), low = -std::numeric_limits<T>::infinity();
  for (std::size_t at = 0; at < 40; ++at) {
    std::vector<T> values(40, T(1));
    values[at] = nan;
    CHECK(std::isnan(max(Tensor<T, Device>::from({40}, values)).item()));
    CHECK(std::isnan(max(Tensor<T, Device>::from({40, 1}, values), {0}).item()));
  }
  CHECK(max(Tensor<T, Device>::from({2, 2}, {low, low, nan, T(3)}), {1}).to_host()[0] == low);
  CHECK(std::isnan(max(Tensor<T, Device>::from({2, 2}, {T(3), nan, T(1), T(1)}), {0}).to_host()[1]));
}

TEST_CASE("Ties share the gradient of a maximum; the check leaves them out as kinks") {
  auto x = Tensor<double, Device>::from({2, 3}, {5, 5, 5, 0, 7, 2}).set_requires_grad();
  backward(max(x, {1}), Tensor<double, Device>::from({2}, {6, 10}));
  CHECK(x.grad().to_host() == std::vector<double>{2, 2, 2, 0, 10, 0});
  GradCheckOptions options;
  options.skip = [](std::size_t, Index element) { return element < 3; };
  CHECK(grad_check<Device>([](const auto& v) { return max(v[0], {1}); }, {x}, options).ok);
  CHECK_FALSE(grad_check<Device>([](const auto& v) { return max(v[0], {1}); }, {x}).ok);
}

TEST_CASE("Reductions over axes that are not there, or of nothing, are refused by name") {
  const auto x = Tensor<float, Device>::ones({2, 3}), none = Tensor<float, Device>::ones({0, 3});
  CHECK(lacks<ShapeError>([&] { sum(x, {2}); }, {"sum", "axis 2", "[2, 3]"}) == "");
  CHECK(lacks<ShapeError>([&] { mean(x, {-3}); }, {"axis -3", "[2, 3]"}) == "");
  CHECK(lacks<ShapeError>([&] { max(x, {5}); }, {"max", "axis 5", "[2, 3]"}) == "");
  CHECK(lacks<ShapeError>([&] { max(none, {0}); }, {"max", "nothing", "[0, 3]"}) == "");
  CHECK(lacks<ShapeError>([&] { mean(none); }, {"mean", "[0, 3]"}) == "");
}
