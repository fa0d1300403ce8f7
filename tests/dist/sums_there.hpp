#pragma once
// A group that sums the tensors of a backend where they lie, as NCCL does on GPUs: here by way of the host.

#include <string_view>
#include <vector>

#include <mole/dist/any_group.hpp>
#include <testing.hpp>

namespace mole::testing {

/// Another group that counts in *calls, unless that is null, what it is asked to do there.
class SumsThere {
 public:
  SumsThere(dist::AnyGroup group, int* calls) : group_(std::move(group)), calls_(calls) {}

  int rank() const { return group_.rank(); }
  int size() const { return group_.size(); }
  template <class T>
  void all_reduce_sum(T* x, Index n) const {
    group_.all_reduce_sum(x, n);
  }
  template <class T>
  void all_gather(const T* mine, Index n, T* all) const {
    group_.all_gather(mine, n, all);
  }
  template <class T>
  void broadcast(T* x, Index n, int root) const {
    group_.broadcast(x, n, root);
  }
  void barrier() const { group_.barrier(); }

  bool sums_on(std::string_view backend) const { return backend == Device::name; }
  template <class T>
  void device_sums(const std::vector<dist::Piece<T>>& pieces) const {
    if (calls_) ++*calls_;
    for (const auto& [x, n] : pieces) {
      std::vector<T> values(static_cast<std::size_t>(n));
      Device::download(values.data(), x, n);
      group_.all_reduce_sum(values.data(), n);
      Device::upload(x, values.data(), n);
    }
  }
  template <class T>
  void device_gather(const T* mine, Index n, T* all) const {
    if (calls_) ++*calls_;
    std::vector<T> from(static_cast<std::size_t>(n)), to(static_cast<std::size_t>(n * size()));
    Device::download(from.data(), mine, n);
    group_.all_gather(from.data(), n, to.data());
    Device::upload(all, to.data(), n * size());
  }

 private:
  dist::AnyGroup group_;
  int* calls_;
};

static_assert(dist::DeviceCommunicator<SumsThere>);

}  // namespace mole::testing
