// Gated mixtures on a backend that has neither the kernels of a gate nor chunks of rows for its threads.

#include <doctest/doctest.h>

#include <vector>

#include <mole/autodiff/backward.hpp>
#include <mole/experts/ops/gated_mixture.hpp>

#include "testing.hpp"

using namespace mole;
using namespace mole::testing;

namespace {

struct WithoutChunks : Cpu {
  static constexpr const char* name = "cpu without chunks";
  // Hides the processor's own.
  static constexpr Index chunk_rows = 0;
};

static_assert(detail::has_chunks<double, Cpu> && !detail::has_chunks<double, WithoutChunks>);
static_assert(!detail::has_chunks<bf16, Cpu>);

/// y, g and the gradients of x, F and log_tau for `tokens` tokens. `of_x`: whether x has one; `reads_g`: whether the
/// gate is read beside y; `scaled`: whether it reads a scaled input.
template <class B>
std::vector<std::vector<double>> run(Index tokens, bool of_x, bool reads_g, bool scaled) {
  using D = Tensor<double, B>;
  const auto W = noise<double, B>({7, 4}, 2), c = noise<double, B>({7}, 3), A = noise<double, B>({6, 4}, 4),
             Q = noise<double, B>({7, 6}, 5);
  const auto of = Tensor<Index, B>::from({6}, {0, 0, 1, 2, 2, 2});
  const GateScale<double, B> scale =
      scaled ? GateScale<double, B>{noise<double, B>({6}, 10), noise<double, B>({6}, 11) + 2.0}
             : GateScale<double, B>{};
  auto x = noise<double, B>({1, tokens, 4}, 8), F = noise<double, B>({6, 4}, 9), log_tau = D::scalar(0.4);
  if (of_x) x.set_requires_grad();
  F.set_requires_grad();
  log_tau.set_requires_grad();
  const auto [y, g] = gated_mixture(x, {W, c, A, Q, of, F, log_tau, D(), scale});
  auto seen = sum(y * noise<double, B>({1, tokens, 7}, 6));
  if (reads_g) seen = seen + sum(g * noise<double, B>({1, tokens, 4}, 7));
  backward(seen);
  std::vector<std::vector<double>> found{doubles(y), doubles(g), doubles(F.grad()), doubles(log_tau.grad())};
  if (of_x) found.push_back(doubles(x.grad()));
  return found;
}

}  // namespace

TEST_CASE("Rows by steps give what chunks of rows give, for batches of any length") {
  // None, too few for chunks, whole chunks and parts, of both sizes.
  for (const Index tokens : {0, 1, 130, 511, 512, 600, 1100})
    for (int flags = 0; flags < 8; ++flags) {
      CAPTURE(message(tokens, flags));
      const bool of_x = flags & 1, reads_g = flags & 2, scaled = flags & 4;
      const auto steps = run<WithoutChunks>(tokens, of_x, reads_g, scaled),
                 chunks = run<Cpu>(tokens, of_x, reads_g, scaled);
      REQUIRE(steps.size() == chunks.size());
      for (std::size_t i = 0; i < steps.size(); ++i) {
        CAPTURE(i);
        // Of F and tau the gradients sum over the tokens.
        CHECK(worst_error(steps[i], chunks[i]) <= (i == 2 || i == 3 ? 1e-11 : 1e-13));
      }
    }
}
