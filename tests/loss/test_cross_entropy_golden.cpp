// Token cross entropy against the numbers of an independent implementation.

#include <doctest/doctest.h>

#include <mole/io/safetensors.hpp>
#include <mole/mole.hpp>

#include "testing.hpp"

using namespace mole;
using namespace mole::testing;

TEST_CASE_TEMPLATE("cross_entropy and its gradient equal the golden numbers, plain and smoothed", T, float,
                   double) {
  const SafetensorsFile file(MOLE_TEST_DATA "/golden/t5_loss.safetensors");
  const double tolerance = std::same_as<T, float> ? 2e-5 : 1e-10;
  const auto labels = Tensor<Index, Device>::from(file.at("labels").shape, file.read<Index>("labels"));
  for (const bool smoothed : {false, true}) {
    const std::string suffix = smoothed ? "_smoothed" : "";
    auto logits =
        Tensor<T, Device>::from(file.at("logits").shape, file.read<T>("logits")).set_requires_grad();
    const auto loss = cross_entropy(logits, labels, {.label_smoothing = smoothed ? 0.1 : 0.0});
    backward(loss);
    CHECK(worst_error(loss, file.read<double>("loss" + suffix)) <= tolerance);
    CHECK(worst_error(logits.grad(), file.read<double>("dlogits" + suffix)) <= tolerance);
  }
}
