#pragma once
// One description of an op: input shapes and a call.

#include <functional>
#include <limits>
#include <string>
#include <vector>

#include <mole/mole.hpp>

#include "testing.hpp"

namespace mole::testing {

template <class T>
struct OpCase {
  using Inputs = std::vector<Tensor<T, Device>>;

  std::string name;
  std::vector<Shape> shapes;
  std::function<Tensor<T, Device>(const Inputs&)> f;
  double lowest = -std::numeric_limits<double>::infinity();  ///< inputs are reflected to lie above

  Inputs inputs() const {
    Inputs result;
    for (const Shape& shape : shapes) {
      auto values = noise<T>(shape, result.size()).to_host();
      for (T& value : values)
        if (static_cast<double>(value) < lowest) value = static_cast<T>(2 * lowest) - value;
      result.push_back(Tensor<T, Device>::from(shape, values));
    }
    return result;
  }
};

inline Tensor<Index, Device> indices(const Shape& shape, std::vector<Index> values) {
  return Tensor<Index, Device>::from(shape, values);
}

}  // namespace mole::testing
