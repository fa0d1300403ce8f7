#pragma once
// Gated mixtures of layers with a common input by a backend's kernels for the gate.
//
//   H    the layers' h side by side, [rows, n R]: one product for all, as their A are adjacent
//   P    g * H, laid out so too: one launch for all gates
//   y_i  [rows, d_out], adjacent: P_i Q_i^T for all i as one strided product, then x W_i^T

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include <mole/autodiff/adjacent.hpp>
#include <mole/experts/ops/detail/gated_layer.hpp>
#include <mole/ops/shape.hpp>

namespace mole::detail {

/// Some layers with a common input and what their forward pass keeps.
template <class T, class B>
struct GatedGroup {
  Tensor<T, B> x;
  std::vector<GatedLayer<T, B>> layers;
  Tensor<T, B> H;
  Tensor<Compute<T>, B> norm;  ///< [n, rows]
  Index n, rows, d_in, d_out, R, N;

  static constexpr Compute<T> eps = static_cast<Compute<T>>(gate_eps);

  /// `one` for each layer, whose operands are so far apart.
  Gemm by_layer(Gemm one, Index a, Index b, Index c) const {
    one.batch[1] = n;
    one.a_stride[1] = a, one.b_stride[1] = b, one.c_stride[1] = c;
    return one;
  }
};

/// The members of a vector of layers.
template <class T, class B>
std::vector<Tensor<T, B>> members(const std::vector<GatedLayer<T, B>>& layers,
                                  Tensor<T, B> GatedLayer<T, B>::*member) {
  std::vector<Tensor<T, B>> list;
  for (const auto& layer : layers) list.push_back(layer.*member);
  return list;
}

/// Whether one launch can do for all these layers.
template <class T, class B>
bool fit_together(const std::vector<GatedLayer<T, B>>& layers) {
  if (layers.empty() || layers.size() > static_cast<std::size_t>(most_gates)) return false;
  const auto& first = layers.front();
  if (!B::template gate_fits<T>(first.rank(), first.n_experts())) return false;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const auto& l = layers[i];
    if (l.rank() != first.rank() || l.n_experts() != first.n_experts() || l.W.shape() != first.W.shape() ||
        l.c.defined() != first.c.defined())
      return false;
    // Two layers must not add to the same gradient at once.
    for (std::size_t j = 0; j < i; ++j)
      if (l.F.node_pointer() == layers[j].F.node_pointer()) return false;
  }
  return are_adjacent(members(layers, &GatedLayer<T, B>::A)) &&
         are_adjacent(members(layers, &GatedLayer<T, B>::Q));
}

/// The outputs y of a group, from x W^T + c + P Q^T.
template <class T, class B>
std::vector<Tensor<T, B>> group_outputs(const GatedGroup<T, B>& s, const Tensor<T, B>& P) {
  const auto y = empty_adjacent<T, B>(std::vector<Shape>(s.layers.size(), s.x.shape().with(-1, s.d_out)));
  const auto& first = s.layers.front();
  const bool biased = first.c.defined();
  for (std::size_t i = 0; biased && i < y.size(); ++i)
    B::for_rows(s.rows, s.d_out, RepeatRow<T>{y[i].data(), s.layers[i].c.data(), s.d_out});
  // The narrow product first: the wide one then adds to it while it multiplies.
  Gemm narrow = gemm_nt(s.rows, s.d_out, s.R, biased ? 1 : 0);
  narrow.lda = s.n * s.R;
  B::gemm(s.by_layer(narrow, s.R, s.d_out * s.R, s.rows * s.d_out), P.data(), first.Q.data(),
          y.front().data());
  const Gemm wide = gemm_nt(s.rows, s.d_out, s.d_in, 1);
  if (are_adjacent(members(s.layers, &GatedLayer<T, B>::W))) {
    B::gemm(s.by_layer(wide, 0, s.d_out * s.d_in, s.rows * s.d_out), s.x.data(), first.W.data(),
            y.front().data());
  } else {
    for (std::size_t i = 0; i < y.size(); ++i) B::gemm(wide, s.x.data(), s.layers[i].W.data(), y[i].data());
  }
  return y;
}

