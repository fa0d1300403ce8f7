#pragma once
// What families share of their parameters: how they start, and how they are shown.

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

/// A parameter drawn anew.
template <class T, class B>
void start_parameter(Tensor<T, B>& parameter, const Shape& shape, const ParameterStart& start,
                     Generator& generator) {
  if (start.deviation == 0) {
    parameter = Tensor<T, B>::full(shape, static_cast<T>(start.value));
    return;
  }
  parameter = Tensor<T, B>::randn(shape, generator.next(), static_cast<Compute<T>>(start.deviation));
  if (start.value != 0) parameter = shift(parameter, static_cast<Compute<T>>(start.value));
}

/// What a model M has that shows its parameters with their starts: M::each_parameter(f) calls
/// f(name, shape, start, tensor) for each, under its checkpoint's name.
template <class M>
class HasParameters {
 public:
  /// Calls f(name, shape, tensor) for every parameter; it may be replaced.
  template <class F>
  void visit(F f) {
    model().each_parameter([&](const std::string& name, const Shape& shape, const ParameterStart&,
                               auto& tensor) { f(name, shape, tensor); });
  }

  /// Every parameter drawn anew.
  void initialize(Generator& generator) {
    model().each_parameter([&](const std::string&, const Shape& shape, const ParameterStart& start,
                               auto& tensor) { start_parameter(tensor, shape, start, generator); });
  }

  /// All parameters, marked as trainable. Throws ArgumentError for one that is kept packed.
  auto trainable_parameters() {
    std::vector<Tensor<typename M::Scalar, typename M::Device>> list;
    visit([&](const std::string& name, const Shape&, auto& tensor) {
      MOLE_CHECK_ARG(tensor.defined(), name, "is kept packed and cannot train; load the model as numbers");
      list.push_back(tensor.set_requires_grad());
    });
    return list;
  }

 private:
  M& model() { return static_cast<M&>(*this); }
};

}  // namespace mole
