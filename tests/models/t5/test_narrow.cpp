// A T5 stored in bf16 or half, with its experts and gates, against the same in float.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <string>
#include <type_traits>
#include <vector>

#include <doctest/doctest.h>
#include <models/t5/tiny_t5.hpp>
#include <mole/loss/total.hpp>

using namespace mole;
using namespace mole::testing;

namespace {

struct T5Step {
  std::vector<double> loss, balance, logits, gradients;
};

/// With `nudge`, each parameter of the model is moved by up to that share of itself, drawn by `draw`.
template <class T>
T5Step t5_step(Pooling pooling, double nudge = 0, std::uint64_t draw = 0) {
  auto model = tiny_t5<T>();
  if (nudge > 0) {
    Generator generator{draw};
    model.visit([&](const std::string&, const Shape&, Tensor<T, Device>& tensor) {
      auto values = tensor.to_host();
      const auto stream = generator.next();
      for (std::size_t i = 0; i < values.size(); ++i)
        values[i] = static_cast<T>(static_cast<double>(values[i]) *
                                   (1 + nudge * (2 * uniform(stream, static_cast<Index>(i)) - 1)));
      tensor = Tensor<T, Device>::from(tensor.shape(), values);
    });
  }
  model.attach(tiny_adapters(model), {.scope = Scope::layer, .pooling = pooling, .length = tiny_length});
  scatter_gates(model);
  MolePass<T, Device> pass;
  const auto batch = tiny_batch<T>();
  const auto loss = model.loss(batch, pass);
  const auto balance = model.balance(pass);
  backward(total_loss(loss, balance, 0.1));
  T5Step step{doubles(loss), doubles(balance), {}, {}};
  for (const auto& parameter : model.mixer().parameters())
    for (const double g : doubles(parameter.grad())) step.gradients.push_back(g);
  MolePass<T, Device> again;
  step.logits = doubles(model.logits(batch, again));
  return step;
}

/// Length of a - b over that of b.
double relative_error(const std::vector<double>& a, const std::vector<double>& b) {
  REQUIRE(a.size() == b.size());
  double error = 0, size = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    error += (a[i] - b[i]) * (a[i] - b[i]);
    size += b[i] * b[i];
  }
  return std::sqrt(error / size);
}

}  // namespace

TEST_CASE_TEMPLATE("A T5's losses, logits and gate gradients are those of float up to a few roundings", T,
                   bf16, mole::half) {
  const double rounding = std::is_same_v<T, bf16> ? 0x1p-8 : 0x1p-11;
  for (const Pooling pooling : {Pooling::flatten, Pooling::mean, Pooling::token}) {
    CAPTURE(std::string(to_string(pooling)));
    const auto narrow = t5_step<T>(pooling), wide = t5_step<float>(pooling);
    CHECK(relative_error(narrow.loss, wide.loss) <= 4 * rounding);
    CHECK(relative_error(narrow.balance, wide.balance) <= 4 * rounding);
    // How far one rounding of the weights alone moves them, all else in float: about 10 and 20 roundings.
    double logits = 0, gradients = 0;
    for (std::uint64_t draw = 0; draw < 8; ++draw) {
      const auto moved = t5_step<float>(pooling, rounding, draw);
      logits = std::max(logits, relative_error(moved.logits, wide.logits));
      gradients = std::max(gradients, relative_error(moved.gradients, wide.gradients));
    }
    CHECK(relative_error(narrow.logits, wide.logits) <= 4 * logits);
    CHECK(relative_error(narrow.gradients, wide.gradients) <= 4 * gradients);
  }
}
