#pragma once
// Experts whose factors do not all have to be in memory: where they are read from when a pass needs them.

#include <atomic>
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <mole/nn/lora.hpp>

namespace mole {

/// The extents of an expert at a slot.
struct FactorShape {
  Index rank = 0;  ///< of its canonical form; 0: the expert does not adapt the slot
  Index d_in = 0, d_out = 0;
};

/// The canonical factors of one expert, slot by slot, as numbers of type T on the host. Several threads may read.
template <class T>
class ExpertFactors {
 public:
  virtual ~ExpertFactors() = default;
  /// What is known without reading a factor.
  virtual FactorShape shape(const std::string& slot) const = 0;
  /// Writes A' [rank, d_in] and Q^T [rank, d_out] of a slot that the expert adapts, in this order and row-major. The
  /// same slot always gives the same numbers.    Throws Error where they cannot be read.
  virtual void read(const std::string& slot, T* A, T* Q) const = 0;
};

/// How many experts of each layer stay in memory, and who reads the others.
struct PagingOptions {
  Index resident =
      64;  ///< experts of each layer that are kept, at least 1; the least recently used one goes first
  bool prefetch = true;  ///< whether a thread reads the factors that a pass will need at later layers
};

/// Experts that a model attaches without having them all in memory. open_experts() makes them from files.
template <class T>
struct PagedExperts {
  /// Of these adapters, whose factors are still to be given. There is no default, so that {} stays an empty list of
  /// adapters where a model attaches either.
  PagedExperts(std::vector<LoraSet> adapters, const PagingOptions& paging)
      : sets(std::move(adapters)), options(paging) {}

  std::vector<LoraSet> sets;                                     ///< their names, digests and slots
  std::vector<std::shared_ptr<const ExpertFactors<T>>> factors;  ///< of each of them
  /// The factors of an adapter that takes an expert's place; undefined: none can.
  std::function<std::shared_ptr<const ExpertFactors<T>>(const LoraSet&)> open;
  PagingOptions options;
  /// How many files were made, as they were missing or stale, or turned out to be broken; nullptr where there are none.
  std::shared_ptr<const std::atomic<std::size_t>> made;
};

}  // namespace mole
