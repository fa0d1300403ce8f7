#pragma once
// Mix-of-Show's gradient fusion of LoRAs (Gu et al. 2023): new weights that do with each expert's own inputs what that
// expert does. The paper calls it reference tuning.

#include <algorithm>
#include <cstddef>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include <mole/compose/fusion.hpp>
#include <mole/compose/linear.hpp>

#include "pictures/painter.hpp"

namespace pictures {

/// X^T X of what some groups of layers read, rows X of all passes that are watched.
template <class B>
class InputProducts : public mole::InputWatch<Scalar, B> {
 public:
  explicit InputProducts(std::set<std::size_t> groups) : groups_(std::move(groups)) {}

  void see(std::size_t group, const Values<B>& x) override {
    if (groups_.count(group) == 0) return;
    const auto values = x.to_host();
    const Index width = x.size(-1);
    // In double, as what is nearly singular is inverted.
    const auto products =
        mole::detail::gram({x.size() / width, width, std::vector<double>(values.begin(), values.end())});
    auto& sum = sums_[group];
    sum.rows = sum.columns = width;
    sum.values.resize(products.size());
    for (std::size_t i = 0; i < products.size(); ++i) sum.values[i] += products[i];
  }
  /// Of each group that was seen.
  const std::map<std::size_t, mole::HostMatrix>& sums() const { return sums_; }

 private:
  std::set<std::size_t> groups_;
  std::map<std::size_t, mole::HostMatrix> sums_;
};

/// Whether a LoRA adapts a slot.
inline bool adapts(const mole::LoraSet& lora, const std::string& slot) {
  return std::count(lora.slots.begin(), lora.slots.end(), slot) > 0;
}

/// The slots of a UNet, by number, that one of the LoRAs adapts.
template <class B>
std::vector<std::size_t> adapted_slots(const Painter<B>& painter, const std::vector<mole::LoraSet>& loras) {
  const auto& slots = painter.unet.layers().table.slots;
  std::vector<std::size_t> list;
  for (std::size_t s = 0; s < slots.size(); ++s)
    if (std::any_of(loras.begin(), loras.end(),
                    [&](const mole::LoraSet& lora) { return adapts(lora, slots[s].name); }))
      list.push_back(s);
  return list;
}

/// Whether gradient fusion can take these LoRAs: they adapt matrices and no kernels of several pixels.
template <class B>
bool can_fuse(const Painter<B>& painter, const std::vector<mole::LoraSet>& loras) {
  const auto adapted = adapted_slots(painter, loras);
  return std::none_of(adapted.begin(), adapted.end(),
                      [&](std::size_t s) { return painter.unet.layers().table.slots[s].is_spatial(); });
}

/// Sets the UNet's weights to the fusion of LoRAs. states: of each LoRA its own prompts [n, L, d], with which it paints, in so
/// many steps, what its layers read. can_fuse() holds.
template <class B>
void fuse(Painter<B>& painter, const std::vector<mole::LoraSet>& loras, const std::vector<Values<B>>& states,
          Index steps) {
  auto& table = painter.unet.layers().table;
  const auto adapted = adapted_slots(painter, loras);
  std::set<std::size_t> groups;
  for (const std::size_t s : adapted) groups.insert(table.slots[s].group);
  std::vector<InputProducts<B>> read(loras.size(), InputProducts<B>(groups));
  for (std::size_t i = 0; i < loras.size(); ++i) {
    mole::merge(table, loras[i]);
    const auto noise = Values<B>::randn({states[i].size(0), side, side, 3}, {13, i});
    // Neighbouring steps read much the same.
    mole::sample(
        painter.unet, painter.schedule, noise, states[i], states[i], paint_options(steps),
        [&](std::size_t step, Pass<B>& pass) {
          if (step % 5 == 0) pass.inputs = &read[i];
        },
        [](const auto&) {});
  }
  table.reset();
  for (const std::size_t s : adapted) {
    auto& slot = table.slots[s];
    const auto from = slot.weight.to_host();
    const mole::HostMatrix weight{slot.shape[0], slot.shape[1], {from.begin(), from.end()}};
    std::vector<mole::FusedProducts> concepts;
    for (std::size_t i = 0; i < loras.size(); ++i) {
      mole::HostMatrix change{weight.rows, weight.columns, std::vector<double>(weight.values.size())};
      if (adapts(loras[i], slot.name))
        change.values = mole::delta(table.fitting_factors(loras[i], slot.name));
      concepts.push_back({std::move(change), read[i].sums().at(slot.group)});
    }
    const auto fused = mole::fuse_products(weight, concepts);
    slot.merged = Values<B>::from(slot.weight.shape(), {fused.values.begin(), fused.values.end()});
  }
}

}  // namespace pictures
