#pragma once
// A tiny T5 with gates that train on shares of a batch, on threads as ranks.

#include <algorithm>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <omp.h>

#include <models/t5/tiny_t5.hpp>
#include <mole/dist/thread_group.hpp>
#include <mole/optim/adamw.hpp>
#include <mole/train/data_parallel.hpp>

namespace mole::testing {

/// Examples of a batch as rows on the host, so that a share is any range of them.
struct HostBatch {
  static constexpr Index length = tiny_length, answer = 3;
  std::vector<std::vector<Index>> ids, labels;

  Index size() const { return static_cast<Index>(ids.size()); }

  template <class T>
  T5Batch<T, Device> rows(Index first, Index last) const {
    std::vector<Index> input, label;
    std::vector<T> mask;
    for (auto i = static_cast<std::size_t>(first); i < static_cast<std::size_t>(last); ++i) {
      input.insert(input.end(), ids[i].begin(), ids[i].end());
      label.insert(label.end(), labels[i].begin(), labels[i].end());
      for (const Index id : ids[i]) mask.push_back(id == 0 ? T(0) : T(1));
    }
    const Index S = last - first;
    return {Tensor<Index, Device>::from({S, length}, input), Tensor<T, Device>::from({S, length}, mask),
            Tensor<Index, Device>::from({S, answer}, label)};
  }
};

/// Sequences of all lengths, among them one without labels and, at `padding`, some of padding only.
inline HostBatch uneven_batch(Index size = 10, std::uint64_t seed = 1, std::vector<Index> padding = {}) {
  HostBatch batch;
  for (Index s = 0; s < size; ++s) {
    const bool none = std::find(padding.begin(), padding.end(), s) != padding.end();
    const auto pick = [&](Index place) {
      return 2 + static_cast<Index>(8.999 * uniform({seed, 31}, 16 * s + place));
    };
    const Index tokens = none ? 0 : 1 + (5 * s + 3) % HostBatch::length;
    const Index answered = none || s == 2 ? 0 : 1 + (7 * s) % HostBatch::answer;
    std::vector<Index> ids(HostBatch::length), labels(HostBatch::answer, -100);
    for (Index i = 0; i < tokens; ++i) ids[static_cast<std::size_t>(i)] = pick(i);
    for (Index i = 0; i < answered; ++i) labels[static_cast<std::size_t>(i)] = pick(8 + i);
    batch.ids.push_back(ids);
    batch.labels.push_back(labels);
  }
  return batch;
}

/// The model of one rank. All ranks make the same.
template <class T>
struct ParallelT5 {
  explicit ParallelT5(const GateOptions& options) : model(tiny_t5<T>()) {
    model.attach(tiny_adapters(model), options);
    scatter_gates(model);
  }

  ShareResult<T, Device> share(const T5Batch<T, Device>& batch) const {
    MolePass<T, Device> pass;
    const auto task = model.loss(batch, pass);
    return {task, counted_labels(batch.labels), model.mixer().records(pass)};
  }
  /// The examples [first, last) of a batch; an empty share without any.
  ShareResult<T, Device> share(const HostBatch& batch, Index first, Index last) const {
    return first == last ? ShareResult<T, Device>{} : share(batch.rows<T>(first, last));
  }

  T5<T, Device> model;
};

/// What a rank has after a step: loss, q and the gates' gradients, in doubles.
struct Learned {
  double total = 0, task = 0, balance = 0;
  std::vector<double> q, gradients, entropy;
};

template <class T>
std::vector<double> gradients_of(const std::vector<Tensor<T, Device>>& parameters) {
  std::vector<double> all;
  for (const auto& parameter : parameters) {
    const auto one = doubles(parameter.grad());
    all.insert(all.end(), one.begin(), one.end());
  }
  return all;
}
template <class T>
std::vector<double> values_of(const std::vector<Tensor<T, Device>>& tensors) {
  std::vector<double> all;
  for (const auto& tensor : tensors) {
    const auto one = doubles(tensor);
    all.insert(all.end(), one.begin(), one.end());
  }
  return all;
}

template <class T>
Learned learned(const BatchLoss<T, Device>& loss, const std::vector<Tensor<T, Device>>& parameters) {
  return {static_cast<double>(loss.total.item()),
          static_cast<double>(loss.task.item()),
          loss.balance.defined() ? static_cast<double>(loss.balance.item()) : 0,
          loss.q.defined() ? doubles(loss.q) : std::vector<double>(),
          gradients_of(parameters),
          loss.entropy};
}

/// f(group) on each of `size` threads, by rank. A rank computes on one thread: there are enough.
template <class R, class F>
std::vector<R> on_ranks(int size, F f) {
  std::vector<R> results(static_cast<std::size_t>(size));
  dist::ThreadGroup::run(size, [&](const dist::AnyGroup& group) {
    omp_set_num_threads(1);
    results[static_cast<std::size_t>(group.rank())] = f(group);
  });
  return results;
}

/// Ends of the shares of a batch, by the sizes of the shares.
inline std::vector<std::pair<Index, Index>> ranges(const std::vector<Index>& sizes) {
  std::vector<std::pair<Index, Index>> list;
  Index first = 0;
  for (const Index size : sizes) {
    list.emplace_back(first, first + size);
    first += size;
  }
  return list;
}

}  // namespace mole::testing
