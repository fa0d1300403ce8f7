// GPUs as ranks: the sums, the losses and the gradients of one; what is refused, and how they end together.

#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include <chrono>
#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#include <mole/cuda.cuh>
#include <mole/dist/nccl.cuh>
#include <train/parallel_t5.hpp>

using namespace mole;
using namespace mole::testing;
using dist::AnyGroup;
using dist::NcclGroup;
using dist::PeerFailed;

namespace {

constexpr double alpha = 0.1;
const GateOptions policy{.scope = Scope::block, .pooling = Pooling::token};

/// f(group) on each of so many GPUs, by rank.
template <class R, class F>
std::vector<R> on_gpus(int count, F f, std::chrono::milliseconds timeout = std::chrono::seconds(60)) {
  std::vector<R> results(static_cast<std::size_t>(count));
  NcclGroup::run(
      count, [&](const NcclGroup& group) { results[static_cast<std::size_t>(group.rank())] = f(group); },
      timeout);
  return results;
}

/// The model of a rank, on its GPU, and its share of a batch.
struct Rank {
  ParallelT5<double> own{policy};
  DataParallel<double, Cuda> ranks;
  HostBatch batch = uneven_batch();

  explicit Rank(const AnyGroup& group, Index shards = 0)
      : ranks(group, own.model.mixer(), {.alpha = alpha, .fixed_shards = shards}) {}

  /// Two ranks have shares of unequal sizes.
  std::pair<Index, Index> range(Index shard) const {
    if (ranks.shards() != 2) return ranks.range(shard, batch.size());
    return shard == 0 ? std::pair<Index, Index>(0, 3) : std::pair<Index, Index>(3, batch.size());
  }
  BatchLoss<double, Cuda> step() {
    return ranks.step([&](Index shard) {
      const auto at = range(shard);
      return own.share(batch, at.first, at.second);
    });
  }
  /// The batches are made before a graph is: it would hold their upload.
  std::vector<T5Batch<double, Cuda>> shares() const {
    std::vector<T5Batch<double, Cuda>> list;
    const Index count = ranks.shards() / ranks.size();
    for (Index shard = count * ranks.rank(); shard < count * (ranks.rank() + 1); ++shard) {
      const auto at = range(shard);
      list.push_back(batch.rows<double>(at.first, at.second));
    }
    return list;
  }
  BatchLoss<double, Cuda> step_there(const std::vector<T5Batch<double, Cuda>>& shares) {
    const Index first = ranks.shards() / ranks.size() * ranks.rank();
    return ranks.step_there([&](Index shard) -> DeviceShare<double, Cuda> {
      const auto& some = shares[static_cast<std::size_t>(shard - first)];
      MolePass<double, Cuda> pass;
      const auto task = own.model.loss(some, pass);
      return {task, counted_labels_there<double>(some.labels), own.model.mixer().records(pass)};
    });
  }
  Learned learned(const BatchLoss<double, Cuda>& loss) const {
    return testing::learned(loss, own.model.mixer().parameters());
  }
};

/// One GPU and the whole batch.
Learned by_one(Index shards = 0) {
  Rank rank{AnyGroup(), shards};
  return rank.learned(rank.step());
}

double worst(const Learned& got, const Learned& want) {
  const double losses =
      worst_error({got.total, got.task, got.balance}, {want.total, want.task, want.balance});
  return std::max({losses, worst_error(got.q, want.q), worst_error(got.gradients, want.gradients)});
}

bool same_bytes(const Learned& a, const Learned& b) {
  return a.total == b.total && a.task == b.task && a.balance == b.balance && a.q == b.q &&
         a.gradients == b.gradients;
}

}  // namespace

