// The weighted total of eq. 16, and FLAN-T5's domain loss in it.

#include <limits>

#include <doctest/doctest.h>
#include <loss/golden.hpp>
#include <mole/autodiff/backward.hpp>
#include <mole/autodiff/grad_check.hpp>
#include <mole/loss/cross_entropy.hpp>
#include <mole/loss/total.hpp>

using mole::testing::Device;

TEST_CASE_TEMPLATE("FLAN-T5's cross entropy and its gradients equal the golden, plain and smoothed", T, float,
                   double) {
  const Golden golden("t5_loss");
  auto logits = golden.tensor<T>("logits").set_requires_grad();
  const auto labels = golden.indices("labels");
  const auto plain = cross_entropy(logits, labels);
  CHECK(golden.error(plain, "loss") <= golden_tolerance<T>);
  backward(plain);
  CHECK(golden.error(logits.grad(), "dlogits") <= golden_tolerance<T>);
  logits.zero_grad();
  const auto smoothed = cross_entropy(logits, labels, {.label_smoothing = 0.1});
  CHECK(golden.error(smoothed, "loss_smoothed") <= golden_tolerance<T>);
  backward(smoothed);
  CHECK(golden.error(logits.grad(), "dlogits_smoothed") <= golden_tolerance<T>);
}

TEST_CASE_TEMPLATE("The total is L_D + alpha L_balance", T, float, double) {
  using Tensor = mole::Tensor<T, Device>;
  auto domain = Tensor::scalar(T(2)).set_requires_grad(), balance = Tensor::scalar(T(3)).set_requires_grad();
  const auto total = total_loss(domain, balance, 0.5);
  CHECK(total.item() == T(3.5));
  backward(total);
  CHECK(domain.grad().item() == T(1));
  CHECK(balance.grad().item() == T(0.5));
}

TEST_CASE("The total's gradients equal finite differences") {
  using D = mole::Tensor<double, Device>;
  const auto result = mole::grad_check<Device>(
      [](const auto& x) { return mole::total_loss(x[0], x[1], 0.3); }, {D::scalar(1.5), D::scalar(-2.)});
  CHECK_MESSAGE(result.ok, result.where);
}

TEST_CASE_TEMPLATE("With alpha 0 not even an infinite balance shows", T, float, double) {
  using Tensor = mole::Tensor<T, Device>;
  CHECK(total_loss(Tensor::scalar(2), Tensor::scalar(std::numeric_limits<T>::infinity()), 0).item() == T(2));
}

TEST_CASE("A total of what is no scalar, or with an impossible alpha, is refused") {
  using D = mole::Tensor<double, Device>;
  const auto one = D::scalar(1);
  CHECK_THROWS_AS(total_loss(one, D::ones({2}), 1), mole::ShapeError);
  CHECK_THROWS_AS(total_loss(D::ones({1}), one, 1), mole::ShapeError);
  CHECK_THROWS_AS(total_loss(one, one, -1), mole::ArgumentError);
  CHECK_THROWS_AS(total_loss(one, one, NAN), mole::ArgumentError);
}
