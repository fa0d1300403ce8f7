// Batches of noisy pictures.

#include <doctest/doctest.h>
#include <mole/models/diffusion/noisy_batch.hpp>

#include "testing.hpp"

using namespace mole;
using namespace mole::testing;

using Real = Tensor<double, Cpu>;

TEST_CASE("Noise that was drawn ahead makes the batch that its stream makes") {
  const NoiseSchedule schedule(ScheduleConfig{});
  const auto pictures = noise<double, Cpu>({5, 4, 6, 3}, 1), states = noise<double, Cpu>({5, 2, 7}, 2);
  const RandomStream stream{8, 9};
  const auto drawn = draw_noise<double>(schedule, pictures.shape(), stream);
  const auto ahead = noised(schedule, pictures, states, drawn),
             at_once = noised(schedule, pictures, states, stream);
  CHECK(ahead.noisy.to_host() == at_once.noisy.to_host());
  CHECK(ahead.target.to_host() == at_once.target.to_host());
  CHECK(ahead.times.to_host() == at_once.times.to_host());
  CHECK(ahead.times.to_host() == drawn.times);

  // x_t = sqrt(a) z + sqrt(1 - a) n of each picture's own time, and the target is the noise.
  CHECK(ahead.target.to_host() == drawn.noise);
  const auto z = pictures.to_host(), x = ahead.noisy.to_host();
  const std::size_t of_a_picture = 4 * 6 * 3;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double a = schedule.alphas_cumprod()[static_cast<std::size_t>(drawn.times[i / of_a_picture])];
    CHECK(std::abs(x[i] - (std::sqrt(a) * z[i] + std::sqrt(1 - a) * drawn.noise[i])) <= 1e-14);
  }
}

TEST_CASE("Noise for pictures of another number is refused by their shape") {
  const NoiseSchedule schedule(ScheduleConfig{});
  const auto pictures = noise<double, Cpu>({3, 4, 4, 3}, 1);
  const auto drawn = draw_noise<double>(schedule, {2, 4, 4, 3}, {1, 2});
  CHECK_THROWS_AS(noised(schedule, pictures, noise<double, Cpu>({3, 2, 7}, 2), drawn), ShapeError);
}
