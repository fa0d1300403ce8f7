#pragma once
// Arrow (Ostapenko et al. 2024, "Towards modular LLMs by building and routing a library of LoRAs").
//
//   v_i   the top right singular vector of s_i B_i A_i [d_in]: the direction expert i changes most
//   g     softmax over the top k of |x . v_i| / temperature, per layer and token
//
// v_i is that of the canonical A'_i as well, since Q_i has orthonormal columns: with A'_i = U S V^T,
// x . v_i = h_i . u_i / s_i. So the logits come from h, and no width but R is read.
// As PEFT 0.21, but for this: PEFT finds v_i by 15 power iterations from a random start, here it is exact;
// PEFT needs equal ranks and layers of all experts; here an untrained expert (B = 0) has the logit 0.

#include <array>
#include <cmath>
#include <cstddef>
#include <string_view>
#include <type_traits>
#include <vector>

#include <mole/experts/routers/router.hpp>
#include <mole/nn/host_matrix.hpp>
#include <mole/ops/activation.hpp>

namespace mole {

template <class T, class B>
class ArrowRouter;

/// Nothing trains: each layer and token chooses the experts whose main input direction it points along.
struct ArrowOptions {
  Index top_k = 0;         ///< keep the k largest logits before the softmax; 0 keeps all
  double temperature = 1;  ///< what the logits are divided by

  static constexpr const char* name = "arrow";
  static constexpr std::array names{"arrow"};
  template <class T, class B>
  using Router = ArrowRouter<T, B>;

  /// Its gates are one a matrix and token: of the placement only top-k is taken.
  static ArrowOptions with(std::string_view, const GatePlacement& placement, double temperature) {
    return {placement.top_k, temperature};
  }
  GatePlacement placement() const {
    return {.scope = Scope::matrix, .pooling = Pooling::token, .top_k = top_k};
  }
  void check() const { detail::check_temperature(temperature); }
  template <class Self, class F>
  static void fields(Self& self, F f) {
    f("top_k", self.top_k);
    f("temperature", self.temperature);
  }
};

namespace detail {

/// u / s for the largest singular value s of A [r, d_in] and its left vector u; zeros for A = 0.
inline std::vector<double> top_left_vector(const std::vector<double>& A, Index r, Index d_in) {
  std::vector<double> G(static_cast<std::size_t>(r * r));
  for (Index i = 0; i < r; ++i)
    for (Index j = 0; j < r; ++j)
      G[static_cast<std::size_t>(i * r + j)] = dot(A.data() + i * d_in, A.data() + j * d_in, d_in);
  const auto diagonal = [&](Index i) { return G[static_cast<std::size_t>(i * r + i)]; };
  const auto trace = [&] {
    double sum = 0;
    for (Index i = 0; i < r; ++i) sum += diagonal(i);
    return sum;
  };
  std::vector<double> u(static_cast<std::size_t>(r));
  double whole = trace();
  if (!(whole > 0)) return u;
  // A matrix of trace 1 squared again and again tends to the projector on its largest eigenvector, even where
  // the next one is close; 60 times are a power of 2^60.
  for (double& value : G) value /= whole;
  for (int i = 0; i < 60; ++i) {
    G = host_product(1, G, G, r, r, r);
    whole = trace();
    for (double& value : G) value /= whole;
    if (1 - whole < 1e-15) break;
  }
  Index largest = 0;
  for (Index i = 1; i < r; ++i)
    if (diagonal(i) > diagonal(largest)) largest = i;
  for (Index i = 0; i < r; ++i) u[static_cast<std::size_t>(i)] = G[static_cast<std::size_t>(i * r + largest)];
  const double length = std::sqrt(dot(u.data(), u.data(), r));
  for (double& value : u) value /= length;
  const auto v = host_product(1, u, A, 1, r, d_in);
  const double s = std::sqrt(dot(v.data(), v.data(), d_in));
  for (double& value : u) value /= s;
  return u;
}

}  // namespace detail

/// P [R, N] with (h P)_i = x . v_i up to its sign, for a gate of n_experts columns.    Experts that the stack
/// lacks have a column of zeros.
template <class T, class B>
Tensor<T, B> arrow_prototypes(const ExpertStack<T, B>& stack, Index n_experts) {
  const Index R = stack.rank(), d_in = stack.A.size(1);
  const auto host = stack.A.to_host();
  const auto column = stack.column.to_host();
  std::vector<T> P(static_cast<std::size_t>(R * n_experts));
  Index first = 0;
  for (const Index end : stack.ends) {
    std::vector<double> A(static_cast<std::size_t>((end - first) * d_in));
    for (std::size_t k = 0; k < A.size(); ++k)
      A[k] = static_cast<double>(host[static_cast<std::size_t>(first * d_in) + k]);
    const auto u = detail::top_left_vector(A, end - first, d_in);
    for (Index k = first; k < end; ++k)
      P[static_cast<std::size_t>(k * n_experts + column[static_cast<std::size_t>(k)])] =
          static_cast<T>(u[static_cast<std::size_t>(k - first)]);
    first = end;
  }
  return Tensor<T, B>::from({R, n_experts}, P);
}

/// g = softmax(|h P| / temperature) over the top k of the experts that `keep` [N] leaves (undefined: all).
/// h [.., R], P [R, N] as of arrow_prototypes(), g [.., N]; `dense` is the same without top-k.
/// Pullback: that of its parts; the choice of the k is a constant.    Throws ShapeError.
template <class T, class B>
GateValue<T, B> arrow_weights(const Tensor<T, B>& h, const Tensor<T, B>& P, const ArrowOptions& options,
                              const std::type_identity_t<Tensor<T, B>>& keep = {}) {
  const auto logits =
      scale(map(matmul(h, P), functor::Magnitude{}), static_cast<Compute<T>>(1 / options.temperature));
  const auto dense = softmax(logits, keep);
  if (options.top_k <= 0 || options.top_k >= P.size(1)) return {dense, dense};
  return {softmax(logits, detail::counted_experts(logits, keep, options.top_k)), dense};
}

/// Arrow's prototypes over a model; a file keeps none, as they come from the experts.
template <class T, class B>
class ArrowRouter {
 public:
  static constexpr bool made_of_experts = true;

  ArrowRouter(const ArrowOptions& options, const RouterSite<T, B>& site) : options_(options) {
    for (auto& placed : site.gates)
      placed.gate.weight = arrow_prototypes(site.bank.stacks[placed.reads.front()], placed.gate.n_experts());
  }

  static std::vector<NamedShape> shapes(const ArrowOptions&, const RouterSite<T, B>&) { return {}; }
  std::vector<Tensor<T, B>> tensors() const { return {}; }

  GateValue<T, B> weigh(const PlacedGate<T, B>& placed, const Tensor<T, B>& v,
                        const Tensor<T, B>& keep) const {
    return arrow_weights(v, placed.gate.weight, options_, keep);
  }

 private:
  ArrowOptions options_;
};

}  // namespace mole
