// The loss of a batch from the sums of its shares, without any ranks.

#include <doctest/doctest.h>

#include <string>
#include <vector>

#include <mole/autodiff/backward.hpp>
#include <mole/ops/arithmetic.hpp>
#include <train/parallel_t5.hpp>

using namespace mole::testing;
using mole::Index;
using Statistics = mole::BatchStatistics<double, Device>;

namespace {

/// Two shares of one batch by any router, added up, against the whole.
template <class O>
void check_two_shares(const O& router, bool balanced) {
  auto model = tiny_t5<double>();
  model.attach(tiny_adapters(model), router);
  const auto parameters = model.mixer().parameters();
  std::uint64_t stream = 0;
  for (const auto& parameter : parameters)
    parameter.assign(mole::Tensor<double, Device>::randn(parameter.shape(), {7, stream++}));
  const auto batch = uneven_batch();
  const auto share = [&](Index first, Index last) {
    const auto part = batch.rows<double>(first, last);
    mole::MolePass<double, Device> pass;
    const auto task = model.loss(part, pass);
    return mole::ShareResult<double, Device>{task, mole::counted_labels(part.labels),
                                             model.mixer().records(pass)};
  };
  const auto learn = [&](const mole::BatchLoss<double, Device>& loss) {
    for (const auto& parameter : parameters) parameter.zero_grad();
    backward(loss.total);
    return learned(loss, parameters);
  };
  const Statistics statistics(model.mixer(), balanced, 0.3);
  const auto want = learn(statistics.loss_of_whole(share(0, 10)));
  const auto sums = add(statistics.of(share(0, 2)), statistics.of(share(2, 10)));
  CHECK(sums.size() == statistics.size());
  const auto got = learn(statistics.loss(sums));
  CHECK(worst_error({got.total, got.task, got.balance}, {want.total, want.task, want.balance}) <= 1e-12);
  CHECK(worst_error(got.q, want.q) <= 1e-12);
  CHECK(worst_error(got.gradients, want.gradients) <= 1e-12);
  CHECK(worst_error(got.entropy, want.entropy) <= 1e-12);
  CHECK(got.q.empty() == !balanced);
}

}  // namespace

TEST_CASE("The sums of two shares give the loss of the whole batch, with and without a balance loss") {
  for (const bool balanced : {true, false}) {
    CAPTURE(balanced);
    check_two_shares(mole::GateOptions{}, balanced);
    check_two_shares(mole::XLoraOptions{}, balanced);
    check_two_shares(mole::XLoraOptions{.scope = mole::Scope::block, .pooling = mole::Pooling::mean},
                     balanced);
  }
}

TEST_CASE("An empty share adds nothing, and nothing at all has the loss 0") {
  const ParallelT5<double> own({});
  const Statistics statistics(own.model.mixer(), false, 0);
  const auto nothing = statistics.of({});
  for (const double value : doubles(nothing)) CHECK(value == 0);
  CHECK(statistics.loss(nothing).total.item() == 0);
  CHECK(statistics.of({}, 3).size() == statistics.size() + 3);
}

TEST_CASE("Labels are counted as cross_entropy counts them") {
  const auto labels = mole::Tensor<Index, Device>::from({2, 2}, {3, -100, 0, -1});
  CHECK(mole::counted_labels(labels) == 3);
  CHECK(mole::counted_labels(labels, -1) == 3);
}

TEST_CASE("A pass in which a gate decided nothing, and weights that are no shares of one, are refused") {
  const ParallelT5<double> own({});
  const Statistics statistics(own.model.mixer(), true, 0.1);
  auto share = own.share(uneven_batch(), 0, 10);
  share.gates.pop_back();
  CHECK(lacks<mole::ArgumentError>([&] { statistics.of(share); }, {"gates", "decisions of"}) == "");
  auto model = tiny_t5<double>();
  model.attach(tiny_adapters(model), mole::XLoraOptions{.softmax = false});
  CHECK_THROWS_AS(Statistics(model.mixer(), true, 0.1), mole::ArgumentError);
  CHECK_NOTHROW(Statistics(model.mixer(), false, 0));
}