TEST_CASE("Sums, gathered parts and tensors of rank 0 are the same on both GPUs") {
  on_gpus<int>(2, [](const NcclGroup& group) {
    const double r = group.rank();
    const auto x = Tensor<double, Cuda>::from({3}, {1 + r, 10 * r, -2});
    CHECK(doubles(all_reduce_sum(group, x)) == std::vector<double>{3, 10, -4});
    CHECK(doubles(x) == std::vector<double>{1 + r, 10 * r, -2});
    const auto f = Tensor<float, Cuda>::full({1000003}, static_cast<float>(r + 1));
    const auto sums = all_reduce_sum(group, f).to_host();
    CHECK(sums == std::vector<float>(1000003, 3.0f));
    const auto a = Tensor<double, Cuda>::full({2}, r), b = Tensor<double, Cuda>::full({3}, 1 - r);
    dist::all_reduce_in_place(group, std::vector<Tensor<double, Cuda>>{a, b});
    CHECK(doubles(a) == std::vector<double>{1, 1});
    CHECK(doubles(b) == std::vector<double>{1, 1, 1});
    CHECK(doubles(dist::ordered_sum(group, std::vector<Tensor<double, Cuda>>{x, x})) ==
          std::vector<double>{6, 20, -8});
    dist::broadcast_first(group, std::vector<Tensor<double, Cuda>>{x});
    CHECK(doubles(x) == std::vector<double>{1, 0, -2});
    return 0;
  });
}

TEST_CASE("Each thread works on its own GPU, and a thread that ends leaves it to the next one") {
  for (int time = 0; time < 2; ++time)
    for (int device = 0; device < 2; ++device)
      std::thread([device] {
        Cuda::select(device);
        const auto x = Tensor<float, Cuda>::ones({1000});
        CHECK(Cuda::device() == device);
        cudaPointerAttributes where{};
        REQUIRE(cudaPointerGetAttributes(&where, x.data()) == cudaSuccess);
        CHECK(where.device == device);
        CHECK(sum(x + x).item() == 2000);
        const std::string refused = lacks<DeviceError>([&] { Cuda::select(1 - device); }, {"keeps to it"});
        CHECK(refused == "");
      }).join();
  CHECK(lacks<DeviceError>([] { Cuda::select(1000); }, {"no device 1000"}) == "");
}

TEST_CASE("A tensor of another GPU is refused, naming both, and may be freed") {
  Tensor<float, Cuda> second;
  std::thread([&] {
    Cuda::select(1);
    second = Tensor<float, Cuda>::ones({1000});
  }).join();
  const auto first = Tensor<float, Cuda>::ones({1000});
  CHECK(lacks<DeviceError>([&] { first + second; }, {"device 1", "device 0", "to_host()"}) == "");
  CHECK(lacks<DeviceError>([&] { second.to_host(); }, {"device 1", "device 0"}) == "");
  const auto held = buffer_stats<Cuda>().in_use;
  second = {};
  CHECK(buffer_stats<Cuda>().in_use == held);
  std::thread([] {
    Cuda::select(1);
    CHECK(buffer_stats<Cuda>().in_use == 0);
  }).join();
  CHECK(sum(first).item() == 1000);
}

TEST_CASE("On unequal shares, both GPUs have the loss, q and gradients of one") {
  const auto want = by_one();
  REQUIRE(want.gradients.size() > 10);
  for (const auto& got : on_gpus<Learned>(2, [](const NcclGroup& group) {
         Rank rank(group);
         return rank.learned(rank.step());
       })) {
    CHECK(worst(got, want) <= 1e-12);
    CHECK(worst_error(got.entropy, want.entropy) <= 1e-12);
  }
}

TEST_CASE("With fixed shards, one and two GPUs have the same bytes") {
  const auto want = by_one(4);
  for (const auto& got : on_gpus<Learned>(2, [](const NcclGroup& group) {
         Rank rank(group, 4);
         return rank.learned(rank.step());
       }))
    CHECK(same_bytes(got, want));
}

