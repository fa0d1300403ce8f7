// bench_gpus: weak scaling of t5_gate_step over GPUs. Each has the model and the batch of t5_gate_step, so N of them
// train on a batch N times as large. A step is one graph a GPU, in which NCCL adds the losses' sums and the gradients.
//     bench_gpus [GPUS [STEPS [ROUNDS]]]

#include <mole/cuda.cuh>
#include <mole/dist/nccl.cuh>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include "../t5_gate_step.hpp"

namespace {

using mole::Cuda;
using mole::Index;

/// The gates' training of one rank.
struct Rank {
  explicit Rank(const mole::dist::NcclGroup& group, const bench::T5Size& size)
      : training(made(group, size)), ranks(group, training.model.mixer(), {.alpha = 0.5}) {}
  Rank(const Rank&) = delete;
  ~Rank() { training.optimizer.zero_grad(); }  // gradients are in the memory of graphs

  /// As GateTraining::step() does, for the batch of all ranks.
  void step() {
    ranks.step_there([&](Index) -> mole::DeviceShare<float, Cuda> {
      mole::MolePass<float, Cuda> pass;
      const auto task = training.model.loss(training.batch, pass);
      return {task, mole::counted_labels_there<float>(training.batch.labels),
              training.model.mixer().records(pass)};
    });
    training.optimizer.apply();
  }

  bench::GateTraining<float, Cuda> training;
  mole::DataParallel<float, Cuda, mole::dist::NcclGroup> ranks;

 private:
  /// The same on every rank, one after another: the generator of the benchmarks is no thread's own.
  static bench::GateTraining<float, Cuda> made(const mole::dist::NcclGroup& group,
                                               const bench::T5Size& size) {
    std::vector<bench::GateTraining<float, Cuda>> list;
    for (int rank = 0; rank < group.size(); ++rank) {
      if (rank == group.rank()) {
        bench::generator = mole::Generator{.seed = 1};
        list.push_back(bench::make_gate_training<float, Cuda>(size));
      }
      group.barrier();
    }
    return std::move(list.front());
  }
};

/// Milliseconds a step of `steps` replays, from the time that every rank begins until this one is done.
double time_of(const mole::dist::NcclGroup& group, mole::CudaGraph& graph, Rank& rank, int steps,
               bool works) {
  Cuda::synchronize();
  group.barrier();
  const auto begin = std::chrono::steady_clock::now();
  if (works) {
    for (int i = 0; i < steps; ++i) {
      rank.training.prepare();
      graph.replay();
    }
    Cuda::synchronize();
  }
  const std::chrono::duration<double, std::milli> taken = std::chrono::steady_clock::now() - begin;
  group.barrier();
  return taken.count() / steps;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

void measure(const mole::dist::NcclGroup& group, const bench::T5Size& size, int steps, int rounds) {
  Rank rank(group, size);
  rank.training.optimizer.zero_grad();
  rank.training.prepare();
  mole::CudaGraph alone([&] { rank.training.step(); });
  mole::CudaGraph together([&] { rank.step(); });
  for (auto* graph : {&alone, &together}) time_of(group, *graph, rank, steps / 10 + 1, true);
  // By turns, so that a machine that grows slower does so for all.
  std::vector<double> one, apart, all;
  for (int round = 0; round < rounds; ++round) {
    one.push_back(time_of(group, alone, rank, steps, group.rank() == 0));
    apart.push_back(time_of(group, alone, rank, steps, true));
    all.push_back(time_of(group, together, rank, steps, true));
  }
  if (group.rank() == 0)
    std::printf("%-6s %8.3f %12.3f %12.3f %9.1f%%\n", size.name, median(one), median(apart), median(all),
                100 * median(one) / median(all));
  rank.training.optimizer.zero_grad();
}

}  // namespace

int main(int argc, char** argv) {
  try {
    const auto argument = [&](int i, int otherwise) { return argc > i ? std::stoi(argv[i]) : otherwise; };
    const int gpus = argument(1, Cuda::devices()), steps = argument(2, 100), rounds = argument(3, 7);
    MOLE_CHECK_ARG(argc <= 4 && steps > 0 && rounds > 0, "usage: bench_gpus [GPUS [STEPS [ROUNDS]]]");
    Cuda::allow_tf32(true);
    std::printf("t5_gate_step, tf32, in graphs; ms a step, medians of %d rounds of %d steps\n", rounds,
                steps);
    std::printf("%-6s %8s %12s %12s %10s\n", "size", "1 GPU", (std::to_string(gpus) + " apart").c_str(),
                (std::to_string(gpus) + " together").c_str(), "efficiency");
    mole::dist::NcclGroup::run(gpus, [&](const mole::dist::NcclGroup& group) {
      for (const auto& size : bench::t5_sizes) measure(group, size, steps, rounds);
    });
  } catch (const std::exception& error) {
    std::fprintf(stderr, "bench_gpus: %s\n", error.what());
    return 1;
  }
}
