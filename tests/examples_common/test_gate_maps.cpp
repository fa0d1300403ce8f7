// Maps of token gates, gathered while a picture is painted.

#include <cmath>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include "common/gate_maps.hpp"
#include "models/diffusion/kohya_experts.hpp"

namespace common::gate_map_tests {

using mole::Cpu;
using Tn = mole::Tensor<double, Cpu>;

TEST_CASE("An expert that does not adapt a gate's layers has no share of it, and shares are of all experts") {
  auto unet = mole::kohya_experts::load_base();
  auto experts = mole::kohya_experts::experts(unet);
  REQUIRE(experts.size() == 2);
  // The first expert is left without attention to the picture itself.
  std::erase_if(experts[0].slots, [](const std::string& name) { return name.find(".attn1.") != name.npos; });
  REQUIRE_FALSE(experts[0].slots.empty());
  unet.attach(experts, mole::GateOptions{.scope = mole::Scope::layer, .pooling = mole::Pooling::token});

  const mole::NoiseSchedule schedule{mole::ScheduleConfig{}};
  const auto states = Tn::randn({1, 3, 24}, {2, 1});
  std::vector<GateMap> maps(1);
  mole::sample(
      unet, schedule, Tn::randn({1, 4, 6, 4}, {2, 2}), states, states, {.steps = 2, .guidance = 1},
      [](std::size_t) {}, [&](const auto& step) { gather_maps(unet.mixer(), 0, step, 2, maps); });

  std::size_t alone = 0, shared = 0;
  for (const auto& [name, grid] : maps[0]) {
    CAPTURE(name);
    REQUIRE(grid.weights.size() % 2 == 0);
    const bool without_first = name.find(".attn1") != name.npos;
    (without_first ? alone : shared) += 1;
    for (std::size_t pixel = 0; pixel < grid.weights.size() / 2; ++pixel) {
      const double first = grid.weights[2 * pixel], second = grid.weights[2 * pixel + 1];
      CHECK(std::abs(first + second - 1) <= 1e-12);
      CHECK((first == 0) == without_first);
    }
    const auto image = map_image(grid, 2);
    CHECK(static_cast<std::size_t>(image.width * image.height) == grid.weights.size() / 2);
  }
  CHECK(alone > 0);
  CHECK(shared > 0);
  CHECK(most_varied(maps, 2, 3).size() == 3);
}

}  // namespace common::gate_map_tests
