// SVDiff on the layers of a model.

#include <doctest/doctest.h>
#include <mole/autodiff/backward.hpp>
#include <mole/compose/svdiff.hpp>
#include <mole/ops/reduce.hpp>
#include <testing.hpp>

using namespace mole;
using namespace mole::testing;

namespace {

SlotTable<double, Device> small_table() {
  SlotTable<double, Device> table;
  table.add_group({}, {{"a.q", 5, 4}});
  table.add_group({}, {{"b.conv", 3, 18, 0, SlotKernel{3, 3, {1, Padding::all(1)}}}});
  table.slots[0].weight = noise<double>({5, 4}, 1);
  table.slots[1].weight = noise<double>({3, 2, 3, 3}, 2);
  return table;
}

Tensor<double, Device> output(const SlotTable<double, Device>& table) {
  const auto x = noise<double>({2, 4}, 3), image = noise<double>({1, 4, 4, 2}, 4);
  return add(sum(square(table.apply(0, x))), sum(square(table.apply(1, image))));
}

}  // namespace

TEST_CASE("SVDiff leaves a model as it is while its shifts are zero, and as it was once they are dropped") {
  auto table = small_table();
  const double before = output(table).item();
  const SpectralSlots<double, Device> spectra(table);
  auto shifts = spectra.make_shifts();
  CHECK(shifts[0].shape() == Shape{4});
  CHECK(shifts[1].shape() == Shape{3});
  spectra.apply(table, shifts);
  CHECK(output(table).item() == doctest::Approx(before).epsilon(1e-12));
  shifts[0] = Tensor<double, Device>::full({4}, 0.5);
  spectra.apply(table, shifts);
  CHECK(std::abs(output(table).item() - before) > 0.1);
  table.reset();
  CHECK(output(table).item() == before);
}

TEST_CASE("The shifts of linear layers and of kernels train through the layers, by finite differences") {
  auto table = small_table();
  const SpectralSlots<double, Device> spectra(table);
  const auto shifts = spectra.make_shifts();
  spectra.apply(table, shifts);
  backward(output(table));
  const double h = 1e-6;
  for (const std::size_t layer : {0U, 1U})
    for (Index k = 0; k < shifts[layer].size(); ++k) {
      const auto moved = [&](double by) {
        std::vector<Tensor<double, Device>> some;
        for (const auto& shift : shifts) some.push_back(shift.detach().clone());
        auto values = some[layer].to_host();
        values[static_cast<std::size_t>(k)] += by;
        some[layer] = Tensor<double, Device>::from(some[layer].shape(), values);
        spectra.apply(table, some);
        return output(table).item();
      };
      const double slope = (moved(h) - moved(-h)) / (2 * h);
      CHECK(shifts[layer].grad().to_host()[static_cast<std::size_t>(k)] ==
            doctest::Approx(slope).epsilon(1e-7));
    }
}

TEST_CASE("SVDiff refuses a layer without a dense weight, and shifts of other layers") {
  auto table = small_table();
  const SpectralSlots<double, Device> spectra(table);
  auto shifts = spectra.make_shifts();
  shifts.pop_back();
  CHECK_THROWS_AS(spectra.apply(table, shifts), ArgumentError);
  shifts.push_back(Tensor<double, Device>::zeros({2}));
  CHECK_THROWS_AS(spectra.apply(table, shifts), ShapeError);
  table.slots[0].weight = {};
  using Spectra = SpectralSlots<double, Device>;
  CHECK(lacks<ArgumentError>([&] { Spectra{table}; }, {"a.q", "dense"}) == "");
}
