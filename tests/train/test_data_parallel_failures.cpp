// Ranks that fail, stop or drift apart in training: all of them end, and what was saved is good.

#include <doctest/doctest.h>

#include <functional>
#include <string>
#include <vector>

#include <mole/autodiff/record.hpp>
#include <mole/train/loop.hpp>
#include <train/parallel_t5.hpp>

using namespace mole::testing;
using mole::Index;
using mole::dist::AnyGroup;

namespace {

using Parameter = mole::Tensor<double, Device>;

/// How one rank ended, and what it saved.
struct Ending {
  std::string kind, what;
  std::vector<mole::RunState> saved;
  std::vector<double> parameters;
  Index steps = 0;
};

/// What goes wrong, told the rank and the step.
struct Plan {
  std::function<void(int rank, Index step)> forward = [](int, Index) {};
  std::function<Parameter(int rank, Index step, Parameter task)> task = [](int, Index, Parameter task) {
    return task;
  };
  std::function<void(int rank, Index done)> save = [](int, Index) {};
  std::function<void(int rank, Index step, const std::vector<Parameter>& parameters)> after =
      [](int, Index, const auto&) {};
  std::function<bool(int rank, Index step)> stop = [](int, Index) { return false; };
  Index steps = 12;
  const mole::RunState* resumed = nullptr;
};

std::vector<Ending> endings(int size, const Plan& plan) {
  return on_ranks<Ending>(size, [&](const AnyGroup& group) {
    Ending ending;
    const int rank = group.rank();
    const ParallelT5<double> own({.scope = mole::Scope::layer, .pooling = mole::Pooling::mean});
    const auto parameters = own.model.mixer().parameters();
    Index now = 0;
    mole::DataParallel<double, Device> parallel(group, own.model.mixer(), {.alpha = 0.1});
    parallel.stop_when([&] { return plan.stop(rank, now); });
    mole::AdamW<double, Device> optimizer(parameters, {});
    mole::TrainingOptions options;
    options.steps = plan.steps;
    options.schedule = {mole::ScheduleKind::constant, 0.01};
    options.checkpoint_every = 4;
    mole::Checkpoints checkpoints;
    if (plan.resumed) checkpoints.load = [&](mole::RunState& state) { state = *plan.resumed; };
    checkpoints.save = [&](const mole::RunState& state) {
      plan.save(rank, static_cast<Index>(state.curves.step.size()));
      ending.saved.push_back(state);
    };
    const mole::TrainingHooks hooks{{}, [&] { return parallel.stopping(); }};
    try {
      parallel.run([&] {
        return mole::train(
            optimizer, options,
            [&](Index step) {
              if (step > 0) plan.after(rank, step - 1, parameters);
              now = step;
              const auto batch = uneven_batch(7, static_cast<std::uint64_t>(step + 1));
              const auto loss = parallel.step([&](Index shard) {
                plan.forward(rank, step);
                const auto [first, last] = parallel.range(shard, batch.size());
                auto share = own.share(batch, first, last);
                share.task = plan.task(rank, step, share.task);
                return share;
              });
              ending.steps = step + 1;
              return mole::StepResult{loss.total.item(), {}};
            },
            parallel.kept_by_first(checkpoints), hooks);
      });
      ending.kind = "done";
    } catch (const mole::dist::PeerFailed& error) {
      ending.kind = "peer";
      ending.what = error.what();
    } catch (const mole::Interrupted& error) {
      ending.kind = "stopped";
      ending.what = error.what();
    } catch (const std::exception& error) {
      ending.kind = "own";
      ending.what = error.what();
    }
    ending.parameters = values_of(parameters);
    return ending;
  });
}

/// Rank `failed` has its own error, the others that of a peer with its number and text.
void check_failed(const std::vector<Ending>& all, int failed, const std::string& text) {
  for (std::size_t rank = 0; rank < all.size(); ++rank) {
    CAPTURE(rank);
    CAPTURE(all[rank].what);
    const bool own = static_cast<int>(rank) == failed;
    CHECK(all[rank].kind == (own ? "own" : "peer"));
    CHECK(has(all[rank].what, text));
    if (!own)
      CHECK(has(all[rank].what, "rank " + std::to_string(failed) + " of " + std::to_string(all.size())));
  }
}

}  // namespace