TEST_CASE("A step in a graph has the numbers of a step, also when it is replayed on another batch") {
  for (const Index shards : {0, 4}) {
    CAPTURE(shards);
    const auto want = by_one(shards);
    // The other batch: the same sequences, one label fewer.
    Rank one{AnyGroup(), shards};
    one.batch.labels[0].assign(one.batch.labels[0].size(), -100);
    const auto other = one.learned(one.step());
    REQUIRE(worst(other, want) > 1e-3);
    on_gpus<int>(2, [&](const NcclGroup& group) {
      Rank rank(group, shards);
      const auto shares = rank.shares();
      const auto eager = rank.learned(rank.step_there(shares));
      CHECK(worst(eager, want) <= 1e-12);
      BatchLoss<double, Cuda> loss;
      {
        CudaGraph graph([&] { loss = rank.step_there(shares); });
        for (int time = 0; time < 3; ++time) {
          graph.replay();
          CHECK(same_bytes(rank.learned(loss), eager));
        }
        rank.batch = one.batch;
        const auto changed = rank.shares();
        for (std::size_t i = 0; i < shares.size(); ++i) shares[i].labels.assign(changed[i].labels);
        graph.replay();
        CHECK(worst(rank.learned(loss), other) <= 1e-12);
        // They are in the graph's memory.
        for (const auto& parameter : rank.own.model.mixer().parameters()) parameter.zero_grad();
        loss = {};
      }
      return 0;
    });
  }
}

TEST_CASE("A rank that throws ends both with its message, also where the other waits for its GPU") {
  for (const int failed : {0, 1}) {
    CAPTURE(failed);
    const auto what = lacks<FormatError>(
        [&] {
          on_gpus<int>(2, [&](const NcclGroup& group) {
            Rank rank(group);
            rank.step();
            if (group.rank() == failed) throw FormatError("the cat ate the batch");
            CHECK(lacks<PeerFailed>([&] { rank.step(); }, {"rank", "of 2 failed", "the cat ate the batch"}) ==
                  "");
            return 0;
          });
        },
        {"the cat ate the batch"});
    CHECK(what == "");
  }
  // In a graph nobody asks how the other one is.
  const auto what = lacks<FormatError>(
      [&] {
        on_gpus<int>(2, [&](const NcclGroup& group) {
          auto x = Tensor<double, Cuda>::ones({10});
          Tensor<double, Cuda> y;
          CudaGraph graph([&] { y = all_reduce_sum(group, x); });
          graph.replay();
          CHECK(y.to_host().front() == 2);
          if (group.rank() == 1) throw FormatError("the dog ate the batch");
          graph.replay();
          CHECK(lacks<PeerFailed>([&] { y.to_host(); }, {"the dog ate the batch"}) == "");
          CHECK_THROWS_AS(all_reduce_sum(group, x), PeerFailed);
          return 0;
        });
      },
      {"the dog ate the batch"});
  CHECK(what == "");
  // The GPUs are as good as before.
  CHECK(same_bytes(on_gpus<Learned>(2,
                                    [](const NcclGroup& group) {
                                      Rank rank(group, 4);
                                      return rank.learned(rank.step());
                                    })
                       .back(),
                   by_one(4)));
}

TEST_CASE("A rank that stays away ends the other after the timeout") {
  const auto what = lacks<PeerFailed>(
      [&] {
        on_gpus<int>(
            2,
            [&](const NcclGroup& group) {
              const auto x = Tensor<double, Cuda>::ones({10});
              Tensor<double, Cuda> y;
              {
                CudaGraph graph([&] { y = all_reduce_sum(group, x); });
                if (group.rank() == 0) {
                  graph.replay();
                  y.to_host();
                }
                y = {};
              }
              std::this_thread::sleep_for(std::chrono::seconds(8));
              return 0;
            },
            std::chrono::seconds(3));
      },
      {"rank 0 of 2 has waited"});
  CHECK(what == "");
}

TEST_CASE("Two ranks on one GPU are refused by name") {
  const auto what = lacks<ArgumentError>(
      [] {
        dist::ThreadGroup::run(2, [](const dist::ThreadGroup& host) {
          Cuda::select(0);
          const NcclGroup group(host);
        });
      },
      {"ranks 0 and 1", "one GPU"});
  CHECK(what == "");
  const auto many =
      lacks<ArgumentError>([] { NcclGroup::run(1000, [](const NcclGroup&) {}); }, {"1000", "GPUs"});
  CHECK(many == "");
}

int main(int argc, char** argv) {
  if (const int devices = Cuda::devices(); devices < 2) {
    std::printf("skipped: it takes two GPUs, and there are %d\n", devices);
    return 77;
  }
  return doctest::Context(argc, argv).run();
}