/// The gradients of each layer's F and log_tau, from dP, laid out as H, and those of the gates, either of
/// them undefined where there is none; dH, where it is defined, gets that of H, and may be dP.
template <class T, class B>
std::vector<Tensor<T, B>> group_gate_pullback(const GatedGroup<T, B>& s, const std::vector<Tensor<T, B>>& g,
                                              const std::vector<Tensor<T, B>>& dg, const Tensor<T, B>& dP,
                                              const Tensor<T, B>& dH) {
  GateBackward<T> a{};
  a.gates = static_cast<int>(s.n);
  a.v = s.H.data();
  a.g = g.front().data();
  a.norm = s.norm.data();
  a.dp = dP.defined() ? dP.data() : nullptr;
  a.dv = dH.defined() ? dH.data() : nullptr;
  a.rows = s.rows, a.features = s.R, a.experts = s.N, a.stride = s.n * s.R, a.eps = s.eps;
  std::vector<Tensor<T, B>> gradients;
  for (std::size_t i = 0; i < s.layers.size(); ++i) {
    const auto& l = s.layers[i];
    Tensor<T, B> dF, dlog_tau;
    auto& one = a.gate[i];
    one = {l.F.data(),
           l.log_tau.data(),
           dg[i].defined() ? dg[i].data() : nullptr,
           l.expert.data(),
           nullptr,
           nullptr,
           false};
    if (l.F.requires_grad()) {
      const GradTarget target(l.F);
      dF = target.tensor;
      one.dF = dF.data();
      one.add_dF = target.beta == 1;
    }
    if (l.log_tau.requires_grad()) {
      dlog_tau = Tensor<T, B>::empty(l.log_tau.shape());
      one.dlog_tau = dlog_tau.data();
    }
    gradients.push_back(dF);
    gradients.push_back(dlog_tau);
  }
  B::gate_backward(a);
  return gradients;
}

/// dx, and dF and dlog_tau of each layer, from the gates g, the gradients G of all y and those that the
/// gates' other readers sent, undefined where none did. `last`: nobody will ask for what was kept again.
template <class T, class B>
std::vector<Tensor<T, B>> group_pullback(GatedGroup<T, B>& s, const std::vector<Tensor<T, B>>& g,
                                         const std::vector<Tensor<T, B>>& G,
                                         const std::vector<Tensor<T, B>>& dg, bool last) {
  const bool wanted = s.x.requires_grad();
  const auto dP = Tensor<T, B>::empty(s.H.shape());
  Gemm narrow = gemm_nn(s.rows, s.R, s.d_out);
  narrow.ldc = s.n * s.R;
  if (are_adjacent(G)) {
    B::gemm(s.by_layer(narrow, s.rows * s.d_out, s.d_out * s.R, s.R), G.front().data(),
            s.layers.front().Q.data(), dP.data());
  } else {
    for (std::size_t i = 0; i < G.size(); ++i)
      B::gemm(narrow, G[i].data(), s.layers[i].Q.data(), dP.data() + static_cast<Index>(i) * s.R);
  }
  auto gradients = group_gate_pullback(s, g, dg, dP, wanted ? dP : Tensor<T, B>());
  if (last) s.H = {};  // before dx is there
  Tensor<T, B> dx;
  if (wanted) {
    const GradTarget target(s.x);
    dx = target.tensor;
    B::gemm(gemm_nn(s.rows, s.d_in, s.n * s.R, target.beta), dP.data(), s.layers.front().A.data(), dx.data());
    for (std::size_t i = 0; i < G.size(); ++i)
      B::gemm(gemm_nn(s.rows, s.d_in, s.d_out, 1), G[i].data(), s.layers[i].W.data(), dx.data());
  }
  gradients.insert(gradients.begin(), dx);
  return gradients;
}

