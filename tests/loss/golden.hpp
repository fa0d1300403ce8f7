#pragma once
// Golden files as tensors, and how far a tensor is from one.

#include <algorithm>
#include <cmath>
#include <string>
#include <type_traits>
#include <vector>

#include <mole/io/safetensors.hpp>
#include <testing.hpp>

/// The largest error allowed for numbers of type T, relative to the golden's largest element.
template <class T>
constexpr double golden_tolerance = std::is_same_v<T, float> ? 2e-5 : 1e-10;

class Golden {
 public:
  explicit Golden(const std::string& name) : file_(MOLE_TEST_DATA "/golden/" + name + ".safetensors") {}

  template <class T>
  mole::Tensor<T, mole::testing::Device> tensor(const std::string& name) const {
    const std::vector<double> values = file_.template read<double>(name);
    return mole::Tensor<T, mole::testing::Device>::from(file_.at(name).shape,
                                                        std::vector<T>(values.begin(), values.end()));
  }

  mole::Tensor<mole::Index, mole::testing::Device> indices(const std::string& name) const {
    return mole::Tensor<mole::Index, mole::testing::Device>::from(file_.at(name).shape,
                                                                  file_.read<mole::Index>(name));
  }

  /// max |x - golden| / max |golden|; infinite for another number of elements or a NaN.
  template <class T>
  double error(const mole::Tensor<T, mole::testing::Device>& x, const std::string& name) const {
    const auto expected = file_.read<double>(name);
    const auto found = x.to_host();
    if (found.size() != expected.size()) return INFINITY;
    double worst = 0, largest = 0;
    for (std::size_t i = 0; i < found.size(); ++i) {
      const double difference = std::abs(static_cast<double>(found[i]) - expected[i]);
      worst = std::isnan(difference) ? INFINITY : std::max(worst, difference);
      largest = std::max(largest, std::abs(expected[i]));
    }
    return worst / largest;
  }

 private:
  mole::SafetensorsFile file_;
};
