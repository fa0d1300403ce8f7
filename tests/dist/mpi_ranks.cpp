// Run by mpirun on three processes or more: an MPI group exchanges what a group of threads does, and gates trained
// by processes are those of one. Prints a line a rank; returns 1 where something is wrong.

#include <cstdio>
#include <exception>
#include <string>
#include <vector>

#include <mole/dist/launch.hpp>
#include <mole/dist/mpi.hpp>
#include <train/parallel_t5.hpp>

using namespace mole::testing;
using mole::Index;
using mole::dist::AnyGroup;

namespace {

int wrong = 0;

void check(bool right, const char* what, int rank) {
  if (right) return;
  std::printf("rank %d: WRONG: %s\n", rank, what);
  ++wrong;
}

void check_exchanges(const AnyGroup& group) {
  const int rank = group.rank(), size = group.size();
  for (const Index n : {1, 1000, 300000}) {
    std::vector<float> x(static_cast<std::size_t>(n), static_cast<float>(rank + 1));
    group.all_reduce_sum(x.data(), n);
    bool right = true;
    for (const float value : x) right = right && value == static_cast<float>(size * (size + 1) / 2);
    check(right, "all_reduce_sum", rank);
  }
  const std::vector<double> mine{1.0 * rank, 2.0 * rank};
  std::vector<double> all(2 * static_cast<std::size_t>(size));
  group.all_gather(mine.data(), 2, all.data());
  for (int other = 0; other < size; ++other)
    check(all[2 * static_cast<std::size_t>(other) + 1] == 2.0 * other, "all_gather", rank);
  double last = rank;
  group.broadcast(&last, 1, size - 1);
  check(last == size - 1, "broadcast", rank);
  group.barrier();
}

/// The parameters after 20 steps on batches of which each rank has its share.
std::vector<double> trained(const AnyGroup& group, Index shards) {
  const ParallelT5<double> own({.scope = mole::Scope::block, .pooling = mole::Pooling::token});
  const auto parameters = own.model.mixer().parameters();
  mole::DataParallel<double, Device> parallel(group, own.model.mixer(),
                                              {.alpha = 0.1, .fixed_shards = shards});
  mole::AdamW<double, Device> optimizer(parameters, {.weight_decay = 0.1});
  parallel.run([&] {
    for (int step = 0; step < 20; ++step) {
      const auto batch = uneven_batch(10, static_cast<std::uint64_t>(step + 1));
      parallel.step([&](Index shard) {
        const auto [first, last] = parallel.range(shard, batch.size());
        return own.share(batch, first, last);
      });
      optimizer.step(0.01);
    }
    return true;
  });
  return values_of(parameters);
}

}  // namespace

int main() {
  omp_set_num_threads(1);
  const auto place = mole::dist::launch_environment();
  mole::dist::MpiSession session;
  const AnyGroup group{mole::dist::MpiGroup(std::chrono::seconds(60))};
  try {
    check(group.size() == place.size && group.rank() == place.rank, "launch_environment()", place.rank);
    check_exchanges(group);
    const auto mine = trained(group, 0);
    check(worst_error(mine, trained({}, 0)) <= 1e-12, "gates of one process to 1e-12", group.rank());
    auto first = mine;
    group.broadcast(first.data(), static_cast<Index>(first.size()), 0);
    check(first == mine, "the same bits on every rank", group.rank());
    const Index shards = 2 * group.size();
    check(trained(group, shards) == trained({}, shards), "fixed shards: the bits of one process",
          group.rank());
  } catch (const std::exception& error) {
    check(false, error.what(), group.rank());
  }
  double all = wrong;
  group.all_reduce_sum(&all, 1);
  std::printf("rank %d of %d by %s: %s\n", group.rank(), group.size(), place.launcher.c_str(),
              all == 0 ? "right" : "WRONG");
  return all == 0 ? 0 : 1;
}
