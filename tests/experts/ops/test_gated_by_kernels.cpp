// Gated mixtures by a backend's gate kernels, with kernels of a few lines on the processor.

#include <doctest/doctest.h>

#include <vector>

#include "experts/ops/with_kernels.hpp"

// Not the extents of the other suites that are compiled with this one.
namespace with_kernels {

TEST_CASE(
    "Layers taken together by the gate's kernels equal the row functors, gradients too, whatever is read") {
  for (const bool biased : {false, true})
    for (const bool adjacent_W : {false, true})
      for (std::size_t r = 0; r < readings.size(); ++r) {
        CAPTURE(message(biased, adjacent_W, r));
        const std::vector<Index> experts(layers_in_all, N);
        WithKernels::forward_calls = WithKernels::backward_calls = 0;
        const auto found = run(make_layers<WithKernels>(experts, biased, adjacent_W), readings[r]);
        CHECK(WithKernels::forward_calls == 1);
        CHECK(WithKernels::backward_calls == 1);
        check_equal(found, run(make_layers<Cpu>(experts, biased, adjacent_W), readings[r]));
      }
}

TEST_CASE("Gates whose kernels make the product they read give what a product ahead of them gives") {
  WithKernels::takes_gate_products = true;
  for (const std::vector<Index>& experts : {std::vector<Index>(layers_in_all, N), {N, 3, N}})
    for (std::size_t r = 0; r < readings.size(); ++r) {
      CAPTURE(message(experts[1], r));
      WithKernels::gate_product_calls = 0;
      const auto found = run(make_layers<WithKernels>(experts, r % 2 == 0, true, true), readings[r]);
      // Back where all y of a group were read.
      const auto read = readings[r].y.size() + (readings[r].glued ? 2 : 0);
      if (experts[1] == N)
        CHECK(WithKernels::gate_product_calls == (r == 0 || r == 6 ? 2 : 1));
      else
        CHECK(WithKernels::gate_product_calls >= 3 + static_cast<int>(read > 0));
      check_equal(found, run(make_layers<Cpu>(experts, r % 2 == 0, true, true), readings[r]));
    }
  WithKernels::takes_gate_products = false;
}

TEST_CASE("Layers whose gates read a scaled input give by the kernels what they give by the row functors") {
  for (std::size_t r = 0; r < readings.size(); ++r) {
    CAPTURE(r);
    const std::vector<Index> experts(layers_in_all, N);
    WithKernels::forward_calls = 0;
    const auto found = run(make_layers<WithKernels>(experts, true, true, true), readings[r]);
    CHECK(WithKernels::forward_calls == 1);
    const auto expected = run(make_layers<Cpu>(experts, true, true, true), readings[r]);
    check_equal(found, expected);
    CHECK(worst_error(found[1], run(make_layers<Cpu>(experts, true, true), readings[r])[1]) > 1e-3);
  }
  // A gate by itself, whose gradients add up over two passes.
  const auto gradients = [&]<class B>(const std::vector<GatedLayer<double, B>>& layers) {
    const auto& l = layers.front();
    for (int pass = 0; pass < 2; ++pass) {
      const auto v = noise<double, B>({S, L, R}, 120);
      const auto g = gate_softmax(v, l.F, l.log_tau, l.keep, 1e-12, l.scale);
      backward(sum(g * noise<double, B>(g.shape(), 121)));
    }
    return std::vector{doubles(l.F.grad()), doubles(l.log_tau.grad())};
  };
  const std::vector<Index> one{N};
  check_equal(gradients(make_layers<WithKernels>(one, true, true, true)),
              gradients(make_layers<Cpu>(one, true, true, true)));
}

TEST_CASE("Layers that differ, or lie apart, are taken one by one") {
  const Reading all{{0, 1, 2}, {0, 1, 2}, true};
  WithKernels::forward_calls = 0;
  check_equal(run(make_layers<WithKernels>({4, 3, 4}, true, true), all),
              run(make_layers<Cpu>({4, 3, 4}, true, true), all));
  CHECK(WithKernels::forward_calls == layers_in_all);

  auto apart = make_layers<WithKernels>({4, 4, 4}, false, false);
  apart[1].A = apart[1].A.clone();
  WithKernels::forward_calls = 0;
  check_equal(run(apart, all), run(make_layers<Cpu>({4, 4, 4}, false, false), all));
  CHECK(WithKernels::forward_calls == layers_in_all);
}

TEST_CASE("Gates that the kernels do not fit are left to the row functors") {
  const Reading all{{0, 1, 2}, {0, 1, 2}, false};
  WithKernels::forward_calls = WithKernels::backward_calls = 0;
  check_equal(run(make_layers<WithKernels>({6, 6, 6}, true, false), all),
              run(make_layers<Cpu>({6, 6, 6}, true, false), all));
  CHECK(WithKernels::forward_calls == 0);
  CHECK(WithKernels::backward_calls == 0);
}

TEST_CASE("Two layers with the same gate weight do not add to its gradient at once") {
  auto layers = make_layers<WithKernels>({4, 4}, false, false);
  auto plain = make_layers<Cpu>({4, 4}, false, false);
  layers[1].F = layers[0].F;
  plain[1].F = plain[0].F;
  const Reading both{{0, 1}, {}, false};
  check_equal(run(layers, both), run(plain, both));
}

TEST_CASE_TEMPLATE("A layer that nobody reads gets no gradient, whoever shares its input", B, Cpu,
                   WithKernels) {
  const auto layers = make_layers<B>({4, 4, 4}, false, true);
  auto x = noise<double, B>({S, L, d_in}, 1);
  x.set_requires_grad();
  {
    const auto made = gated_mixtures(x, layers);
    backward(sum(made[0].y) + sum(made[2].g * made[2].g));
  }
  for (const std::size_t i : {0u, 2u})
    CHECK((layers[i].F.grad().defined() && layers[i].log_tau.grad().defined()));
  CHECK_FALSE(layers[1].F.grad().defined());
  CHECK_FALSE(layers[1].log_tau.grad().defined());
}

TEST_CASE_TEMPLATE("The outputs of layers taken together can be read back by one backward() after another", B,
                   Cpu, WithKernels) {
  const auto layers = make_layers<B>({4, 4, 4}, true, false);
  const auto readings_of = [&](const auto& made, std::size_t i) {
    return i < 3 ? sum(made[i].y * noise<double, B>({S, L, d_out}, 60 + i))
                 : sum(made[i - 3].g * noise<double, B>({S, L, N}, 70 + i));
  };
  const auto gradients = [&](bool one_by_one) {
    auto x = noise<double, B>({S, L, d_in}, 1);
    x.set_requires_grad();
    const auto made = gated_mixtures(x, layers);
    auto all = Tensor<double, B>::scalar(0);
    for (std::size_t i = 0; i < 6; ++i) {
      if (one_by_one)
        backward(readings_of(made, i));
      else
        all = all + readings_of(made, i);
    }
    if (!one_by_one) backward(all);
    std::vector<std::vector<double>> found{doubles(x.grad())};
    for (const auto& layer : layers) {
      found.push_back(doubles(layer.F.grad()));
      found.push_back(doubles(layer.log_tau.grad()));
      layer.F.zero_grad();
      layer.log_tau.zero_grad();
    }
    return found;
  };
  check_equal(gradients(true), gradients(false));
}

TEST_CASE(
    "What a layer keeps is given back before its input's gradient is there, unless somebody may need it") {
  const auto layer = make_layers<WithKernels>({4}, false, false).front();
  const auto extra_bytes = [&](bool hold_gate) {
    auto x = noise<double, WithKernels>({4, 512, d_in}, 3);
    x.set_requires_grad();
    auto made = gated_mixture(x, layer);
    if (!hold_gate) made.g = {};
    const auto before = buffer_stats<WithKernels>().in_use;
    BufferPool<WithKernels>::instance().reset_peak();
    backward(made.y, noise<double, WithKernels>(made.y.shape(), 4));
    return buffer_stats<WithKernels>().peak - before;
  };
  CHECK(extra_bytes(false) < extra_bytes(true));
}

}  // namespace with_kernels
