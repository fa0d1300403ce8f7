// Pictures in flight.

#include <cmath>
#include <set>
#include <vector>

#include <doctest/doctest.h>
#include <mole/autodiff/backward.hpp>
#include <mole/backends/cpu.hpp>
#include <mole/models/diffusion/sample.hpp>
#include <mole/models/diffusion/trajectory_pool.hpp>
#include <mole/ops/reduce.hpp>

#include "kohya_experts.hpp"

namespace mole::flights {

namespace {

using Tn = Tensor<double, Cpu>;

using namespace kohya_experts;

NoiseSchedule schedule_of(bool clip = false, double range = 1) {
  ScheduleConfig config;
  config.betas = BetaSchedule::squared_cosine;
  config.prediction = Prediction::velocity;
  config.clip_sample = clip;
  config.clip_sample_range = range;
  config.set_alpha_to_one = true;
  config.steps_offset = 0;
  config.spacing = StepSpacing::trailing;
  return NoiseSchedule(config);
}

const Shape picture{4, 6, 4};

double difference(const Tn& a, const Tn& b) {
  REQUIRE(a.shape() == b.shape());
  const auto x = a.to_host(), y = b.to_host();
  double worst = 0;
  for (std::size_t i = 0; i < x.size(); ++i) worst = std::max(worst, std::abs(x[i] - y[i]));
  return worst;
}

}  // namespace

TEST_CASE("A pool takes its pictures along the way of the sampler") {
  const auto unet = load_base();
  for (const bool clip : {false, true}) {
    const auto schedule = schedule_of(clip);
    const auto states = Tn::randn({1, 3, 24}, {2, 1});
    TrajectoryPool<double, Cpu> pool(schedule, picture, states, {.pictures = 1, .steps = 4});
    std::vector<Tn> way;
    const auto last = sample(
        unet, schedule, pool.latents(), states, states, SampleOptions{.steps = 4, .guidance = 1},
        [](std::size_t) {}, [&](const auto& step) { way.push_back(step.latents); });
    for (std::size_t k = 0; k < 4; ++k) {
      MolePass<double, Cpu> pass;
      const auto seen = pool.step(unet, pass);
      CHECK(seen.steps == std::vector<std::size_t>{k});
      // The last step of DDIM to a = 1 is the clean picture itself.
      if (k == 3) CHECK(difference(seen.clean, last) <= 1e-12);
      if (k < 3) CHECK(difference(pool.latents(), way[k]) <= 1e-12);
    }
  }
}

TEST_CASE(
    "Pictures start spread over the steps, and one that is done begins anew with another prompt's states") {
  const auto unet = load_base();
  const auto schedule = schedule_of();
  TrajectoryPool<double, Cpu> pool(schedule, picture, Tn::randn({5, 3, 24}, {2, 1}),
                                   {.pictures = 4, .steps = 8});
  std::vector<std::set<std::size_t>> prompts(4);
  std::vector<Tn> starts;
  for (std::size_t round = 0; round < 32; ++round) {
    const auto before = pool.latents();
    MolePass<double, Cpu> pass;
    const auto seen = pool.step(unet, pass);
    for (std::size_t i = 0; i < 4; ++i) {
      CHECK(seen.steps[i] == (round + 2 * i) % 8);
      CHECK(seen.prompts[i] < 5);
      prompts[i].insert(seen.prompts[i]);
      if (seen.steps[i] == 0)
        starts.push_back(slice(before, 0, static_cast<Index>(i), static_cast<Index>(i) + 1));
    }
  }
  for (const auto& seen : prompts) CHECK(seen.size() > 1);
  for (std::size_t i = 0; i < starts.size(); ++i)
    for (std::size_t j = 0; j < i; ++j) CHECK(difference(starts[i], starts[j]) > 0.1);
}

TEST_CASE("A pool is the same again for the same seed") {
  const auto unet = load_base();
  const auto run = [&](std::uint64_t seed) {
    TrajectoryPool<double, Cpu> pool(schedule_of(), picture, Tn::randn({3, 3, 24}, {2, 1}),
                                     {.pictures = 2, .steps = 3, .random = {seed, 0}});
    for (int i = 0; i < 4; ++i) {
      MolePass<double, Cpu> pass;
      pool.step(unet, pass);
    }
    return pool.latents();
  };
  CHECK(run(7).to_host() == run(7).to_host());
  CHECK(difference(run(7), run(8)) > 0.1);
}

TEST_CASE("Parts of a step show what the whole does, and move the pictures on alike") {
  const auto unet = load_base();
  const auto made = [] {
    return TrajectoryPool<double, Cpu>(schedule_of(), picture, Tn::randn({3, 3, 24}, {2, 1}),
                                       {.pictures = 5, .steps = 3, .random = {4, 0}});
  };
  auto whole = made(), cut = made();
  for (int round = 0; round < 5; ++round) {
    MolePass<double, Cpu> pass, first, second;
    const auto seen = whole.step(unet, pass);
    const auto one = cut.look(unet, first, 0, 2), two = cut.look(unet, second, 2, 5);
    CHECK(difference(concat<double, Cpu>({one.clean, two.clean}, 0), seen.clean) <= 1e-12);
    CHECK(two.prompts == std::vector<std::size_t>(seen.prompts.begin() + 2, seen.prompts.end()));
    CHECK(two.steps == std::vector<std::size_t>(seen.steps.begin() + 2, seen.steps.end()));
    cut.move_on(concat<double, Cpu>({one.next, two.next}, 0));
    CHECK(difference(cut.latents(), whole.latents()) <= 1e-12);
  }
  MolePass<double, Cpu> pass;
  CHECK_THROWS_AS(cut.look(unet, pass, 2, 2), ShapeError);
  CHECK_THROWS_AS(cut.look(unet, pass, 3, 6), ShapeError);
  CHECK_THROWS_AS(cut.move_on(Tn::zeros({4, 4, 6, 4})), ShapeError);
}

TEST_CASE("A pool that is resumed from its pictures goes on as if it had never stopped") {
  const auto unet = load_base();
  const auto states = Tn::randn({5, 3, 24}, {2, 1});
  const PoolOptions options{.pictures = 3, .steps = 4, .random = {9, 7}};
  TrajectoryPool<double, Cpu> pool(schedule_of(), picture, states, options);
  const auto step = [&](auto& which) {
    MolePass<double, Cpu> pass;
    return which.step(unet, pass);
  };
  for (int i = 0; i < 6; ++i) step(pool);
  CHECK(pool.done() == 6);
  TrajectoryPool<double, Cpu> again(schedule_of(), picture, states, options);
  again.resume(6, pool.latents());
  CHECK(again.done() == 6);
  for (int i = 0; i < 6; ++i) {
    const auto a = step(pool), b = step(again);
    CHECK(a.prompts == b.prompts);
    CHECK(a.steps == b.steps);
    CHECK(a.clean.to_host() == b.clean.to_host());
  }
  CHECK_THROWS_AS(again.resume(-1, pool.latents()), ArgumentError);
  CHECK_THROWS_AS(again.resume(2, Tn::zeros({2, 4, 6, 4})), ShapeError);
}

TEST_CASE("Pictures that are not spread all begin at the noisiest step") {
  const auto unet = load_base();
  TrajectoryPool<double, Cpu> pool(schedule_of(), picture, Tn::randn({1, 3, 24}, {2, 1}),
                                   {.pictures = 3, .steps = 4, .spread = false});
  for (std::size_t k = 0; k < 5; ++k) {
    MolePass<double, Cpu> pass;
    CHECK(pool.step(unet, pass).steps == std::vector<std::size_t>(3, k % 4));
  }
}

TEST_CASE("What a pool shows trains gates, and what it keeps is off the tape") {
  auto unet = load_base();
  unet.attach(experts(unet), GateOptions{.pooling = Pooling::token});
  TrajectoryPool<double, Cpu> pool(schedule_of(true, 0.1), picture, Tn::randn({1, 3, 24}, {2, 1}),
                                   {.pictures = 2, .steps = 3});
  MolePass<double, Cpu> pass;
  const auto seen = pool.step(unet, pass);
  CHECK(seen.clean.requires_grad());
  CHECK_FALSE(pool.latents().requires_grad());
  for (const double value : seen.clean.to_host()) CHECK(std::abs(value) <= 0.1);
  // Nearly all is cut to 0.1, and the gradient passes all the same.
  backward(sum(seen.clean));
  double largest = 0;
  for (const auto& parameter : unet.mixer().parameters()) {
    if (!parameter.grad().defined()) continue;
    for (const double g : parameter.grad().to_host()) largest = std::max(largest, std::abs(g));
  }
  CHECK(largest > 1e-6);
}

TEST_CASE("A pool refuses no pictures, steps that do not fit and shapes that are none") {
  using Pool = TrajectoryPool<double, Cpu>;
  const auto schedule = schedule_of();
  const auto states = Tn::zeros({2, 3, 24});
  CHECK_THROWS_AS(Pool(schedule, picture, states, {.pictures = 0}), ArgumentError);
  CHECK_THROWS_AS(Pool(schedule, picture, states, {.steps = 0}), ArgumentError);
  CHECK_THROWS_AS(Pool(schedule, picture, states, {.steps = 2000}), ArgumentError);
  CHECK_THROWS_AS(Pool(schedule, Shape{4, 4}, states), ShapeError);
  CHECK_THROWS_AS(Pool(schedule, picture, Tn::zeros({3, 24})), ShapeError);
  CHECK_THROWS_AS(Pool(schedule, picture, Tn::zeros({0, 3, 24})), ShapeError);
}

TEST_CASE("The squared cosine's betas are those of Nichol and Dhariwal") {
  const auto alphas = schedule_of().alphas_cumprod();
  REQUIRE(alphas.size() == 1000);
  const double pi = std::acos(-1.0);
  const auto f = [&](double t) { return std::pow(std::cos((t + 0.008) / 1.008 * pi / 2), 2); };
  // The product telescopes to f(t) / f(0), but for the betas that are cut at the end.
  for (const std::size_t t : {std::size_t{0}, std::size_t{10}, std::size_t{500}, std::size_t{990}})
    CHECK(alphas[t] == doctest::Approx(f(static_cast<double>(t + 1) / 1000) / f(0)).epsilon(1e-9));
  CHECK(alphas[999] == doctest::Approx(alphas[998] * 0.001));
}

TEST_CASE("A step for each sample is that of the sample alone") {
  for (const Prediction prediction : {Prediction::epsilon, Prediction::velocity}) {
    ScheduleConfig config;
    config.prediction = prediction;
    config.clip_sample = true;
    const NoiseSchedule schedule(config);
    const auto x = Tn::randn({3, 2, 2, 1}, {1, 1}), o = Tn::randn({3, 2, 2, 1}, {1, 2});
    const std::vector<SamplerStep> steps{{900, 850}, {20, -1}, {400, 100}};
    const auto all = schedule.ddim(o, x, steps);
    const auto clean = schedule.denoised(o, x, std::vector<Index>{900, 20, 400}).clean;
    for (Index i = 0; i < 3; ++i) {
      const auto one = steps[static_cast<std::size_t>(i)];
      const auto xi = slice(x, 0, i, i + 1), oi = slice(o, 0, i, i + 1);
      CHECK(difference(slice(all, 0, i, i + 1), schedule.ddim(oi, xi, one)) <= 1e-12);
      CHECK(difference(slice(clean, 0, i, i + 1), schedule.denoised(oi, xi, one.time).clean) <= 1e-12);
    }
    CHECK_THROWS_AS(schedule.ddim(o, x, std::vector<SamplerStep>{{900, 850}, {20, -1}}), ShapeError);
  }
}

}  // namespace mole::flights
