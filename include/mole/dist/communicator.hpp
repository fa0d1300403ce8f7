#pragma once
// Ranks that work on one problem: what a group of them must offer, and the group of one.
//
// A rank is a thread or a process with its own copy of the model; ranks are numbered from 0. Every rank of a
// group makes the same calls in the same order: a call that one of them leaves out makes the others wait.

#include <algorithm>
#include <concepts>
#include <string_view>
#include <utility>
#include <vector>

#include <mole/core/error.hpp>
#include <mole/core/shape.hpp>

namespace mole::dist {

/// Another rank failed, or does not answer: this one cannot go on.
struct PeerFailed : Error {
  using Error::Error;
};

namespace detail {

/// What a group does with numbers of type T; n counts elements.
template <class G, class T>
concept Exchanges = requires(const G& group, T* values, const T* mine, Index n, int root) {
  group.all_gather(mine, n, values);
  group.broadcast(values, n, root);
};

}  // namespace detail

/// A rank's handle on its group. It is cheap to copy, and copies are the same rank.
/// - rank() in [0, size())
/// - all_reduce_sum(x, n): x becomes the sum over the ranks, of the same bits on every rank and in every run
///   with as many ranks
/// - all_gather(mine, n, all): all [size, n], in the order of the ranks
/// - broadcast(x, n, root): x becomes that of rank `root`
/// - barrier() returns once every rank has called it
/// Numbers are in the processor's memory. Calls throw PeerFailed where the others are gone.
template <class G>
concept Communicator = std::copy_constructible<G> && detail::Exchanges<G, float> &&
    detail::Exchanges<G, double> && detail::Exchanges<G, char> &&
    requires(const G& group, float* floats, double* doubles, Index n) {
  { group.rank() } -> std::same_as<int>;
  { group.size() } -> std::same_as<int>;
  group.all_reduce_sum(floats, n);
  group.all_reduce_sum(doubles, n);
  group.barrier();
};

/// Numbers of one tensor, where they lie: the first, and how many.
template <class T>
using Piece = std::pair<T*, Index>;

/// A group that may also exchange numbers where a backend has them, in the order of the backend's work; all of it
/// can be captured in a graph.
/// - sums_on(backend): whether it does so for the backend of this name
/// - device_sums(pieces): each becomes the sum over the ranks, which give pieces of the same sizes; as
///   all_reduce_sum, the same bits on every rank and in every run
/// - device_gather(mine, n, all): all [size, n], in the order of the ranks
/// They return before the numbers are there. Who waits for them gets PeerFailed where the others are gone.
template <class G>
concept DeviceCommunicator = Communicator<G> &&
    requires(const G& group, const std::vector<Piece<float>>& floats,
             const std::vector<Piece<double>>& doubles, float* x, double* y, Index n) {
  { group.sums_on(std::string_view()) } -> std::same_as<bool>;
  group.device_sums(floats);
  group.device_sums(doubles);
  group.device_gather(x, n, x);
  group.device_gather(y, n, y);
};

/// One rank by itself: nothing to exchange.
struct SelfGroup {
  int rank() const { return 0; }
  int size() const { return 1; }
  template <class T>
  void all_reduce_sum(T*, Index) const {}
  template <class T>
  void all_gather(const T* mine, Index n, T* all) const {
    std::copy(mine, mine + n, all);
  }
  template <class T>
  void broadcast(T*, Index, int) const {}
  void barrier() const {}
};

static_assert(Communicator<SelfGroup>);

}  // namespace mole::dist
