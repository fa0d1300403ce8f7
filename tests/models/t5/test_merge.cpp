// Merging into a T5, beside attached experts and into its files.

#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <mole/backends/cpu.hpp>
#include <mole/compose/linear.hpp>
#include <mole/io/json.hpp>
#include <mole/io/lora_set.hpp>
#include <mole/models/generate.hpp>
#include <mole/models/t5/checkpoint.hpp>

#include "io/folder.hpp"
#include "testing.hpp"

using namespace mole;
using namespace io_test;

namespace {

double loss_of(const T5<double, Cpu>& model) {
  const T5Batch<double, Cpu> batch{Tensor<Index, Cpu>::from({2, 5}, {3, 4, 5, 6, 1, 7, 8, 1, 0, 0}),
                                   Tensor<double, Cpu>::from({2, 5}, {1, 1, 1, 1, 1, 1, 1, 1, 0, 0}),
                                   Tensor<Index, Cpu>::from({2, 3}, {5, 6, 1, 7, 1, -100})};
  const NoGrad off;
  MolePass<double, Cpu> pass;
  return model.loss(batch, pass).item();
}

}  // namespace

TEST_CASE("A merged model is saved with what was merged, as PEFT and transformers compute it") {
  const Folder folder;
  auto model = load_t5<double, Cpu>(case_of("merge/model"));
  const auto adapter = lora_set(load_adapter(case_of("merge/adapter")));
  CHECK(loss_of(model) == doctest::Approx(3.429570).epsilon(2e-7));
  merge(model.layers().table, adapter);
  CHECK(loss_of(model) == doctest::Approx(3.209484).epsilon(2e-7));
  save_t5(folder / "merged", model, Dtype::F64);
  CHECK(loss_of(load_t5<double, Cpu>(folder / "merged")) == doctest::Approx(3.209484).epsilon(2e-7));
  // Experts are no part of it, and the model in memory stays as it is.
  model.attach({adapter}, {});
  save_t5(folder / "mixed", model, Dtype::F64);
  CHECK(loss_of(load_t5<double, Cpu>(folder / "mixed")) == doctest::Approx(3.209484).epsilon(2e-7));
  model.detach();
  CHECK(loss_of(model) == doctest::Approx(3.429570).epsilon(2e-7));
}

TEST_CASE("Merging and attaching add up in both orders, and detaching takes both out") {
  auto model = load_t5<double, Cpu>(case_of("merge/model"));
  auto& table = model.layers().table;
  const auto adapter = lora_set(load_adapter(case_of("merge/adapter")));
  const double base = loss_of(model);
  // One expert alone has all the weight: mixed on top of its own merge it counts twice.
  merge(table, std::vector<LoraSet>{adapter}, {2.0});
  const double twice = loss_of(model);
  table.reset();
  CHECK(loss_of(model) == base);

  merge(table, adapter);
  model.attach({adapter}, {});
  CHECK(loss_of(model) == doctest::Approx(twice).epsilon(1e-9));
  model.detach();
  CHECK(loss_of(model) == base);

  model.attach({adapter}, {});
  const double attached = loss_of(model);
  CHECK(std::abs(attached - twice) > 1e-3);
  merge(table, adapter);
  CHECK(loss_of(model) == doctest::Approx(twice).epsilon(1e-9));
  // A merge replaces the one before; an attachment leaves it.
  merge(table, adapter);
  model.attach({adapter}, {});
  CHECK(loss_of(model) == doctest::Approx(twice).epsilon(1e-9));
  model.detach();
  CHECK(loss_of(model) == base);
}
