// A step that is replayed computes what it computes by itself, on the backend under test. Where that one
// captures steps, these are its own graphs.

#include <doctest/doctest.h>

#include <cstdint>
#include <vector>

#include <testing.hpp>

#include <mole/autodiff/backward.hpp>
#include <mole/ops/arithmetic.hpp>
#include <mole/ops/gather.hpp>
#include <mole/ops/reduce.hpp>
#include <mole/optim/adamw.hpp>
#include <mole/train/loop.hpp>
#include <mole/train/replayed.hpp>

namespace {

using mole::Index;
using mole::testing::Device;
using mole::testing::doubles;
using mole::testing::noise;

/// Rows of a table, and what they are multiplied by.
template <class T>
struct Rows {
  mole::Tensor<Index, Device> ids;
  mole::Tensor<T, Device> factors;

  template <class F>
  void each_tensor(F f) {
    f(ids);
    f(factors);
  }
};

template <class T>
Rows<T> rows(Index step) {
  const Index length = 2 + step % 3;
  std::vector<Index> ids;
  for (Index i = 0; i < length; ++i) ids.push_back((7 * step + 3 * i) % 5);
  return {mole::Tensor<Index, Device>::from({length}, ids),
          noise<T>({length, 4}, static_cast<std::uint64_t>(step))};
}

/// The parameters after some steps, each by its own batch, and the losses.
template <class T, class Wrap>
std::vector<double> trained(Wrap wrap) {
  auto table = noise<T>({5, 4}, 99);
  table.set_requires_grad();
  mole::AdamW<T, Device> optimizer({table});
  auto loss = wrap(table, [table](const Rows<T>& batch) {
    const auto value = mole::sum(mole::mul(mole::embedding(table, batch.ids), batch.factors));
    mole::backward(value);
    return value.detach();
  });
  mole::TrainingOptions options;
  options.steps = 20;
  options.schedule.peak = 0.1;
  const auto curves = mole::train(optimizer, options, [&](Index step) {
    return mole::StepResult{static_cast<double>(loss(rows<T>(step)).item())};
  });
  auto found = doubles(table);
  found.insert(found.end(), curves.series[0].second.begin(), curves.series[0].second.end());
  return found;
}

}  // namespace

TEST_CASE_TEMPLATE("Training by replayed steps gives the bits of training by the steps themselves", T, float,
                   double) {
  const auto plain = trained<T>([](const auto&, auto step) { return step; });
  const auto replayed = trained<T>([](const auto& table, auto step) {
    using Values = mole::Tensor<T, Device>;
    return mole::Replayed<T, Device, Rows<T>, Values>({table}, step);
  });
  CHECK(plain == replayed);
  CHECK(plain.size() == 40);
}
