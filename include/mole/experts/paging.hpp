#pragma once
// What a mixer needs of experts that are not all in memory. Only a program that attaches such experts compiles what is
// behind it (paged_mixer.hpp).

#include <cstddef>
#include <vector>

#include <mole/experts/pass.hpp>
#include <mole/experts/plan.hpp>

namespace mole {

template <class T, class B>
struct ExpertBank;
template <class T, class B>
class ExpertPages;

/// The experts of a model whose factors are pages.
template <class T, class B>
class Paging {
 public:
  virtual ~Paging() = default;

  /// The output of a slot for x [S, L, d_in] by the gates of the pass, of which `gate_of` has the number by slot.
  virtual Tensor<T, B> mixed(const SlotTable<T, B>& table, const ExpertBank<T, B>& bank, std::size_t slot,
                             const std::vector<std::size_t>& gate_of,
                             const std::vector<PlacedGate<T, B>>& gates, const Tensor<T, B>& x,
                             MolePass<T, B>& pass) const = 0;
  /// As replace_expert().
  virtual void replace(const SlotTable<T, B>& table, ExpertBank<T, B>& bank, std::size_t expert,
                       const LoraSet& set) = 0;
  virtual const ExpertPages<T, B>& pages() const = 0;
};

}  // namespace mole
