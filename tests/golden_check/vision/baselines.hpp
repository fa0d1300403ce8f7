#pragma once
// Goldens of SVDiff, Mix-of-Show's gradient fusion and Custom Diffusion's merge.

#include <string>
#include <vector>

#include <golden_check/vision/clip.hpp>
#include <mole/compose/fusion.hpp>
#include <mole/compose/svdiff.hpp>
#include <mole/ops/conv.hpp>

namespace golden {

/// svdiff.NAME.*: the shifted weight, and the gradient of sum(y^2) to the shifts.
template <class T, class B>
void check_svdiff(const Golden& golden, const std::string& name) {
  const double lambda = golden.setting("lambda", 0.8);
  const auto W = mole::spectral_weight(golden.tensor<T, B>(name + ".W"));
  const auto delta = golden.tensor<T, B>(name + ".delta").set_requires_grad();
  const auto moved = mole::shifted_weight(W, scale(delta, static_cast<mole::Compute<T>>(lambda)));
  golden.compare(name + ".W_new", moved, name + ".W_new");
  const auto x = golden.tensor<T, B>(name + ".x");
  const auto y =
      moved.rank() == 4 ? conv2d(channels_last(x), moved, {}, {1, mole::Padding::all(1)}) : linear(x, moved);
  backward(sum(square(y)));
  golden.compare(name + ".d_delta", delta.grad(), name + ".d_delta");
}

inline mole::HostMatrix matrix_of(const Golden& golden, const std::string& name) {
  const Shape shape = golden.shape(name);
  return {shape[0], shape[1], golden.numbers(name)};
}

/// One matrix of several, [n, rows, columns].
inline mole::HostMatrix matrix_of(const Golden& golden, const std::string& name, Index i) {
  const Shape shape = golden.shape(name);
  const auto all = golden.numbers(name);
  const auto first = all.begin() + i * shape[1] * shape[2];
  return {shape[1], shape[2], {first, first + shape[1] * shape[2]}};
}

inline void check_fusion(const Golden& golden, const std::string& name) {
  std::vector<mole::FusedConcept> concepts;
  for (Index i = 0; i < golden.shape(name + ".delta")[0]; ++i)
    concepts.push_back({matrix_of(golden, name + ".delta", i), matrix_of(golden, name + ".x", i)});
  golden.compare(name + ".W", mole::fuse_gradients(matrix_of(golden, name + ".W0"), concepts).values,
                 name + ".W");
}

/// baselines/expected.safetensors. Fusion and merge are done in double whatever T.
template <class T, class B>
void check_baselines(Golden& golden) {
  accept_vision(golden);
  for (const std::string name : {"svdiff.linear", "svdiff.conv"})
    if (golden.contains(name + ".W")) golden.part(name, [&] { check_svdiff<T, B>(golden, name); });
  for (const std::string name : {"fusion.full", "fusion.few"})
    if (golden.contains(name + ".W0")) golden.part(name, [&] { check_fusion(golden, name); });
  if (golden.contains("custom.W0"))
    golden.part("custom", [&] {
      const auto W =
          mole::merge_custom_diffusion(matrix_of(golden, "custom.W0"), matrix_of(golden, "custom.C_reg"),
                                       matrix_of(golden, "custom.C"), matrix_of(golden, "custom.V"));
      golden.compare("custom.W", W.values, "custom.W");
    });
}

}  // namespace golden
