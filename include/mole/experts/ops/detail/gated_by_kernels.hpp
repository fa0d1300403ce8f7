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
#include <mole/autodiff/record.hpp>
#include <mole/core/kernels/gate_product.hpp>
#include <mole/experts/ops/detail/gated_layer.hpp>
#include <mole/experts/ops/detail/mixture_products.hpp>

namespace mole::detail {

/// Some layers with a common input and what their forward pass keeps.
template <class T, class B>
struct GatedGroup {
  Tensor<T, B> x;
  std::vector<GatedLayer<T, B>> layers;
  std::vector<FoldedGate<T, B>> folded;  ///< of each
  Tensor<T, B> H;
  Tensor<Compute<T>, B> norm;  ///< [n, rows]
  Index n, rows, d_in, d_out, R, N;

  static constexpr Compute<T> eps = static_cast<Compute<T>>(gate_eps);
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

/// Whether the weights of some layers are dense and adjacent.
template <class T, class B>
bool adjacent_weights(const std::vector<GatedLayer<T, B>>& layers) {
  std::vector<Tensor<T, B>> dense;
  for (const auto& layer : layers) {
    if (!layer.W.dense().defined()) return false;
    dense.push_back(layer.W.dense());
  }
  return are_adjacent(dense);
}

/// y_i = x W_i^T + c_i + P_i Q_i^T by the backend's kernel; false where it has none for these.
template <class T, class B>
bool group_outputs_at_once(const GatedGroup<T, B>& s, const Tensor<T, B>& P, T* y) {
  if constexpr (has_two_products<T, B>) {
    const auto& first = s.layers.front();
    auto a = products_forth(s.rows, s.x.data(), first.W, first.c, P.data(), first.Q, y);
    a.count = static_cast<int>(s.n);
    a.stride1 = s.n * s.R;
    for (std::size_t i = 1; i < s.layers.size(); ++i)
      if (s.layers[i].c.defined()) a.c[i] = s.layers[i].c.data();
    Tensor<T, B> numbers;
    if (!adjacent_weights(s.layers)) {
      std::vector<FrozenWeight<T, B>> weights;
      for (const auto& layer : s.layers) weights.push_back(layer.W);
      numbers = numbers_for_kernel(weights, a);
      if (!numbers.defined()) return false;
    }
    return by_two_products<B>(a);
  }
  return false;
}

/// The outputs y of a group, from x W^T + c + P Q^T.
template <class T, class B>
std::vector<Tensor<T, B>> group_outputs(const GatedGroup<T, B>& s, const Tensor<T, B>& P) {
  const auto y = empty_adjacent<T, B>(std::vector<Shape>(s.layers.size(), s.x.shape().with(-1, s.d_out)));
  if (group_outputs_at_once(s, P, y.front().data())) return y;
  const auto& first = s.layers.front();
  const bool biased = first.c.defined();
  for (std::size_t i = 0; biased && i < y.size(); ++i)
    B::for_rows(s.rows, s.d_out, RepeatRow<T>{y[i].data(), s.layers[i].c.data(), s.d_out});
  // The narrow product first: the wide one then adds to it while it multiplies.
  Gemm narrow = gemm_nt(s.rows, s.d_out, s.R, biased ? 1 : 0);
  narrow.lda = s.n * s.R;
  B::gemm(batched(narrow, s.n, s.R, s.d_out * s.R, s.rows * s.d_out), P.data(), first.Q.data(),
          y.front().data());
  if (adjacent_weights(s.layers)) {
    const Gemm wide = gemm_nt(s.rows, s.d_out, s.d_in, 1);
    B::gemm(batched(wide, s.n, 0, s.d_out * s.d_in, s.rows * s.d_out), s.x.data(), first.W.dense().data(),
            y.front().data());
  } else {
    for (std::size_t i = 0; i < y.size(); ++i) s.layers[i].W.forward(s.rows, s.x.data(), true, y[i].data());
  }
  return y;
}

/// Whether a gradient has come.
template <class T, class B>
bool any_defined(const std::vector<Tensor<T, B>>& gradients) {
  return std::ranges::any_of(gradients, [](const auto& G) { return G.defined(); });
}

/// dP_i = dy_i Q_i, laid out as H; 0 where there is no dy_i.
template <class T, class B>
Tensor<T, B> group_dP(const GatedGroup<T, B>& s, std::vector<Tensor<T, B>> dy) {
  for (auto& G : dy)
    if (!G.defined()) G = Tensor<T, B>::zeros(s.x.shape().with(-1, s.d_out));
  const auto dP = Tensor<T, B>::empty(s.H.shape());
  Gemm narrow = gemm_nn(s.rows, s.R, s.d_out);
  narrow.ldc = s.n * s.R;
  if (are_adjacent(dy)) {
    B::gemm(batched(narrow, s.n, s.rows * s.d_out, s.d_out * s.R, s.R), dy.front().data(),
            s.layers.front().Q.data(), dP.data());
  } else {
    for (std::size_t i = 0; i < dy.size(); ++i)
      B::gemm(narrow, dy[i].data(), s.layers[i].Q.data(), dP.data() + static_cast<Index>(i) * s.R);
  }
  return dP;
}

/// The product H = x A^T for a kernel that makes it beside the gates, or back, where there are dy, dP_i = dy_i Q_i.
template <class T, class B>
GateProduct<T> product_of_gates(const GatedGroup<T, B>& s, const std::vector<Tensor<T, B>>& dy = {}) {
  const auto& first = s.layers.front();
  const bool back = !dy.empty();
  GateProduct<T> p{.a = {back ? dy.front().data() : s.x.data()},
                   .b = back ? first.Q.data() : first.A.data(),
                   .made = s.H.data(),
                   .rows = s.rows,
                   .inner = back ? s.d_out : s.d_in,
                   .features = s.R,
                   .experts = s.N,
                   .stride = s.n * s.R,
                   .gates = static_cast<int>(s.n),
                   .back = back};
  for (std::size_t i = 0; i < dy.size(); ++i) p.a[i] = dy[i].data();
  return p;
}

/// H, by the gates' kernel or ahead of it, and the gates of `a`.
template <class T, class B>
void make_gates(const GatedGroup<T, B>& s, const GateForward<T>& a) {
  if constexpr (has_gate_products<T, B>)
    if (const auto product = product_of_gates(s); B::gate_product_fits(product))
      return B::gate_product_forward(a, product);
  B::gemm(gemm_nt(s.rows, s.n * s.R, s.d_in), s.x.data(), s.layers.front().A.data(), s.H.data());
  B::gate_forward(a);
}

/// Whether the kernel of the gates' pullback makes the dP_i itself.
template <class T, class B>
bool dP_in_pullback(const GatedGroup<T, B>& s, const std::vector<Tensor<T, B>>& dy) {
  if constexpr (has_gate_products<T, B>)
    return std::ranges::all_of(dy, [](const auto& G) { return G.defined(); }) &&
           B::gate_product_fits(product_of_gates(s, dy));
  return false;
}

/// dF and dlog_tau of each layer, undefined for one of which neither y nor g was read. dP is laid out as H, or
/// undefined where no y was read, or `product` says that the kernel makes it; dH, where it is defined, gets the gradient
/// of H, and may be dP. beside() may read dH.
template <class T, class B, class F>
std::vector<Tensor<T, B>> group_gate_pullback(const GatedGroup<T, B>& s, const std::vector<Tensor<T, B>>& g,
                                              const std::vector<Tensor<T, B>>& dy,
                                              const std::vector<Tensor<T, B>>& dg, const Tensor<T, B>& dP,
                                              const Tensor<T, B>& dH, bool product, const F& beside) {
  const auto pointer = [](const Tensor<T, B>& x) { return x.defined() ? x.data() : nullptr; };
  GateBackward<T> a{};
  a.gates = static_cast<int>(s.n);
  a.v = s.H.data(), a.g = g.front().data(), a.norm = s.norm.data();
  a.dp = pointer(dP), a.dv = pointer(dH);
  a.rows = s.rows, a.features = s.R, a.experts = s.N, a.stride = s.n * s.R, a.eps = s.eps;
  std::vector<FoldedTarget<T, B>> dF;
  std::vector<Tensor<T, B>> dlog_tau, gradients;
  for (std::size_t i = 0; i < s.layers.size(); ++i) {
    const auto& l = s.layers[i];
    const auto& folded = s.folded[i];
    const bool read = dy[i].defined() || dg[i].defined();
    dF.push_back(read ? FoldedTarget<T, B>(l.F, l.scale) : FoldedTarget<T, B>());
    dlog_tau.push_back(read && l.log_tau.requires_grad() ? Tensor<T, B>::empty(l.log_tau.shape())
                                                         : Tensor<T, B>());
    a.gate[i] = {folded.F.data(),      l.log_tau.data(), pointer(dg[i]),     l.expert.data(),  dF[i].data(),
                 pointer(dlog_tau[i]), dF[i].add,        folded.bias_data(), dF[i].bias_data()};
  }
  if constexpr (has_gate_products<T, B>)
    if (product) B::gate_product_backward(a, product_of_gates(s, dy), beside);
  if (!product) B::gate_backward(a, beside);
  for (std::size_t i = 0; i < s.layers.size(); ++i) {
    gradients.push_back(dF[i].gradient());
    gradients.push_back(dlog_tau[i]);
  }
  return gradients;
}

/// dx (+)= dH A + sum_i dy_i W_i, over the dy_i that are there.
template <class T, class B>
void group_dx(const GatedGroup<T, B>& s, const std::vector<Tensor<T, B>>& dy, const Tensor<T, B>& dH,
              bool add, const Tensor<T, B>& dx) {
  const auto& A = s.layers.front().A;
  const Index R = s.n * s.R;
  std::size_t left = 0;  // whose product is still to be added
  while (left < dy.size() && !dy[left].defined()) ++left;
  bool narrow_added = false;
  if constexpr (has_two_products<T, B>)
    if (left < dy.size()) {
      const auto& W = s.layers[left].W;
      auto both = products_back(s.rows, dy[left].data(), W, dH.data(), A.data(), R, add, dx.data());
      const auto numbers = numbers_for_kernel(W, both);
      narrow_added = by_two_products<B>(both);
    }
  if (narrow_added)
    ++left;
  else
    B::gemm(gemm_nn(s.rows, s.d_in, R, add ? 1 : 0), dH.data(), A.data(), dx.data());
  for (std::size_t i = left; i < dy.size(); ++i)
    if (dy[i].defined()) s.layers[i].W.backward(s.rows, dy[i].data(), true, dx.data());
}

/// dx, then dF and dlog_tau of each layer, from the gates g and the gradients of all y and g, undefined where
/// none has come. `last`: nobody will ask for what was kept again.
template <class T, class B>
std::vector<Tensor<T, B>> group_pullback(GatedGroup<T, B>& s, const std::vector<Tensor<T, B>>& g,
                                         const std::vector<Tensor<T, B>>& dy,
                                         const std::vector<Tensor<T, B>>& dg, bool last) {
  const bool wanted = s.x.requires_grad();
  const bool product = dP_in_pullback(s, dy);
  const auto dP = any_defined(dy) && !product ? group_dP(s, dy) : Tensor<T, B>();
  const auto dH = !wanted ? Tensor<T, B>() : dP.defined() ? dP : Tensor<T, B>::empty(s.H.shape());
  Tensor<T, B> dx;
  auto gradients = group_gate_pullback(s, g, dy, dg, dP, dH, product, [&] {
    if (last) s.H = {};  // before dx is there
    if (!wanted) return;
    const GradTarget target(s.x);
    dx = target.tensor;
    group_dx(s, dy, dH, target.beta == 1, dx);
  });
  gradients.insert(gradients.begin(), dx);
  return gradients;
}

/// See gated_mixtures; the layers fit together.
template <class T, class B>
std::vector<GatedMixture<T, B>> gated_by_kernels(const Tensor<T, B>& x,
                                                 const std::vector<GatedLayer<T, B>>& layers) {
  const auto& first = layers.front();
  const Index n = static_cast<Index>(layers.size()), rows = x.size(0) * x.size(1), R = first.rank(),
              N = first.n_experts(), d_in = first.W.d_in(), d_out = first.W.d_out();
  std::vector<FoldedGate<T, B>> folded;
  for (const auto& l : layers) folded.emplace_back(l.F, l.scale);
  const auto state = std::make_shared<GatedGroup<T, B>>(
      GatedGroup<T, B>{x, layers, std::move(folded), Tensor<T, B>::empty(x.shape().with(-1, n * R)),
                       Tensor<Compute<T>, B>::empty({n, rows}), n, rows, d_in, d_out, R, N});
  const auto& s = *state;
  const auto g = empty_adjacent<T, B>(std::vector<Shape>(layers.size(), x.shape().with(-1, N)));
  auto P = Tensor<T, B>::empty(s.H.shape());
  GateForward<T> a{};
  for (std::size_t i = 0; i < layers.size(); ++i) {
    const auto& l = layers[i];
    a.gate[i] = {s.folded[i].F.data(), l.log_tau.data(), l.keep.defined() ? l.keep.data() : nullptr,
                 l.expert.data(), s.folded[i].bias_data()};
  }
  a.gates = static_cast<int>(n);
  a.v = s.H.data(), a.g = g.front().data(), a.norm = s.norm.data(), a.p = P.data();
  a.rows = rows, a.features = R, a.experts = N, a.stride = n * R, a.eps = s.eps;
  make_gates(s, a);
  const auto y = group_outputs(s, P);
  P = {};
  state->x = x.place();

  std::vector<Tensor<T, B>> inputs{x}, outputs = y, gates;
  for (const auto& l : layers) inputs.insert(inputs.end(), {l.F, l.log_tau});
  for (const auto& gate : g) gates.push_back(gate.detach());
  outputs.insert(outputs.end(), g.begin(), g.end());
  outputs = record(inputs, std::move(outputs), [state, gates](const auto& G, bool last) {
    const auto first_g = G.begin() + state->n;
    return group_pullback(*state, gates, {G.begin(), first_g}, {first_g, G.end()}, last);
  });
  std::vector<GatedMixture<T, B>> results;
  for (std::size_t i = 0; i < layers.size(); ++i) results.push_back({outputs[i], outputs[layers.size() + i]});
  return results;
}

}  // namespace mole::detail
