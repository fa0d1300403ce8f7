// Gates trained by several ranks: the loss, the gradients and the parameters of one.

#include <doctest/doctest.h>

#include <cmath>
#include <string>
#include <vector>

#include <dist/sums_there.hpp>
#include <mole/autodiff/backward.hpp>
#include <mole/loss/balance.hpp>
#include <mole/loss/total.hpp>
#include <train/parallel_t5.hpp>

using namespace mole::testing;
using mole::GateOptions;
using mole::Index;
using mole::Scope;
using mole::dist::AnyGroup;

namespace {

constexpr double alpha = 0.1;

const std::vector<GateOptions> policies{
    {.scope = Scope::matrix, .pooling = mole::Pooling::token},
    {.scope = Scope::block, .pooling = mole::Pooling::mean},
    {.scope = Scope::network, .pooling = mole::Pooling::flatten, .length = tiny_length},
    {.scope = Scope::layer, .pooling = mole::Pooling::token, .top_k = 2}};

/// One process and the whole batch, without anything of data_parallel.hpp.
template <class T>
Learned today(const GateOptions& options, const HostBatch& batch) {
  const ParallelT5<T> own(options);
  mole::MolePass<T, Device> pass;
  const auto task = own.model.loss(batch.rows<T>(0, batch.size()), pass);
  const auto balance = own.model.balance(pass);
  const auto total = mole::total_loss(task, balance, static_cast<T>(alpha));
  backward(total);
  std::vector<mole::GateSample<T, Device>> samples;
  for (const auto& record : own.model.mixer().records(pass))
    samples.push_back({record.value.dense, record.row_mask, record.experts});
  std::vector<double> entropy;
  for (const auto& gate : mole::gate_statistics(own.model.mixer().records(pass)))
    entropy.push_back(gate.entropy());
  return {static_cast<double>(total.item()),
          static_cast<double>(task.item()),
          static_cast<double>(balance.item()),
          doubles(expert_shares(samples, own.model.mixer().n_experts()).q),
          gradients_of(own.model.mixer().parameters()),
          entropy};
}

/// What every rank learns where shares have these sizes.
template <class T>
std::vector<Learned> shared(const GateOptions& options, const HostBatch& batch,
                            const std::vector<Index>& sizes) {
  const auto cut = ranges(sizes);
  return on_ranks<Learned>(static_cast<int>(sizes.size()), [&](const AnyGroup& group) {
    const ParallelT5<T> own(options);
    mole::DataParallel<T, Device> ranks(group, own.model.mixer(), {.alpha = alpha});
    const auto loss = ranks.step([&](Index shard) {
      const auto [first, last] = cut[static_cast<std::size_t>(shard)];
      return own.share(batch, first, last);
    });
    return learned(loss, own.model.mixer().parameters());
  });
}

/// The plain rule of others: each rank its own mean loss and balance loss, gradients averaged.
Learned averaged(const GateOptions& options, const HostBatch& batch, const std::vector<Index>& sizes,
                 bool own_task, bool own_balance) {
  const auto cut = ranges(sizes);
  const auto learned = on_ranks<Learned>(static_cast<int>(sizes.size()), [&](const AnyGroup& group) {
    const ParallelT5<double> own(options);
    const auto [first, last] = cut[static_cast<std::size_t>(group.rank())];
    const auto share = own.share(batch, first, last);
    std::vector<mole::GateSample<double, Device>> samples;
    for (const auto& record : share.gates)
      samples.push_back({record.value.dense, record.row_mask, record.experts});
    // One half of the loss is mutated where the other is asked for alone.
    const auto task = own_task ? share.task : mole::scale(share.task, 0.0);
    const auto total = mole::total_loss(task, mole::balance_loss(samples, own.model.mixer().n_experts()),
                                        own_balance ? alpha : 0);
    backward(total);
    Learned result{total.item(), 0, 0, {}, gradients_of(own.model.mixer().parameters()), {}};
    group.all_reduce_sum(&result.total, 1);
    group.all_reduce_sum(result.gradients.data(), static_cast<Index>(result.gradients.size()));
    result.total /= group.size();
    for (auto& gradient : result.gradients) gradient /= group.size();
    return result;
  });
  return learned.front();
}

/// |a - b| / |b| of vectors.
double distance(const std::vector<double>& a, const std::vector<double>& b) {
  REQUIRE(a.size() == b.size());
  double square = 0, norm = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    square += (a[i] - b[i]) * (a[i] - b[i]);
    norm += b[i] * b[i];
  }
  return std::sqrt(square / norm);
}

}  // namespace

