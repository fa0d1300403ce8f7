// Lesson 5: a layer learns which expert to ask.
//
//   W, E_1, E_2    a frozen layer and two frozen LoRA experts, each trained elsewhere
//   x              inputs of two kinds; expert k made the answers to kind k:  t = x W^T + E_k(x)
//   F, tau         the gate's parameters, all that trains                                    eq. 10-11
//   g [S, N]       one gate a sequence, from the mean of its tokens (Pooling::mean)
//   q_i            expert i's share: the mean of g_i over the batch                          eq. 15
//   L              mse(y, t) + alpha L_balance,  L_balance = -sum_i log q_i >= N log N       eq. 14, 16

#include <cmath>
#include <cstdio>

#include <mole/mole.hpp>

using B = mole::Cpu;
using Tensor = mole::Tensor<double, B>;
using Layer = mole::MoleLinear<double, B>;
using mole::Index;

constexpr Index S = 8, L = 8, d_in = 24, d_out = 32, r = 4, N = 2;
mole::Generator generator{.seed = 5};
Tensor draw(mole::Shape shape, double deviation) { return Tensor::randn(shape, generator.next(), deviation); }

const Tensor W = draw({d_out, d_in}, 0.2);
const mole::LoraExpert<double, B> experts[N] = {{draw({r, d_in}, 0.3), draw({d_out, r}, 0.3), 1.0},
                                                {draw({r, d_in}, 0.3), draw({d_out, r}, 0.3), 1.0}};
const Tensor centres[N] = {draw({d_in}, 1), draw({d_in}, 1)};  // where the inputs of each kind lie

Tensor input(int kind) { return draw({S, L, d_in}, 2) + centres[kind]; }

Layer untrained() {
  std::vector<mole::LoraFactors> factors;
  for (const auto& [A, B_k, s] : experts) factors.push_back({r, d_in, d_out, s, A.to_host(), B_k.to_host()});
  return Layer(W, {}, factors, {.pooling = mole::Pooling::mean});
}

/// The mean gate [N] on new inputs of a kind.
std::vector<double> gates(const Layer& layer, int kind, const char* when) {
  const mole::NoGrad off;
  const auto g = mole::mean(layer(input(kind)).gate.weights, {0}).to_host();
  std::printf("  new inputs of kind %d, %-16s g_1 %.3f   g_2 %.3f\n", kind + 1, when, g[0], g[1]);
  return g;
}

void train(Layer& layer, const std::vector<int>& kinds, double alpha) {
  std::printf("  %4s %12s %12s\n", "step", "mse(y, t)", "L_balance");
  mole::AdamW<double, B> optimizer(layer.parameters(), {.weight_decay = 0});
  for (int step = 0; step <= 120; ++step) {
    std::vector<Tensor> x, t;
    for (const int kind : kinds) {
      x.push_back(input(kind));
      t.push_back(mole::linear(x.back(), W) + mole::lora_output(x.back(), experts[kind]));
    }
    const auto out = layer(mole::concat(x, 0));
    const auto domain = mole::mse(out.y, mole::concat(t, 0));
    const auto balance = mole::balance_loss<double, B>({{out.gate.dense, {}, {}}}, N);
    if (step % 40 == 0) std::printf("  %4d %12.5f %12.5f\n", step, domain.item(), balance.item());
    optimizer.zero_grad();
    mole::backward(mole::total_loss(domain, balance, alpha));
    optimizer.step(0.02);
  }
}

int main() {
  bool holds = true;
  std::printf("Both kinds, alpha = 0.1 (N log N = %.5f)\n", N * std::log(2.0));
  auto layer = untrained();
  for (const int kind : {0, 1}) holds = gates(layer, kind, "before training:")[0] == 0.5 && holds;
  train(layer, {0, 1}, 0.1);
  for (const int kind : {0, 1}) holds = gates(layer, kind, "after:")[std::size_t(kind)] > 0.9 && holds;

  std::puts("\nOnly kind 1, alpha = 0: expert 2 is forgotten");
  train(layer = untrained(), {0}, 0);
  const double forgotten = gates(layer, 0, "after:")[1];
  std::puts("\nOnly kind 1, alpha = 0.1: the balance loss keeps expert 2 alive");
  train(layer = untrained(), {0}, 0.1);
  holds = gates(layer, 0, "after:")[1] > 2 * forgotten && holds;
  return holds ? 0 : 1;
}
