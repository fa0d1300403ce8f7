#pragma once
// Memory for time: of a part of a model the tape keeps the inputs alone, and runs the part again when its gradients
// are asked for (Chen et al. 2016).

#include <cstddef>
#include <utility>
#include <vector>

#include <mole/autodiff/backward.hpp>
#include <mole/autodiff/record.hpp>

namespace mole {

namespace detail {

/// While one is alive, ops on this thread record again, as a pullback that runs a part anew needs.
class Recording {
 public:
  Recording() : before_(std::exchange(recording(), true)) {}
  ~Recording() { recording() = before_; }
  Recording(const Recording&) = delete;
  Recording& operator=(const Recording&) = delete;

 private:
  bool before_;
};

}  // namespace detail

/// f(inputs), a vector of tensors, without the tape of what is inside. Pullback: runs f again, and back. So f must give
/// the same again: whatever it captures stays as it is until then, random numbers by counter included.
/// `parameters` are leaves that f reads beside its inputs; backward() adds to their gradients as it does without this.
/// A gradient that an undefined input would have is left out.    Throws what f throws.
template <class T, class B, class F>
std::vector<Tensor<T, B>> checkpoint(const std::vector<Tensor<T, B>>& inputs,
                                     const std::vector<Tensor<T, B>>& parameters, F f) {
  std::vector<Tensor<T, B>> outputs;
  {
    const NoGrad off;
    outputs = f(inputs);
  }
  // f may return an input, or one tensor twice.
  for (auto& y : outputs) y = y.detach();
  std::vector<Tensor<T, B>> all = inputs, values;
  all.insert(all.end(), parameters.begin(), parameters.end());
  std::vector<bool> wanted;
  for (const auto& x : inputs) {
    values.push_back(x.defined() ? x.detach() : x);
    wanted.push_back(x.requires_grad());
  }
  return record<T, B>(all, outputs, [values, wanted, n = all.size(), f](std::vector<Tensor<T, B>> G, bool) {
    const detail::Recording on;
    std::vector<Tensor<T, B>> leaves;
    for (std::size_t i = 0; i < values.size(); ++i) {
      leaves.push_back(values[i].defined() ? values[i].detach() : values[i]);
      if (wanted[i]) leaves.back().set_requires_grad();
    }
    const auto again = f(leaves);
    // One value that has G for the gradients of all outputs.
    const auto joined = record<T, B>(again, Tensor<T, B>::zeros({}), [G](const auto&) { return G; });
    if (joined.requires_grad()) backward(joined);
    std::vector<Tensor<T, B>> gradients(n);
    for (std::size_t i = 0; i < values.size(); ++i)
      if (wanted[i]) gradients[i] = leaves[i].grad();
    return gradients;
  });
}

}  // namespace mole
