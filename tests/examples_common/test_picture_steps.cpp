// Training steps by pictures in flight and by own pictures: on any number of ranks, stopped and resumed.

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <omp.h>

#include <mole/autodiff/backward.hpp>
#include <mole/dist/thread_group.hpp>
#include <mole/loss/total.hpp>
#include <mole/optim/adamw.hpp>
#include <mole/train/run_state.hpp>

#include "common/picture_steps.hpp"
#include "models/diffusion/kohya_experts.hpp"

namespace common::picture_step_tests {

namespace {

using mole::Cpu;
using Tn = mole::Tensor<double, Cpu>;
using Steps = PictureSteps<double, Cpu>;
using Pool = mole::TrajectoryPool<double, Cpu>;

/// What each rank trains: the golden's UNet with two experts, and pictures.
struct Bench {
  mole::UNet<double, Cpu> unet = mole::kohya_experts::load_base();
  mole::NoiseSchedule schedule{mole::ScheduleConfig{}};
  Tn states = Tn::randn({3, 3, 24}, {2, 1});
  mole::CaptionedLatents<double, Cpu> own{Tn::randn({6, 4, 6, 4}, {2, 2}), Tn::randn({6, 3, 24}, {2, 3})};
  PictureLoss loss;

  explicit Bench(const PictureLoss& wanted) : loss(wanted) {
    unet.attach(mole::kohya_experts::experts(unet),
                mole::GateOptions{.scope = mole::Scope::layer, .pooling = mole::Pooling::token});
    // Gates that differ from place to place from the start.
    std::uint64_t stream = 0;
    for (const auto& parameter : unet.mixer().parameters())
      parameter.assign(scale(Tn::randn(parameter.shape(), {5, ++stream}), 0.3));
  }
  Pool pool() const {
    return Pool(schedule, {4, 6, 4}, states, {.pictures = loss.pictures, .steps = 3, .random = {8, 0}});
  }
  static Tn guide(const mole::PoolStep<double, Cpu>& seen) { return mean(mul(seen.clean, seen.clean)); }
  Steps steps(const RankOptions& ranks) const {
    return Steps(unet, schedule, pool(), guide, own, loss, ranks);
  }
};

struct Learned {
  double loss = 0, balance = 0;
  std::vector<double> gradients = {};
};

std::vector<double> gradients_of(const Bench& bench) {
  std::vector<double> all;
  for (const auto& parameter : bench.unet.mixer().parameters()) {
    REQUIRE(parameter.grad().defined());
    const auto values = parameter.grad().to_host();
    all.insert(all.end(), values.begin(), values.end());
  }
  return all;
}

/// Two steps of one process by the formula, without anything of picture_steps.hpp or data_parallel.hpp.
std::vector<Learned> by_formula(const PictureLoss& loss) {
  const Bench bench(loss);
  auto pool = bench.pool();
  std::vector<Learned> all;
  for (Index step = 0; step < 2; ++step) {
    for (const auto& parameter : bench.unet.mixer().parameters()) parameter.zero_grad();
    Tn total, balance;
    const auto add_to = [](Tn& sum, const Tn& term) { sum = sum.defined() ? add(sum, term) : term; };
    int passes = 0;
    if (loss.guided > 0) {
      mole::MolePass<double, Cpu> pass;
      add_to(total, scale(Bench::guide(pool.step(bench.unet, pass)), loss.guided));
      add_to(balance, bench.unet.balance(pass));
      ++passes;
    }
    if (loss.own > 0) {
      mole::MolePass<double, Cpu> pass;
      const auto batch =
          mole::draw_noisy(bench.schedule, bench.own, loss.pictures,
                           {loss.seed + (std::uint64_t{1} << 32), static_cast<std::uint64_t>(step)});
      add_to(total, scale(mole::diffusion_loss(bench.unet, batch, pass), loss.own));
      add_to(balance, bench.unet.balance(pass));
      ++passes;
    }
    balance = scale(balance, 1.0 / passes);
    total = mole::total_loss(total, balance, loss.alpha);
    backward(total);
    all.push_back({total.item(), balance.item(), gradients_of(bench)});
  }
  return all;
}

/// The same two steps on so many ranks; what the last of them learned.
std::vector<Learned> on_ranks(const PictureLoss& loss, int size, Index fixed_shards = 0) {
  std::vector<Learned> all;
  mole::dist::ThreadGroup::run(size, [&](const mole::dist::AnyGroup& group) {
    omp_set_num_threads(1);
    const Bench bench(loss);
    auto steps = bench.steps({.group = group, .fixed_shards = fixed_shards});
    for (Index step = 0; step < 2; ++step) {
      for (const auto& parameter : bench.unet.mixer().parameters()) parameter.zero_grad();
      const auto result = steps(step);
      if (group.rank() + 1 < group.size()) continue;
      CHECK(result.measures.back().first == "balance");
      all.push_back({result.loss, result.measures.back().second, gradients_of(bench)});
    }
  });
  return all;
}

double worst(const std::vector<Learned>& a, const std::vector<Learned>& b) {
  REQUIRE(a.size() == b.size());
  double most = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    most = std::max({most, std::abs(a[i].loss - b[i].loss), std::abs(a[i].balance - b[i].balance)});
    REQUIRE(a[i].gradients.size() == b[i].gradients.size());
    for (std::size_t j = 0; j < a[i].gradients.size(); ++j)
      most = std::max(most, std::abs(a[i].gradients[j] - b[i].gradients[j]));
  }
  return most;
}

const PictureLoss both{.guided = 0.7, .own = 3, .alpha = 0.2, .pictures = 3, .seed = 4};

}  // namespace