TEST_CASE("A run without trouble ends on every rank, and rank 0 alone saves") {
  const auto all = endings(3, {});
  for (const auto& ending : all) CHECK(ending.kind == "done");
  CHECK(all[0].saved.size() == 3);
  CHECK(all[1].saved.empty());
  CHECK(all[2].saved.empty());
}

TEST_CASE("A rank that throws in its forward pass ends all ranks with its message") {
  for (const int failed : {0, 2}) {
    Plan plan;
    plan.forward = [failed](int rank, Index step) {
      if (rank == failed && step == 5) throw mole::FormatError("the cat ate the batch");
    };
    const auto all = endings(3, plan);
    check_failed(all, failed, "the cat ate the batch");
    // The last good state stays the last that was saved.
    REQUIRE(all[0].saved.size() == 1);
    CHECK(all[0].saved.back().curves.step.size() == 4);
  }
}

TEST_CASE("A rank that throws on the way back ends all ranks before any takes the step") {
  Plan plan;
  plan.task = [](int rank, Index step, Parameter task) {
    if (rank != 1 || step != 5) return task;
    return record({task}, task.detach().clone(), [](const auto&, const auto& G) -> Parameter {
      if (G.defined()) throw mole::DeviceError("no memory left");
      return G;
    });
  };
  const auto all = endings(3, plan);
  check_failed(all, 1, "no memory left");
  CHECK(all[0].parameters == all[2].parameters);
}

TEST_CASE("A rank that throws between two steps, or after the last, ends all ranks") {
  for (const Index when : {4, 12}) {
    CAPTURE(when);
    Plan plan;
    plan.save = [when](int, Index done) {
      if (done == when) throw mole::FormatError("the disk is full");
    };
    check_failed(endings(2, plan), 0, "the disk is full");
  }
}

TEST_CASE("A loss that is not finite ends every rank by the same error") {
  Plan plan;
  plan.task = [](int rank, Index step, Parameter task) {
    return rank == 1 && step == 5 ? mole::scale(task, std::numeric_limits<double>::infinity()) : task;
  };
  for (const auto& ending : endings(2, plan)) {
    CHECK(ending.kind == "own");
    CHECK(has(ending.what, "step 6"));
  }
}

TEST_CASE("A stop that any rank asks for stops all after the same step, and rank 0 has saved") {
  for (const int asked : {0, 1, 2}) {
    Plan plan;
    plan.stop = [asked](int rank, Index step) { return rank == asked && step == 6; };
    const auto all = endings(3, plan);
    for (const auto& ending : all) {
      CHECK(ending.kind == "stopped");
      CHECK(has(ending.what, "after step 6"));
      CHECK(ending.parameters == all[0].parameters);
    }
    REQUIRE(!all[0].saved.empty());
    CHECK(all[0].saved.back().curves.step.size() == 6);
  }
}

TEST_CASE("A disk that fails while all stop is not taken for a clean stop") {
  Plan plan;
  plan.stop = [](int, Index step) { return step == 6; };
  plan.save = [](int, Index done) {
    if (done == 6) throw mole::FormatError("the disk is full");
  };
  const auto all = endings(2, plan);
  check_failed(all, 0, "the disk is full");
}

TEST_CASE("A run that was stopped goes on with another number of ranks") {
  const auto whole = endings(1, {});
  Plan stopping;
  stopping.stop = [](int rank, Index step) { return rank == 0 && step == 6; };
  const auto stopped = endings(2, stopping);
  Plan plan;
  plan.resumed = &stopped[0].saved.back();
  for (const auto& ending : endings(3, plan)) {
    CHECK(ending.kind == "done");
    CHECK(worst_error(ending.parameters, whole[0].parameters) <= 1e-12);
  }
}

TEST_CASE("Gates that are no longer equal are found out at the hundredth step") {
  Plan plan;
  plan.steps = 150;
  plan.after = [](int rank, Index step, const std::vector<Parameter>& parameters) {
    if (rank == 1 && step == 20) parameters.front().assign(mole::shift(parameters.front(), 1e-9));
  };
  for (const auto& ending : endings(3, plan)) {
    CHECK(ending.kind == "peer");
    CHECK(has(ending.what, "rank 1"));
    CHECK(ending.steps == 100);
  }
}
