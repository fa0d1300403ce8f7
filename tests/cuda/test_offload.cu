// Checkpointed inputs that wait in pinned memory.

#include <doctest/doctest.h>

#include <memory>
#include <vector>

#include <mole/cuda.cuh>

#include "testing.hpp"

using namespace mole;
using namespace mole::testing;

namespace {

using Floats = Tensor<float, Cuda>;
using Offloaded = std::shared_ptr<Offload<float, Cuda>>;

constexpr int offload_parts = 8;
/// Each input takes 8 MB.
const Shape offload_shape{2048, 1024};
const std::size_t offload_bytes = sizeof(float) * static_cast<std::size_t>(offload_shape.size());

/// A chain of parts, each of them run again on the way back, that reads x and trains w, and its loss.
struct OffloadChain {
  Floats x = noise<float, Cuda>(offload_shape, 1), w = noise<float, Cuda>({1024}, 2).set_requires_grad();
  Floats W = Floats::randn({1024, 1024}, {4711, 3}, 0.03f);

  Floats loss(const Offloaded& offload) const {
    auto y = x * w;
    for (int i = 0; i < offload_parts; ++i)
      y = checkpoint<float, Cuda>(
              {y}, {w},
              [W = W, w = w](const std::vector<Floats>& in) {
                return std::vector<Floats>{in[0] + tanh(linear(gelu(linear(rms_norm(in[0], w), W)), W))};
              },
              offload)
              .front();
    return mean(square(y));
  }

  std::vector<float> gradient(const Offloaded& offload) const {
    w.zero_grad();
    backward(loss(offload));
    return w.grad().to_host();
  }
};

Offloaded made_offload() { return std::make_shared<Offload<float, Cuda>>(); }

}  // namespace

TEST_CASE(
    "Inputs that wait in pinned memory give the gradients of those that stay, bit for bit, step by step") {
  const OffloadChain chain;
  const auto expected = chain.gradient(nullptr);
  for (int step = 0; step < 5; ++step) CHECK(chain.gradient(made_offload()) == expected);
}

TEST_CASE("The device holds the last input alone, and two while one is on its way back") {
  const OffloadChain chain;
  const auto measured = [&](const Offloaded& offload) {
    auto& pool = BufferPool<Cuda>::instance();
    chain.w.zero_grad();
    pool.reset_peak();
    const auto before = pool.stats().in_use;
    const auto loss = chain.loss(offload);
    const auto kept = pool.stats().in_use - before;
    pool.reset_peak();
    backward(loss);
    return std::pair{kept, pool.stats().peak - before};
  };
  const auto [kept, peak] = measured(nullptr);
  const auto [kept_away, peak_away] = measured(made_offload());
  CHECK(kept >= (offload_parts - 1) * offload_bytes);
  CHECK(kept_away <= kept - (offload_parts - 2) * offload_bytes);
  CHECK(peak_away + (offload_parts - 4) * offload_bytes <= peak);
}

TEST_CASE("A graph that is dropped while its inputs are on their way leaves nothing behind") {
  const OffloadChain chain;
  const auto expected = chain.gradient(nullptr);
  chain.w.zero_grad();
  const auto before = buffer_stats<Cuda>().in_use;
  for (int i = 0; i < 3; ++i) chain.loss(made_offload());
  CHECK(buffer_stats<Cuda>().in_use == before);
  CHECK(chain.gradient(made_offload()) == expected);
}

TEST_CASE("In a captured graph inputs stay on the device") {
  const OffloadChain chain;
  const auto expected = chain.gradient(nullptr);
  Floats seen = Floats::zeros({1024});
  CudaGraph graph([&] {
    chain.w.zero_grad();
    backward(chain.loss(made_offload()));
    seen.assign(chain.w.grad());
  });
  graph.replay();
  CHECK(seen.to_host() == expected);
  chain.w.zero_grad();
}