TEST_CASE("On any number of ranks picture steps have the loss and the gradients of the formula") {
  auto guided = both, own = both;
  guided.own = 0;
  own.guided = 0;
  for (const auto& loss : {both, guided, own}) {
    const auto want = by_formula(loss);
    // Four ranks: one of them has no picture.
    for (const int size : {1, 2, 4}) {
      CAPTURE(size);
      CHECK(worst(on_ranks(loss, size), want) <= 1e-10);
    }
  }
}

TEST_CASE("With fixed shards picture steps have the same bits on one rank and on two") {
  const auto one = on_ranks(both, 1, 2), two = on_ranks(both, 2, 2);
  for (std::size_t i = 0; i < 2; ++i) {
    CHECK(one[i].loss == two[i].loss);
    CHECK(one[i].gradients == two[i].gradients);
  }
}

TEST_CASE("Picture steps go on from a checkpoint with the pictures that were in flight") {
  struct Kept {
    std::optional<mole::RunState> state;
  };
  const auto run = [](Kept& place, Index stop_at, bool resume) {
    const Bench bench(both);
    auto steps = bench.steps({});
    mole::AdamW<double, Cpu> adamw(bench.unet.mixer().parameters());
    mole::KeepingMore optimizer(adamw, steps.kept());
    mole::Checkpoints checkpoints;
    checkpoints.save = [&](const mole::RunState& now) { place.state = now; };
    if (resume) checkpoints.load = [&](mole::RunState& now) { now = place.state.value(); };
    Index asked = 0;
    mole::TrainingHooks hooks;
    hooks.stop = [&] { return ++asked == stop_at; };
    mole::TrainingOptions options;
    options.steps = 6;
    options.schedule = {mole::ScheduleKind::constant, 0.05};
    try {
      mole::train(optimizer, options, std::ref(steps), checkpoints, hooks);
    } catch (const mole::Interrupted&) {
    }
    std::vector<double> values;
    for (const auto& parameter : bench.unet.mixer().parameters()) {
      const auto own = parameter.to_host();
      values.insert(values.end(), own.begin(), own.end());
    }
    return values;
  };
  Kept unbroken, broken;
  const auto whole = run(unbroken, -1, false);
  const auto part = run(broken, 4, false);
  CHECK(part != whole);
  CHECK(run(broken, -1, true) == whole);
}

}  // namespace common::picture_step_tests
