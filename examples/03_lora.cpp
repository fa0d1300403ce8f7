// Lesson 3: LoRA. A big frozen layer learns a new skill through a narrow side path.
//
//   x [S, L, d_in]                       the input
//   W [d_out, d_in]                      the frozen weight
//   A [r, d_in], B [d_out, r], s         the LoRA: r is small, s = alpha / r
//   E(x) = s (x A^T) B^T                 what the LoRA adds                           eq. 8
//   y = x W^T + E(x)                     as if W had changed by s B A, of rank r
//
// A is named `down` and B `up` in code. B starts at zero, so training starts at the frozen layer.

#include <cmath>
#include <cstdio>

#include <mole/mole.hpp>

using B = mole::Cpu;
using Tensor = mole::Tensor<double, B>;
using mole::Index;

int main() {
  constexpr Index S = 8, L = 16, d_in = 64, d_out = 48, r = 4;
  mole::Generator random{.seed = 3};
  const auto W = Tensor::randn({d_out, d_in}, random.next(), 1 / std::sqrt(double(d_in)));

  // The skill to learn: another layer, W plus a change of rank 2.
  const auto left = Tensor::randn({d_out, 2}, random.next()),
             right = Tensor::randn({2, d_in}, random.next(), 0.1);
  const auto W_new = W + mole::matmul(left, right);

  const auto lora = mole::make_lora<double, B>(r, d_in, d_out, /*scale=*/2.0, random.next());
  const auto layer = [&](const Tensor& x) { return mole::linear(x, W) + mole::lora_output(x, lora); };
  std::printf("frozen W: %lld numbers; LoRA of rank %lld: %lld numbers train\n",
              static_cast<long long>(W.size()), static_cast<long long>(r),
              static_cast<long long>(lora.down.size() + lora.up.size()));

  const auto W_before = W.to_host();
  mole::AdamW<double, B> optimizer({lora.down, lora.up}, {.weight_decay = 0});
  const mole::Schedule schedule{mole::ScheduleKind::cosine, 0.02, /*warmup_steps=*/10, /*total_steps=*/300};
  double first = 0, last = 0;
  std::printf("\n  %4s   %s\n", "step", "mean squared error");
  for (Index step = 0; step <= 300; ++step) {
    const auto x = Tensor::randn({S, L, d_in}, random.next());
    const auto loss = mole::mse(layer(x), mole::linear(x, W_new));
    last = loss.item();
    if (step == 0) first = last;
    if (step % 50 == 0) std::printf("  %4lld   %.2e\n", static_cast<long long>(step), last);
    optimizer.zero_grad();
    mole::backward(loss);
    optimizer.step(schedule.rate(step));
  }
  const bool learned = last < 1e-6 * first, untouched = W.to_host() == W_before;
  std::printf("the LoRA learned the skill: %s;  W is as it was: %s\n", learned ? "yes" : "NO",
              untouched ? "yes" : "NO");

  // A trained expert is frozen in canonical form: B = Q R with Q^T Q = 1, and s R goes into A. Then
  // E(x) = h Q^T with h = x (s R A)^T, and h, r wide, is as long as E(x), d_out wide. MoLE's gates read
  // lengths and directions of E, so they can read h instead. Lesson 4 shows that nothing is lost.
  const auto expert = mole::canonical({r, d_in, d_out, lora.scale, lora.down.to_host(), lora.up.to_host()});
  const auto x = Tensor::randn({1, 3, d_in}, random.next());
  const auto E = mole::lora_output(x, lora).detach();
  const auto h = mole::linear(x, Tensor::from({r, d_in}, expert.A));
  const auto E_length = mole::sum(E * E, {-1}).to_host(), h_length = mole::sum(h * h, {-1}).to_host();
  const auto again = mole::linear(h, Tensor::from({d_out, r}, expert.Q));
  std::puts("\n  token     |E(x)|         |h|");
  bool same = mole::mse(again, E).item() < 1e-24;
  for (std::size_t t = 0; t < 3; ++t) {
    std::printf("  %5zu %10.6f  %10.6f\n", t, std::sqrt(E_length[t]), std::sqrt(h_length[t]));
    same = same && std::abs(E_length[t] - h_length[t]) < 1e-10 * E_length[t];
  }
  std::printf("h is E, r wide: %s\n", same ? "yes" : "NO");
  return learned && untouched && same ? 0 : 1;
}
