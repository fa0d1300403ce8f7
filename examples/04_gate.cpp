// Lesson 4: the gate of MoLE, twice. By the letter of the paper, every expert's output is made in full; in
// rank space nothing wider than sum of r_i is. Both give the same numbers, to the last digits of a double.
//
//                       by the letter                          in rank space
//   experts      eq. 8  E_i = s_i (x A_i^T) B_i^T  [.., d_out]  h_i = x A'_i^T  [.., r_i],  E_i = h_i Q_i^T
//   gate input   eq. 9  v = unit(E_1 .. E_N)                    unit(h_1 .. h_N): Q_i keeps lengths
//   logits      eq. 10  v e,  e [N d_out, N]                    unit(h) F,  F = Q^T e  [sum r_i, N]
//   gate        eq. 11  g = softmax(logits / tau)               the same
//   mixture  eq. 12-13  y = x W^T + sum_i g_i E_i               y = x W^T + (g h) Q^T

#include <cmath>
#include <cstdio>

#include <mole/mole.hpp>

using B = mole::Cpu;
using Tensor = mole::Tensor<double, B>;
using mole::Index;

/// Q^T e, expert by expert: what the full-width e [N d_out, N], or its gradient, is in rank space.
Tensor project(const mole::ExpertStack<double, B>& stack, const Tensor& e) {
  const Index d_out = stack.Q.size(0);
  std::vector<Tensor> parts;
  for (std::size_t i = 0; i < stack.ends.size(); ++i) {
    const auto Q_i = mole::slice(stack.Q, 1, i ? stack.ends[i - 1] : 0, stack.ends[i]);
    const auto first = static_cast<Index>(i) * d_out;
    parts.push_back(mole::matmul(Q_i, mole::slice(e, 0, first, first + d_out), mole::Transpose::yes));
  }
  return mole::concat(parts, 0);
}

bool compare(const char* name, const Tensor& letter, const Tensor& rank_space) {
  const auto a = letter.to_host(), b = rank_space.to_host();
  double apart = 0;
  for (std::size_t i = 0; i < a.size(); ++i) apart = std::max(apart, std::abs(a[i] - b[i]));
  std::printf("  %-12s %-12s %20.16f %20.16f   %8.1e\n", name, mole::message(letter.shape()).c_str(), a[0],
              b[0], apart);
  return letter.shape() == rank_space.shape() && apart < 1e-13;
}

int main() {
  constexpr Index S = 2, L = 5, d_in = 12, d_out = 16, N = 3, ranks[] = {2, 4, 3};
  mole::Generator random{.seed = 4};
  auto draw = [&](mole::Shape shape) { return Tensor::randn(shape, random.next(), 0.5); };
  const auto W = draw({d_out, d_in});
  std::vector<mole::LoraExpert<double, B>> experts;  // A_i, B_i, s_i as trained
  std::vector<mole::LoraFactors> factors;            // the same numbers, as MoleLinear takes them
  for (const Index r : ranks) {
    experts.push_back({draw({r, d_in}), draw({d_out, r}), 4 / double(r)});
    const auto& [A_i, B_i, s_i] = experts.back();
    factors.push_back({r, d_in, d_out, s_i, A_i.to_host(), B_i.to_host()});
  }
  // What trains, and x, whose gradient goes on to the layers below. A gate starts at e = 0; here it has
  // learned.
  auto e = draw({N * d_out, N}).set_requires_grad(), log_tau = Tensor::scalar(0.3).set_requires_grad();
  auto x = draw({S, L, d_in}).set_requires_grad(), x_again = x.clone().set_requires_grad();

  mole::MoleLinear<double, B> layer(W, {}, factors, {.pooling = mole::Pooling::token});
  layer.gate().weight.assign(project(layer.experts(), e.detach()));
  layer.gate().log_tau.assign(log_tau);

  const auto letter =
      mole::literal_mole(x, W, Tensor(), experts, e, mole::exp(log_tau), mole::Pooling::token);
  const auto ours = layer(x_again);
  const auto G = draw({S, L, d_out});  // the gradient that a loss above would send down
  mole::backward(letter.y, G);
  mole::backward(ours.y, G);

  std::printf("  %-12s %-12s %20s %20s   %8s\n", "", "shape", "by the letter", "rank space", "apart");
  bool same = compare("g", letter.gate, ours.gate.weights);
  same = compare("y", letter.y, ours.y) && same;
  same = compare("dx", x.grad(), x_again.grad()) && same;
  same = compare("dlog_tau", log_tau.grad(), layer.gate().log_tau.grad()) && same;
  same = compare("Q^T de = dF", project(layer.experts(), e.grad()), layer.gate().weight.grad()) && same;
  std::printf("\n  numbers that train: %lld by the letter, %lld in rank space\n",
              static_cast<long long>(e.size()), static_cast<long long>(layer.gate().weight.size()));
  std::puts(same ? "  The two are one method." : "  NO: they differ.");
  return same ? 0 : 1;
}