TEST_CASE("On any shares, every rank has the loss, q and gradients of one process") {
  struct Row {
    std::vector<Index> sizes;
    std::vector<Index> padding;  ///< examples of padding only
  };
  const std::vector<Row> rows{
      {{10}, {}},          {{5, 5}, {}},        {{1, 9}, {}},     {{9, 1}, {}},
      {{0, 10}, {}},       {{4, 3, 3}, {}},     {{1, 1, 8}, {}},  {{3, 0, 7}, {}},
      {{3, 3, 3, 1}, {}},  {{0, 0, 9, 1}, {}},  {{2, 8}, {0, 1}}, {{7, 3}, {7, 8, 9}},
      {{1, 5, 4}, {0, 4}}, {{2, 1, 4, 3}, {2}}, {{2, 1, 7}, {}}};  // the second share has no label
  for (const auto& options : policies)
    for (const auto& row : rows) {
      CAPTURE(name_of(options));
      CAPTURE(row.sizes);
      CAPTURE(row.padding);
      const auto batch = uneven_batch(10, 1, row.padding);
      const auto want = today<double>(options, batch);
      REQUIRE(want.gradients.size() > 10);
      REQUIRE(std::isfinite(want.total));
      for (const auto& got : shared<double>(options, batch, row.sizes)) {
        CHECK(std::abs(got.total - want.total) <= 1e-12);
        CHECK(std::abs(got.task - want.task) <= 1e-12);
        CHECK(std::abs(got.balance - want.balance) <= 1e-12);
        CHECK(worst_error(got.q, want.q) <= 1e-12);
        CHECK(worst_error(got.gradients, want.gradients) <= 1e-12);
        CHECK(distance(got.gradients, want.gradients) <= 1e-12);
        CHECK(worst_error(got.entropy, want.entropy) <= 1e-12);
      }
    }
}

TEST_CASE("Averages over the ranks are another rule, far outside that tolerance") {
  const auto batch = uneven_batch();
  for (const auto& options : policies)
    for (const auto& sizes : std::vector<std::vector<Index>>{{1, 9}, {3, 3, 4}, {3, 3, 3, 1}}) {
      CAPTURE(name_of(options));
      CAPTURE(sizes);
      const auto exact = [&](bool own_task, bool own_balance) {
        return averaged(options, batch, {batch.size()}, own_task, own_balance);
      };
      // Averaged losses; averaged task losses; a balance loss a rank.
      for (const auto& part : {std::pair(true, true), {true, false}, {false, true}}) {
        const bool task = part.first, balance = part.second;
        CAPTURE(task);
        CAPTURE(balance);
        const auto mutated = averaged(options, batch, sizes, task, balance), want = exact(task, balance);
        CHECK(std::abs(mutated.total - want.total) > 1e-4);
        CHECK(distance(mutated.gradients, want.gradients) > 0.01);
      }
      // The yardstick is the rule of one process.
      CHECK(distance(exact(true, true).gradients, today<double>(options, batch).gradients) < 1e-12);
    }
}

TEST_CASE_TEMPLATE("One rank by itself has the bits of a run without ranks", T, float, double) {
  for (const auto& options : policies) {
    CAPTURE(name_of(options));
    const auto batch = uneven_batch();
    const auto want = today<T>(options, batch), got = shared<T>(options, batch, {10}).front();
    CHECK(got.total == want.total);
    CHECK(got.task == want.task);
    CHECK(got.balance == want.balance);
    CHECK(got.q == want.q);
    CHECK(got.gradients == want.gradients);
    CHECK(got.entropy == want.entropy);
  }
}

