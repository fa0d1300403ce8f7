// Checks that training is still on numbers.

#include <limits>
#include <vector>

#include <doctest/doctest.h>

#include <testing.hpp>

#include <mole/train/finite.hpp>

using mole::testing::Device;

TEST_CASE_TEMPLATE("A loss that is NaN or infinite stops training with the step named", T, float, double) {
  using Tensor = mole::Tensor<T, Device>;
  CHECK(check_finite(Tensor::scalar(T(1.5)), 3) == T(1.5));
  CHECK_THROWS_WITH_AS(check_finite(Tensor::scalar(std::numeric_limits<T>::quiet_NaN()), 41),
                       doctest::Contains("nan at step 41"), mole::NumericError);
  CHECK_THROWS_WITH_AS(check_finite(Tensor::scalar(-std::numeric_limits<T>::infinity()), 42),
                       doctest::Contains("-inf at step 42"), mole::NumericError);
}

TEST_CASE_TEMPLATE("all_finite finds a single bad element wherever it is", T, float, double) {
  using Tensor = mole::Tensor<T, Device>;
  const auto x = Tensor::full({9001}, std::numeric_limits<T>::max()), y = Tensor::zeros({2, 2});
  CHECK(mole::all_finite(std::vector<Tensor>{x, {}, y, Tensor::zeros({0})}));
  for (const std::size_t at : {std::size_t{0}, std::size_t{4095}, std::size_t{4096}, std::size_t{9000}})
    for (const T bad : {std::numeric_limits<T>::quiet_NaN(), -std::numeric_limits<T>::infinity()}) {
      auto values = x.to_host();
      values[at] = bad;
      CHECK_FALSE(mole::all_finite(std::vector<Tensor>{y, Tensor::from({9001}, values)}));
    }
}
