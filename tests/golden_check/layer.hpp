#pragma once
// Goldens of one MoLE layer: each by the letter (eq. 8-13 at full width) and on the rank-space path, which
// takes F = Q^T e and must give Q^T de.

#include <cmath>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include <golden_check/report.hpp>
#include <mole/autodiff/backward.hpp>
#include <mole/experts/literal.hpp>
#include <mole/experts/mole_linear.hpp>
#include <mole/loss/balance.hpp>
#include <mole/loss/cross_entropy.hpp>
#include <mole/loss/mse.hpp>
#include <mole/optim/sgd.hpp>

namespace golden {

/// lora_A.i, lora_B.i and scale of a golden.
inline std::vector<mole::LoraFactors> read_experts(const Golden& golden) {
  const auto scale = golden.numbers("scale");
  std::vector<mole::LoraFactors> experts;
  for (std::size_t i = 0; i < scale.size(); ++i) {
    const std::string a = "lora_A." + std::to_string(i), b = "lora_B." + std::to_string(i);
    const Shape A = golden.shape(a), B = golden.shape(b);
    MOLE_CHECK_FORMAT(A.rank() == 2 && B.rank() == 2 && A[0] == B[1], a, "and", b,
                      "should be [r, d_in] and [d_out, r] but are", A, "and", B);
    experts.push_back({A[0], A[1], B[0], scale[i], golden.numbers(a), golden.numbers(b)});
  }
  return experts;
}

/// The same experts as the literal path takes them.
template <class T, class B>
std::vector<mole::LoraExpert<T, B>> literal_experts(const Golden& golden, std::size_t n) {
  const auto scale = golden.numbers("scale");
  std::vector<mole::LoraExpert<T, B>> experts;
  for (std::size_t i = 0; i < n; ++i) {
    const std::string number = std::to_string(i);
    experts.push_back(
        {golden.tensor<T, B>("lora_A." + number), golden.tensor<T, B>("lora_B." + number), scale[i]});
  }
  return experts;
}

/// Q^T e: from full width, ordered (expert, token, feature), to rank space, ordered (token, expert, rank).
/// e [N L d_out, N]; the result [L R, N].
inline std::vector<double> to_rank_space(const std::vector<double>& e,
                                         const std::vector<mole::LoraFactors>& experts, Index L) {
  const Index N = static_cast<Index>(experts.size()), d_out = experts.front().d_out;
  std::vector<mole::CanonicalExpert> canonical;
  Index R = 0;
  for (const auto& expert : experts) {
    canonical.push_back(mole::canonical(expert));
    R += canonical.back().rank;
  }
  MOLE_CHECK_FORMAT(e.size() == static_cast<std::size_t>(N * L * d_out * N), "e has", e.size(),
                    "elements, expected", N * L * d_out * N);
  std::vector<double> F(static_cast<std::size_t>(L * R * N));
  for (Index i = 0, first = 0; i < N; ++i) {
    const auto& expert = canonical[static_cast<std::size_t>(i)];
    for (Index l = 0; l < L; ++l)
      for (Index o = 0; o < d_out; ++o)
        for (Index k = 0; k < expert.rank; ++k)
          for (Index n = 0; n < N; ++n)
            F[static_cast<std::size_t>((l * R + first + k) * N + n)] +=
                expert.Q[static_cast<std::size_t>(o * expert.rank + k)] *
                e[static_cast<std::size_t>(((i * L + l) * d_out + o) * N + n)];
    first += expert.rank;
  }
  return F;
}

template <class T, class B>
Tensor<T, B> rounded(const Shape& shape, const std::vector<double>& values) {
  return Tensor<T, B>::from(shape, std::vector<T>(values.begin(), values.end()));
}

/// What the gate of a mole_linear golden reads: by its metadata, else by its name.
inline std::string layer_kind(const Golden& golden) {
  const auto found = golden.file().metadata().find("pooling");
  const auto& text = found == golden.file().metadata().end() ? golden.name() : found->second;
  for (const char* kind : {"flatten", "mean", "token", "hidden"})
    if (text.find(kind) != std::string::npos) return kind;
  throw mole::FormatError(
      "neither the metadata \"pooling\" nor the name says flatten, mean, token or hidden");
}

/// The size of the terms that dtau is a sum of: dtau = -<de, e> / tau.
inline double dtau_terms(const Golden& golden) {
  const auto e = golden.numbers("e"), de = golden.numbers("de");
  double sum = 1e-6;
  for (std::size_t i = 0; i < std::min(e.size(), de.size()); ++i) sum += std::abs(e[i] * de[i]);
  return sum / golden.number("tau");
}

/// mole_linear_*: y, the gate, dx, de and dtau.
template <class T, class B>
void check_layer(const Golden& golden) {
  const auto kind = layer_kind(golden);
  const bool hidden = kind == "hidden";
  const auto pooling = hidden ? mole::Pooling::flatten : mole::parse_pooling(kind);
  const auto experts = read_experts(golden);
  MOLE_CHECK_FORMAT(!experts.empty(), "there is no expert: scale is empty");
  const auto W = golden.tensor<T, B>("W"), c = golden.optional<T, B>("bias"), dy = golden.tensor<T, B>("dy"),
             mask = golden.optional<T, B>("token_mask"), keep = golden.optional<T, B>("keep");
  const double tau = golden.number("tau"), terms = dtau_terms(golden);
  const Index L = golden.shape("x")[1];

  if (!hidden)
    golden.part("literal", [&] {
      const auto x = golden.tensor<T, B>("x").set_requires_grad(),
                 e = golden.tensor<T, B>("e").set_requires_grad(),
                 t = Tensor<T, B>::scalar(static_cast<T>(tau)).set_requires_grad();
      const auto found = mole::literal_mole(x, W, c, literal_experts<T, B>(golden, experts.size()), e, t,
                                            pooling, mask, keep);
      golden.compare("literal y", found.y, "y");
      golden.compare("literal gate", found.gate, "gate");
      backward(found.y, dy);
      golden.compare("literal dx", x.grad(), "dx");
      golden.compare("literal de", e.grad(), "de");
      golden.compare("literal dtau", t.grad(), "dtau", terms);
    });
  golden.part("rank-space", [&] {
    mole::MoleLinear<T, B> layer(W, c, experts,
                                 {.scope = mole::Scope::matrix,
                                  .input = hidden ? mole::GateInput::hidden : mole::GateInput::experts,
                                  .pooling = pooling,
                                  .length = L,
                                  .temperature = tau});
    const Index span = pooling == mole::Pooling::flatten ? L : 1;
    auto in_rank_space = [&](const std::string& name) {
      return hidden ? golden.numbers(name) : to_rank_space(golden.numbers(name), experts, span);
    };
    layer.gate().weight.assign(rounded<T, B>(layer.gate().weight.shape(), in_rank_space("e")));
    const auto x = golden.tensor<T, B>("x").set_requires_grad();
    const auto found = layer(x, mask, keep);
    golden.compare("rank-space y", found.y, "y");
    golden.compare("rank-space gate", found.gate.weights, "gate");
    backward(found.y, dy);
    golden.compare("rank-space dx", x.grad(), "dx");
    // Q^T de may vanish where de does not: de's size is what its rounding is relative to.
    double size = 1e-6;
    for (const double value : golden.numbers("de")) size = std::max(size, std::abs(value));
    golden.compare_with(hidden ? "rank-space de" : "rank-space Q^T de", layer.gate().weight.grad().to_host(),
                        in_rank_space("de"), size);
    const T dlog_tau = layer.gate().log_tau.grad().item();
    golden.compare("rank-space dtau", std::vector<T>{dlog_tau / static_cast<T>(tau)}, "dtau", terms);
  });
}

/// Trains a token gate as sgd_trajectory does. `forward` gives y and the gate [S, L, N].
template <class T, class B, class Forward>
void run_trajectory(const Golden& golden, const std::string& path, const Tensor<T, B>& weight,
                    const Tensor<T, B>& log_tau, const std::vector<double>& final_weight, Forward forward) {
  const auto steps = static_cast<std::size_t>(golden.shape("losses").size());
  const double rate = golden.setting("lr", 0.5), alpha = golden.setting("alpha", 0.5);
  const auto target = golden.tensor<T, B>("target");
  mole::Sgd<T, B> optimizer({weight, log_tau});
  std::vector<T> losses;
  Tensor<T, B> gate;
  for (std::size_t i = 0; i < steps; ++i) {
    optimizer.zero_grad();
    Tensor<T, B> y;
    std::tie(y, gate) = forward();
    const auto balance = mole::balance_loss<T, B>({{gate, {}, {}}}, gate.size(-1));
    const auto loss = add(mole::mse(y, target), scale(balance, static_cast<T>(alpha)));
    losses.push_back(loss.item());
    backward(loss);
    optimizer.step(rate);
  }
  golden.compare(path + " losses", losses, "losses");
  golden.compare(path + " final gate", gate, "final_gate");
  golden.compare_with(path == "literal" ? "literal final e" : "rank-space final Q^T e", weight.to_host(),
                      final_weight);
  golden.compare(path + " final log_tau", log_tau, "final_log_tau");
}

/// sgd_trajectory: both paths take the same way.
template <class T, class B>
void check_trajectory(const Golden& golden) {
  const auto experts = read_experts(golden);
  MOLE_CHECK_FORMAT(!experts.empty(), "there is no expert: scale is empty");
  const auto x = golden.tensor<T, B>("x"), W = golden.tensor<T, B>("W"), c = golden.optional<T, B>("bias");
  golden.part("literal", [&] {
    const auto e = Tensor<T, B>::zeros(golden.shape("final_e")).set_requires_grad(),
               log_tau = Tensor<T, B>::scalar(T(0)).set_requires_grad();
    const auto factors = literal_experts<T, B>(golden, experts.size());
    run_trajectory<T, B>(golden, "literal", e, log_tau, golden.numbers("final_e"), [&] {
      const auto out = mole::literal_mole(x, W, c, factors, e, exp(log_tau), mole::Pooling::token);
      return std::pair{out.y, out.gate};
    });
  });
  golden.part("rank-space", [&] {
    mole::MoleLinear<T, B> layer(W, c, experts, {.pooling = mole::Pooling::token});
    run_trajectory<T, B>(golden, "rank-space", layer.gate().weight, layer.gate().log_tau,
                         to_rank_space(golden.numbers("final_e"), experts, 1), [&] {
                           const auto out = layer(x);
                           return std::pair{out.y, out.gate.weights};
                         });
  });
}

}  // namespace golden