namespace {

/// The parameters and losses after training on a batch a step, by rank.
template <class T>
std::vector<std::vector<double>> trained_on(int ranks, Index shards, const std::vector<Index>& sizes,
                                            int steps) {
  return on_ranks<std::vector<double>>(ranks, [&](const AnyGroup& group) {
    const ParallelT5<T> own({.scope = Scope::block, .pooling = mole::Pooling::token});
    const auto parameters = own.model.mixer().parameters();
    mole::DataParallel<T, Device> parallel(group, own.model.mixer(),
                                           {.alpha = alpha, .fixed_shards = shards});
    mole::AdamW<T, Device> optimizer(parameters, {.weight_decay = 0.1});
    const auto cut = ranges(sizes);
    std::vector<double> losses;
    parallel.run([&] {
      for (int step = 0; step < steps; ++step) {
        const auto batch = uneven_batch(10, static_cast<std::uint64_t>(step + 1));
        const auto loss = parallel.step([&](Index shard) {
          const auto range =
              sizes.empty() ? parallel.range(shard, batch.size()) : cut[static_cast<std::size_t>(shard)];
          return own.share(batch, range.first, range.second);
        });
        losses.push_back(static_cast<double>(loss.total.item()));
        mole::clip_grad_norm(parameters, 1);
        optimizer.step(0.01);
      }
      return true;
    });
    auto result = values_of(parameters);
    result.insert(result.end(), losses.begin(), losses.end());
    return result;
  });
}

}  // namespace

TEST_CASE("After 100 steps of AdamW the gates of any number of ranks are those of one") {
  const auto want = trained_on<double>(1, 0, {}, 100).front();
  // They have gone far from where they began.
  const auto begin = trained_on<double>(1, 0, {}, 1).front();
  CHECK(worst_error({want.begin(), want.end() - 100}, {begin.begin(), begin.end() - 1}) > 0.1);
  for (const auto& sizes : std::vector<std::vector<Index>>{{1, 9}, {3, 3, 4}, {4, 0, 1, 5}}) {
    CAPTURE(sizes.size());
    const auto got = trained_on<double>(static_cast<int>(sizes.size()), 0, sizes, 100);
    for (const auto& rank : got) {
      CHECK(worst_error(rank, want) <= 1e-10);
      // Bit for bit, not only nearly.
      CHECK(rank == got.front());
    }
  }
}

TEST_CASE("Shares of ranks differ by one example at most and cover the batch") {
  const ParallelT5<double> own({});
  for (const Index shards : {1, 3, 4, 12}) {
    const mole::DataParallel<double, Device> parallel({}, own.model.mixer(), {.fixed_shards = shards});
    Index end = 0;
    for (Index shard = 0; shard < shards; ++shard) {
      const auto [first, last] = parallel.range(shard, 10);
      CHECK(first == end);
      CHECK((last - first == 10 / shards || last - first == 10 / shards + 1));
      end = last;
    }
    CHECK(end == 10);
  }
}

TEST_CASE_TEMPLATE("With a fixed number of shards 1, 2 and 4 ranks have the same bits", T, float, double) {
  const auto want = trained_on<T>(1, 4, {}, 20).front();
  for (const int ranks : {2, 4})
    for (const auto& rank : trained_on<T>(ranks, 4, {}, 20)) CHECK(rank == want);
  // More shards than examples: some are empty.
  const auto many = trained_on<T>(1, 12, {}, 5).front();
  for (const auto& rank : trained_on<T>(3, 12, {}, 5)) CHECK(rank == many);
  CHECK(worst_error(many, trained_on<T>(1, 0, {}, 5).front()) <= (std::same_as<T, float> ? 1e-3 : 1e-12));
  // Without, the order of the sums is another, and so are the last bits.
  CHECK(trained_on<T>(2, 0, {}, 20).front() != want);
}

