#pragma once
// What the families of vision models share of their parameters: how they start, and how they are shown.

#include <string>
#include <vector>

#include <mole/nn/slots.hpp>

namespace mole {

/// How a parameter starts where a model initialises itself: value + deviation times normal noise.
struct ParameterStart {
  double value = 0, deviation = 0;
};

/// Weight and bias [n] of a norm, which start at 1 and 0.
template <class T, class B>
struct AffineNorm {
  Tensor<T, B> weight, bias;

  /// f(name, shape, start, tensor) for both.
  template <class F>
  void visit(const std::string& name, Index n, F f) {
    f(name + ".weight", Shape{n}, ParameterStart{1, 0}, weight);
    f(name + ".bias", Shape{n}, ParameterStart{0, 0}, bias);
  }
};

/// f(name, shape, start, tensor) for the weight and, where there is one, the bias of every slot.
template <class T, class B, class F>
void visit_slots(SlotTable<T, B>& table, F f) {
  for (auto& slot : table.slots) {
    f(slot.name + ".weight", slot.stored_shape(), ParameterStart{0, slot.deviation}, slot.weight);
    if (slot.has_bias) f(slot.name + ".bias", Shape{slot.shape[0]}, ParameterStart{0, 0}, slot.bias);
  }
}

/// A fresh parameter.
template <class T, class B>
Tensor<T, B> make_parameter(const Shape& shape, const ParameterStart& start, Generator& generator) {
  if (start.deviation == 0) return Tensor<T, B>::full(shape, static_cast<T>(start.value));
  const auto noise = Tensor<T, B>::randn(shape, generator.next(), static_cast<Compute<T>>(start.deviation));
  return start.value == 0 ? noise : shift(noise, static_cast<Compute<T>>(start.value));
}

/// All parameters that model.visit() shows, marked as trainable.
template <class M>
auto trainable_parameters_of(M& model) {
  std::vector<Tensor<typename M::Scalar, typename M::Device>> list;
  model.visit(
      [&](const std::string&, const Shape&, auto& tensor) { list.push_back(tensor.set_requires_grad()); });
  return list;
}

}  // namespace mole
