#pragma once
// Memory for time: of a part of a model the tape keeps the inputs alone, and runs the part again when its gradients
// are asked for (Chen et al. 2016).

#include <cstddef>
#include <memory>
#include <type_traits>
#include <utility>
#include <vector>

#include <mole/autodiff/backward.hpp>
#include <mole/autodiff/offload.hpp>
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
/// A gradient that an undefined input would have is left out. With `offload`, which parts in a row share, the first input
/// waits on the host, where the backend has copies to it; other inputs may belong to many parts.    Throws what f throws.
template <class T, class B, class F>
std::vector<Tensor<T, B>> checkpoint(
    const std::vector<Tensor<T, B>>& inputs, const std::vector<Tensor<T, B>>& parameters, F f,
    const std::type_identity_t<std::shared_ptr<Offload<T, B>>>& offload = {}) {
  std::vector<Tensor<T, B>> all = inputs, outputs;
  all.insert(all.end(), parameters.begin(), parameters.end());
  const bool recorded = detail::is_recorded<T, B>(all);
  std::vector<KeptValue<T, B>> kept;
  std::vector<bool> wanted;
  for (const auto& x : inputs) {
    kept.emplace_back(x, recorded && kept.empty() ? offload.get() : nullptr);
    wanted.push_back(x.requires_grad());
  }
  {
    const NoGrad off;
    outputs = f(inputs);
  }
  // f may return an input, or one tensor twice.
  for (auto& y : outputs) y = y.detach();
  return record<T, B>(all, outputs, [kept, wanted, n = all.size(), f](std::vector<Tensor<T, B>> G, bool) {
    const detail::Recording on;
    std::vector<Tensor<T, B>> leaves;
    for (std::size_t i = 0; i < kept.size(); ++i) {
      leaves.push_back(kept[i].take());
      if (wanted[i]) leaves.back().set_requires_grad();
    }
    const auto again = f(leaves);
    // One value that has G for the gradients of all outputs.
    const auto joined = record<T, B>(again, Tensor<T, B>::zeros({}), [G](const auto&) { return G; });
    if (joined.requires_grad()) backward(joined);
    std::vector<Tensor<T, B>> gradients(n);
    for (std::size_t i = 0; i < leaves.size(); ++i)
      if (wanted[i]) gradients[i] = leaves[i].grad();
    return gradients;
  });
}

}  // namespace mole