namespace {

/// What every rank learns by step_there(), told how to make its group.
template <class T, class F>
std::vector<Learned> learned_there(const GateOptions& options, const HostBatch& batch, int size, Index shards,
                                   F group_of) {
  return on_ranks<Learned>(size, [&](const AnyGroup& threads) {
    const ParallelT5<T> own(options);
    const AnyGroup group = group_of(threads);
    mole::DataParallel<T, Device> ranks(group, own.model.mixer(), {.alpha = alpha, .fixed_shards = shards});
    const auto loss = ranks.step_there([&](Index shard) -> mole::DeviceShare<T, Device> {
      const auto [first, last] = ranks.range(shard, batch.size());
      const auto some = batch.rows<T>(first, last);
      mole::MolePass<T, Device> pass;
      const auto task = own.model.loss(some, pass);
      return {task, mole::counted_labels_there<T>(some.labels), own.model.mixer().records(pass)};
    });
    CHECK(loss.entropy.empty());
    return learned(loss, own.model.mixer().parameters());
  });
}

}  // namespace

TEST_CASE("A step that a graph could hold has the loss, q and gradients of one process") {
  for (const auto& options : policies)
    for (const bool there : {false, true})
      for (const int size : {1, 2, 3}) {
        CAPTURE(name_of(options));
        CAPTURE(there);
        CAPTURE(size);
        const auto batch = uneven_batch(10, 1, {7});
        const auto want = today<double>(options, batch);
        for (const auto& got :
             learned_there<double>(options, batch, size, 0, [&](const AnyGroup& group) -> AnyGroup {
               if (there) return mole::testing::SumsThere(group, nullptr);
               return group;
             })) {
          CHECK(std::abs(got.total - want.total) <= 1e-12);
          CHECK(std::abs(got.task - want.task) <= 1e-12);
          CHECK(std::abs(got.balance - want.balance) <= 1e-12);
          CHECK(worst_error(got.q, want.q) <= 1e-12);
          CHECK(distance(got.gradients, want.gradients) <= 1e-12);
        }
      }
}

TEST_CASE_TEMPLATE("With fixed shards it has the same bits on 1, 2 and 4 ranks", T, float, double) {
  const auto batch = uneven_batch();
  const auto on = [&](int size) {
    return learned_there<T>(policies[0], batch, size, 4, [](const AnyGroup& group) -> AnyGroup {
      return mole::testing::SumsThere(group, nullptr);
    });
  };
  const auto want = on(1).front();
  for (const int size : {2, 4})
    for (const auto& got : on(size)) {
      CHECK(got.total == want.total);
      CHECK(got.q == want.q);
      CHECK(got.gradients == want.gradients);
    }
}

TEST_CASE("Rows that ranks have made in shares come together in order on every rank, empty shares or not") {
  const auto batch = mole::Tensor<double, Device>::randn({5, 2, 3}, {3, 1});
  for (const int size : {1, 2, 3, 7})
    for (const Index fixed : {Index{0}, Index{2} * size}) {
      CAPTURE(size);
      CAPTURE(fixed);
      const auto all = on_ranks<std::vector<double>>(size, [&](const AnyGroup& group) {
        const ParallelT5<double> own(policies[0]);
        const mole::DataParallel<double, Device> ranks(group, own.model.mixer(), {.fixed_shards = fixed});
        std::vector<mole::Tensor<double, Device>> parts;
        const Index each = ranks.shards() / size;
        for (Index shard = each * group.rank(); shard < each * (group.rank() + 1); ++shard) {
          const auto [first, last] = ranks.range(shard, 5);
          if (first < last) parts.push_back(slice(batch, 0, first, last));
        }
        if (size == 1) CHECK_THROWS_AS(ranks.gather_rows(parts, {6, 2, 3}), mole::ShapeError);
        return ranks.gather_rows(parts, batch.shape()).to_host();
      });
      for (const auto& one : all) CHECK(one == batch.to_host());
    }
}

TEST_CASE("Shards that ranks cannot share evenly are refused") {
  const auto refused =
      lacks<mole::ArgumentError>([] { trained_on<double>(3, 4, {}, 1); }, {"3", "4", "multiple"});
  CHECK(refused == "");
}
