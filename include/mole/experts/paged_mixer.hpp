#pragma once
// The outputs of the adapted slots of a model whose experts' factors are pages.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include <mole/experts/paged_bank.hpp>
#include <mole/ops/matmul.hpp>

namespace mole::detail {

/// The largest number of weights [S, N] of a row that are not 0, at least 1.
template <class T, class B>
Index most_weights(const Tensor<T, B>& weights) {
  const auto host = weights.to_host();
  const auto N = static_cast<std::ptrdiff_t>(weights.size(1));
  std::ptrdiff_t most = 1;
  for (auto row = host.begin(); row != host.end(); row += N)
    most = std::max(most, N - std::count(row, row + N, T(0)));
  return static_cast<Index>(most);
}

/// The chosen experts as the host knows them, for their pages: the columns [S, k], and -1 for those without weight that
/// no gradient asks for.
template <class T, class B>
std::vector<Index> listed_columns(const ChosenExperts<T, B>& chosen) {
  auto columns = chosen.columns.to_host();
  if (chosen.weights.requires_grad()) return columns;
  const auto weights = chosen.weights.to_host();
  for (std::size_t i = 0; i < columns.size(); ++i)
    if (weights[i] == T(0)) columns[i] = -1;
  return columns;
}

/// The experts in a list of chosen columns that adapt a slot, each once.
template <class T, class B>
std::vector<Index> paged_experts(const ExpertStack<T, B>& stack, const std::vector<Index>& columns,
                                 const std::vector<Index>& gate_experts) {
  std::vector<Index> experts;
  for (const Index column : columns)
    if (column >= 0) experts.push_back(gate_experts[static_cast<std::size_t>(column)]);
  std::sort(experts.begin(), experts.end());
  experts.erase(std::unique(experts.begin(), experts.end()), experts.end());
  std::erase_if(experts, [&](Index expert) { return !holds(stack.experts, expert); });
  return experts;
}

/// A slot with its pages.
template <class T, class B>
struct PagedMixer {
  const SlotTable<T, B>& table;
  const ExpertBank<T, B>& bank;
  ExpertPages<T, B>& pages;
  std::size_t number;
  const std::vector<Index>& gate_experts;

  /// The output for x [S, L, d_in] with the chosen experts of each sequence. Reads the pages that are not in memory.
  Tensor<T, B> operator()(const Tensor<T, B>& x, const ChosenExperts<T, B>& chosen) const {
    const auto& slot = table.slots[number];
    const auto experts = paged_experts(bank.stacks[number], chosen.listed, gate_experts);
    ChosenPages<T, B> own{pages.take(number, experts), {}};
    own.pages.push_back(pages.nothing(number));
    std::vector<Index> address;
    for (const Index column : chosen.listed) {
      const Index expert = column < 0 ? -1 : gate_experts[static_cast<std::size_t>(column)];
      const auto found = std::lower_bound(experts.begin(), experts.end(), expert);
      const bool here = found != experts.end() && *found == expert;
      const auto& page = own.pages[here ? static_cast<std::size_t>(found - experts.begin()) : experts.size()];
      address.push_back(static_cast<Index>(reinterpret_cast<std::uintptr_t>(page.data())));
    }
    own.address = Tensor<Index, B>::from(chosen.columns.shape(), address);
    std::vector<Index> place;
    const Index r = pages.rank(number);
    for (Index j = 0; j < chosen.size() * r; ++j) place.push_back(j / r);
    return chosen_mixture(x, slot.product(), slot.bias, own, chosen.weights,
                          Tensor<Index, B>::from({chosen.size() * r}, place));
  }

  /// The output where each of the gate's experts has the same weight: their factors pass by, some at a time.
  Tensor<T, B> of_all(const Tensor<T, B>& x, T weight) const {
    constexpr std::size_t at_once = 16;
    auto y = table.apply(number, x);
    const auto& slot = table.slots[number];
    const auto& experts = bank.stacks[number].experts;
    const Index r = pages.rank(number), d_in = slot.shape[1], d_out = slot.shape[0];
    for (std::size_t first = 0; first < experts.size(); first += at_once) {
      const auto begin = experts.begin() + static_cast<std::ptrdiff_t>(first);
      const auto end = begin + static_cast<std::ptrdiff_t>(std::min(at_once, experts.size() - first));
      std::vector<Tensor<T, B>> A, Q;
      for (const auto& page : pages.look(number, {begin, end})) {
        A.push_back(reshape(slice(page, 0, 0, r * d_in), {r, d_in}));
        Q.push_back(reshape(slice(page, 0, r * d_in, r * (d_in + d_out)), {r, d_out}));
      }
      const auto h = linear(x, concat(A, 0));
      y = add(y, scale(matmul(h, concat(Q, 0)), static_cast<Compute<T>>(weight)));
    }
    return y;
  }
};

/// The paging of a model.
template <class T, class B>
class PagingOf final : public Paging<T, B> {
 public:
  PagingOf(const PagedExperts<T>& experts, Index top_k)
      : pages_(experts.factors, experts.options), open_(experts.open), top_k_(top_k) {}

  Tensor<T, B> mixed(const SlotTable<T, B>& table, const ExpertBank<T, B>& bank, std::size_t slot,
                     const std::vector<std::size_t>& gate_of, const std::vector<PlacedGate<T, B>>& gates,
                     const Tensor<T, B>& x, MolePass<T, B>& pass) const override {
    const std::size_t gate = gate_of[slot];
    const auto& experts = gates[gate].gate.experts;
    const auto& weights = pass.gates[gate]->weights;
    const PagedMixer<T, B> mix{table, bank, pages_, slot, experts};
    if (pass.all_experts) return mix.of_all(x, slice(reshape(weights, {-1}), 0, 0, 1).item());
    auto& chosen = pass.used[gate];
    if (!chosen.all.defined() || chosen.all.node_pointer() != weights.node_pointer()) {
      chosen = choose_experts(weights, pass.any_fixed() ? most_weights(weights) : top_k_);
      chosen.listed = listed_columns(chosen);
      // The first slot of a gate: the others' pages are read ahead.
      for (std::size_t next = slot + 1; next < gate_of.size(); ++next)
        if (gate_of[next] == gate && bank.adapts(next))
          pages_.prefetch(next, paged_experts(bank.stacks[next], chosen.listed, experts));
    }
    return mix(x, chosen);
  }

  void replace(const SlotTable<T, B>& table, ExpertBank<T, B>& bank, std::size_t expert,
               const LoraSet& set) override {
    replace_paged_expert(table, bank, expert, set, open_, pages_);
  }

  const ExpertPages<T, B>& pages() const override { return pages_; }
  ExpertPages<T, B>& pages() { return pages_; }

 private:
  mutable ExpertPages<T, B> pages_;  ///< which of them are in memory changes no result
  decltype(PagedExperts<T>::open) open_;
  Index top_k_;
};

/// Lays out experts that are not all in memory for gates of some policies.    Throws as check_can_page() and
/// paged_bank().
template <class T, class B>
ExpertBank<T, B> attach_paged(const SlotTable<T, B>& table, const PagedExperts<T>& experts,
                              const std::vector<std::vector<Index>>& adapters, const GatePlan<T, B>& plan,
                              const GatePlacement& policies, bool made_of_experts) {
  check_can_page(table, plan, adapters, policies, made_of_experts);
  const auto paging = std::make_shared<PagingOf<T, B>>(experts, policies.top_k);
  auto bank = paged_bank(table, experts, adapters, plan, paging->pages());
  bank.paging = paging;
  return bank;
}

}  // namespace mole::detail
