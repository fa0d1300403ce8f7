// What holds for every op, run over the list in op_cases.hpp.

#include <doctest/doctest.h>

#include "op_cases.hpp"
#include "poison.hpp"

using namespace mole;
using namespace mole::testing;

namespace {

/// Value and gradients of one call, with a fixed seed for the sweep.
template <class T>
std::vector<std::vector<double>> run(const OpCase<T>& op) {
  auto inputs = op.inputs();
  for (auto& input : inputs) input.set_requires_grad();
  const auto y = op.f(inputs);
  backward(y, noise<T>(y.shape(), 77));
  std::vector<std::vector<double>> results{doubles(y)};
  for (const auto& input : inputs) results.push_back(doubles(input.grad()));
  return results;
}

}  // namespace

TEST_CASE("Every op's pullback equals finite differences over its full Jacobian") {
  for (const auto& op : op_cases<double>()) {
    CAPTURE(op.name);
    const auto inputs = op.inputs();
    Index entries = 0;
    for (const auto& input : inputs) entries += input.size() * op.f(inputs).size();
    const auto result = grad_check<Device>(op.f, inputs);
    CAPTURE(result.where);
    CHECK(result.compared == entries);
    CHECK(result.worst <= 1e-7);
  }
}

TEST_CASE("Every op leaves a gradient of its input's shape, for empty tensors too") {
  for (const auto& op : op_cases<float>()) {
    CAPTURE(op.name);
    auto inputs = op.inputs();
    for (auto& input : inputs) input.set_requires_grad();
    const auto y = op.f(inputs);
    backward(y, Tensor<float, Device>::ones(y.shape()));
    for (const auto& input : inputs) {
      REQUIRE(input.grad().defined());
      CHECK(input.grad().shape() == input.shape());
    }
  }
}

TEST_CASE("Every op's value and gradients in float equal those in double up to rounding") {
  const auto coarse = op_cases<float>();
  const auto fine = op_cases<double>();
  REQUIRE(coarse.size() == fine.size());
  for (std::size_t i = 0; i < fine.size(); ++i) {
    CAPTURE(fine[i].name);
    const auto expected = run(fine[i]), got = run(coarse[i]);
    REQUIRE(got.size() == expected.size());
    for (std::size_t k = 0; k < got.size(); ++k) CHECK(worst_error(got[k], expected[k]) <= 1e-5);
  }
}

TEST_CASE("Every op frees what it took, and takes nothing new once it runs steadily") {
  const ReusesBlocks<Device> reuses;
  for (const auto& op : op_cases<float>()) {
    CAPTURE(op.name);
    const auto before = buffer_stats<Device>();
    for (int warm = 0; warm < 2; ++warm) run(op);
    const auto warm = buffer_stats<Device>();
    CHECK(warm.in_use == before.in_use);
    for (int again = 0; again < 3; ++again) run(op);
    CHECK(buffer_stats<Device>().allocations == warm.allocations);
  }
}

TEST_CASE("Every op records nothing under NoGrad or for frozen inputs") {
  for (const auto& op : op_cases<float>()) {
    CAPTURE(op.name);
    CHECK_FALSE(op.f(op.inputs()).requires_grad());
    auto inputs = op.inputs();
    for (auto& input : inputs) input.set_requires_grad();
    const NoGrad off;
    CHECK_FALSE(op.f(inputs).requires_grad());
  }
}

TEST_CASE("Every op computes the gradient of one input when the others are frozen") {
  for (const auto& op : op_cases<double>()) {
    CAPTURE(op.name);
    const auto all = run(op);
    for (std::size_t k = 0; k < op.shapes.size(); ++k) {
      auto inputs = op.inputs();
      inputs[k].set_requires_grad();
      const auto y = op.f(inputs);
      backward(y, noise<double>(y.shape(), 77));
      CHECK(worst_error(inputs[k].grad(), all[k + 1]) <= 1e-14);
      for (std::size_t other = 0; other < inputs.size(); ++other)
        if (other != k) CHECK_FALSE(inputs[other].grad().defined());
    }
  }
}

TEST_CASE_TEMPLATE("Every op writes all of its value and gradients, and reads nothing that was not written",
                   T, float, double) {
  const ReusesBlocks<Device> reuses;
  for (const auto& op : op_cases<T>()) {
    CAPTURE(op.name);
    auto inputs = op.inputs();
    for (auto& input : inputs) input.set_requires_grad();
    run(op);
    poison_free_blocks<Device>();
    const auto y = op.f(inputs);
    const auto G = noise<T>(y.shape(), 77);
    poison_free_blocks<Device>();
    backward(y, G);
    auto good = [](const Tensor<T, Device>& x) {
      for (const T v : x.to_host())
        if (!std::isfinite(v)) return false;
      return true;
    };
    CHECK(good(y));
    for (const auto& input : inputs) CHECK(good(input.grad()));
  }
}

TEST_CASE("The check for unwritten results finds one") {
  const ReusesBlocks<Device> reuses;
  Tensor<float, Device>::zeros({3, 5});
  poison_free_blocks<Device>();
  for (const float v : Tensor<float, Device>::empty({3, 5}).to_host()) CHECK(std::isnan(v));
}