/// Where the i-th gate is read and no y, or those by an earlier backward(): dx, dF, dlog_tau.
template <class T, class B>
std::vector<Tensor<T, B>> late_group_pullback(const GatedGroup<T, B>& s, std::size_t i, const Tensor<T, B>& g,
                                              const Tensor<T, B>& G) {
  GatedGroup<T, B> one = s;
  one.layers = {s.layers[i]};
  one.n = 1;
  const Index first = static_cast<Index>(i) * s.R;
  one.H = slice(Tensor<T, B>(Shape{s.rows, s.n * s.R}, s.H.buffer()), -1, first, first + s.R);
  one.norm = slice(s.norm, 0, static_cast<Index>(i), static_cast<Index>(i) + 1);
  const bool wanted = s.x.requires_grad();
  const auto dH = wanted ? Tensor<T, B>::empty(one.H.shape()) : Tensor<T, B>();
  auto gradients = group_gate_pullback(one, {g}, {G}, Tensor<T, B>(), dH);
  Tensor<T, B> dx;
  if (wanted) {
    const GradTarget target(s.x);
    dx = target.tensor;
    B::gemm(gemm_nn(s.rows, s.d_in, s.R, target.beta), dH.data(), s.layers[i].A.data(), dx.data());
  }
  gradients.insert(gradients.begin(), dx);
  return gradients;
}

/// See gated_mixtures; the layers fit together.
template <class T, class B>
std::vector<GatedMixture<T, B>> gated_by_kernels(const Tensor<T, B>& x,
                                                 const std::vector<GatedLayer<T, B>>& layers) {
  using NodePointer = std::weak_ptr<Node<T, B>>;
  const auto& first = layers.front();
  const Index n = static_cast<Index>(layers.size()), rows = x.size(0) * x.size(1), R = first.rank(),
              N = first.n_experts(), d_in = first.W.size(1), d_out = first.W.size(0);
  const auto state = std::make_shared<GatedGroup<T, B>>(
      GatedGroup<T, B>{x, layers, Tensor<T, B>::empty(x.shape().with(-1, n * R)),
                       Tensor<Compute<T>, B>::empty({n, rows}), n, rows, d_in, d_out, R, N});
  const auto& s = *state;
  auto g = empty_adjacent<T, B>(std::vector<Shape>(layers.size(), x.shape().with(-1, N)));
  B::gemm(gemm_nt(rows, n * R, d_in), x.data(), first.A.data(), s.H.data());
  auto P = Tensor<T, B>::empty(s.H.shape());
  GateForward<T> a{};
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const auto& l = layers[i];
    a.gate[i] = {l.F.data(), l.log_tau.data(), l.keep.defined() ? l.keep.data() : nullptr, l.expert.data()};
  }
  a.gates = static_cast<int>(n);
  a.v = s.H.data(), a.g = g.front().data(), a.norm = s.norm.data(), a.p = P.data();
  a.rows = rows, a.features = R, a.experts = N, a.stride = n * R, a.eps = s.eps;
  B::gate_forward(a);
  const auto y = group_outputs(s, P);
  P = {};

  std::vector<Tensor<T, B>> inputs{x};
  for (const auto& l : layers) inputs.insert(inputs.end(), {l.F, l.log_tau});
  for (std::size_t i = 0; i < layers.size(); ++i)
    g[i] = record({x, layers[i].F, layers[i].log_tau}, g[i], [state, i](const auto& gate, const auto& G) {
      return late_group_pullback(*state, i, gate, G);
    });
  // Whichever y comes first on the way back takes the others' gradients too, and the gates': all their
  // readers came later. An output that somebody still holds, and that got none, may be read by another
  // backward().
  const auto siblings = std::make_shared<std::vector<NodePointer>>();
  const auto gates = std::make_shared<const std::vector<Tensor<T, B>>>(g);
  std::vector<GatedMixture<T, B>> results;
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const auto pullback = [state, gates, siblings, i](const auto& y, const auto& G) {
      std::vector<Tensor<T, B>> all, dg;
      bool last = true;
      for (std::size_t k = 0; k < siblings->size(); ++k) {
        const auto node = (*siblings)[k].lock();
        Tensor<T, B> sent(k == i ? G.node_pointer() : node ? std::exchange(node->grad, nullptr) : nullptr);
        const auto& gate = (*gates)[k].node_pointer();
        last = last && (sent.defined() || !node) && gate.use_count() == 1;
        all.push_back(sent.defined() ? sent : Tensor<T, B>::zeros(y.shape()));
        dg.push_back(Tensor<T, B>(std::exchange(gate->grad, nullptr)));
      }
      return group_pullback(*state, *gates, all, dg, last);
    };
    results.push_back({record(inputs, y[i], pullback), g[i]});
    siblings->push_back(y[i].node_pointer());
  }
  return results;
}

}  // namespace mole::detail
