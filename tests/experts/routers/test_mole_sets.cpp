// Gates of several sets in one go: each sequence's are those that its set's gate makes alone.

#include <array>
#include <cstddef>
#include <vector>

#include <doctest/doctest.h>

#include <mole/mole.hpp>

#include "testing.hpp"

using namespace mole;
using namespace mole::testing;

namespace mole_sets {

namespace {

constexpr Index features = 150, N = 5, n_sets = 3;
const std::vector<Index> chosen{2, 0, 2, 1};

template <class T>
std::vector<Gate<T, Device>> random_gates(InputScale input_scale, Index rank) {
  std::vector<Gate<T, Device>> gates;
  for (std::uint64_t k = 0; k < n_sets; ++k) {
    auto gate = rank == 0 ? make_gate<T, Device>(features, {0, 1, 2, 3, 4}, 0.5)
                          : make_gate_of_rank<T, Device>(features, {0, 1, 2, 3, 4}, rank, {1, k}, 0.5);
    gate.scale = unmeasured_scale<T, Device>(input_scale, features);
    std::uint64_t stream = 10 * k;
    const std::array kept{gate.weight, gate.U, gate.V, gate.log_tau, gate.scale.mean, gate.scale.factor};
    for (const auto& tensor : kept)
      if (tensor.defined()) tensor.assign(noise<T, Device>(tensor.shape(), ++stream));
    gates.push_back(gate);
  }
  return gates;
}

/// The worst error of the weights of all sequences in one go against those of each alone.
template <class T>
double worst_difference(InputScale input_scale, Index rank, Index tokens, bool masked) {
  const auto gates = random_gates<T>(input_scale, rank);
  std::vector<const Gate<T, Device>*> pointers;
  for (const auto& gate : gates) pointers.push_back(&gate);
  const auto S = static_cast<Index>(chosen.size());
  const auto v = noise<T, Device>(tokens ? Shape{S, tokens, features} : Shape{S, features}, 99);
  const auto keep =
      masked ? Tensor<T, Device>::from({N}, {T(1), T(0), T(1), T(1), T(0)}) : Tensor<T, Device>();
  const auto all = softmax_of_sets(pointers, chosen, v, keep);
  REQUIRE(all.shape() == v.shape().with(-1, N));
  CHECK_FALSE(all.requires_grad());
  double worst = 0;
  for (Index s = 0; s < S; ++s) {
    const auto alone = gate_weights(gates[static_cast<std::size_t>(chosen[static_cast<std::size_t>(s)])],
                                    slice(v, 0, s, s + 1), keep);
    worst = std::max(worst, worst_error(doubles(slice(all, 0, s, s + 1)), doubles(alone.dense)));
  }
  return worst;
}

}  // namespace

TEST_CASE("Gates of several sets in one go are those of each sequence's set alone") {
  for (const auto input_scale : {InputScale::unit, InputScale::standardised, InputScale::common})
    for (const Index rank : {0, 4})
      for (const Index tokens : {0, 3})
        for (const bool masked : {false, true}) {
          CAPTURE(message(to_string(input_scale), rank, tokens, masked));
          CHECK(worst_difference<double>(input_scale, rank, tokens, masked) <= 1e-12);
        }
}

TEST_CASE("In float and in two bytes they are so to the type's rounding") {
  CHECK(worst_difference<float>(InputScale::standardised, 0, 3, false) <= 1e-5);
  CHECK(worst_difference<bf16>(InputScale::unit, 0, 0, false) <= 0.05);
}

}  // namespace mole_sets
