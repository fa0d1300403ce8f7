#pragma once
// The loss of a batch that is computed in shares, on several ranks or one after another: the same loss, and the
// same gradients, as of the whole batch.
//
// Means do not add up: the mean of the shares' losses is another loss where shares differ in labels, and the
// balance loss of a share is not that of the batch. So a share gives sums and counts, which do add up.

#include <algorithm>
#include <cstddef>
#include <string>
#include <utility>
#include <vector>

#include <mole/experts/gate_statistics.hpp>
#include <mole/experts/mixer.hpp>
#include <mole/loss/balance.hpp>
#include <mole/loss/total.hpp>
#include <mole/ops/reduce.hpp>
#include <mole/ops/shape.hpp>

namespace mole {

/// What the forward pass of one share made. Without examples, a share is empty: ShareResult{}.
template <class T, class B>
struct ShareResult {
  Tensor<T, B> task;   ///< the mean loss of what counts in the share, a scalar on the tape; undefined: empty
  double counted = 0;  ///< how much `task` is the mean of, such as labels
  std::vector<GateRecord<T, B>> gates = {};  ///< Mixer::records() of the pass
};

/// The same for a step that a graph captures, so that no count depends on a look at the host.
template <class T, class B>
struct DeviceShare {
  Tensor<T, B> task;     ///< the mean loss of what counts in the share, a scalar on the tape
  Tensor<T, B> counted;  ///< [1], off the tape: how much `task` is the mean of
  std::vector<GateRecord<T, B>> gates = {};  ///< Mixer::records() of the pass
};

namespace detail {

/// 1 for a label that counts, else 0.
template <class T>
struct LabelCount {
  const Index* label;
  T* count;
  Index ignore_index;
  MOLE_HD void operator()(Index i) const { count[i] = label[i] != ignore_index ? T(1) : T(0); }
};

/// A row is a column of one of the gates, whose table has the mask of its rows as their weights: how many count.
template <class T>
struct GateCountRow {
  const GateTable<T>* tables;
  const Index* table_of;  ///< by column
  T* count;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    const auto table = tables[table_of[row.index()]];
    const T* const mask = table.weight;
    T* const to = count + row.index();
    const T total = mask ? row.sum(table.rows, [=](Index r) { return mask[r]; }) : static_cast<T>(table.rows);
    row.each(1, [=](Index) { *to = total; });
  }
};

}  // namespace detail

/// The number of labels that cross_entropy() counts, [1], without a look at the host.
template <class T, class B>
Tensor<T, B> counted_labels_there(const Tensor<Index, B>& labels, Index ignore_index = -100) {
  const auto counts = Tensor<T, B>::empty({labels.size()});
  B::for_each(labels.size(), detail::LabelCount<T>{labels.data(), counts.data(), ignore_index});
  return reshape(sum(counts), std::vector<Index>{1});
}

/// The number of labels that cross_entropy() counts.
template <class B>
double counted_labels(const Tensor<Index, B>& labels, Index ignore_index = -100) {
  double count = 0;
  for (const Index label : labels.to_host()) count += label != ignore_index;
  return count;
}

/// The loss of a whole batch.
template <class T, class B>
struct BatchLoss {
  Tensor<T, B> total;           ///< task + alpha balance (eq. 16), on the tape
  Tensor<T, B> task;            ///< the mean over all that counts, off the tape
  Tensor<T, B> balance, q;      ///< eq. 14 and 15, off the tape; undefined without a balance loss
  std::vector<double> entropy;  ///< of each gate, as GateStatistics::entropy()
};

/// Which sums and counts a share of a batch gives, and the loss that follows from the batch's. The gates are
/// those of a mixer.
template <class T, class B>
class BatchStatistics {
 public:
  /// `balanced`: the loss has a balance loss, times alpha. It needs all gates' shares.
  BatchStatistics(const Mixer<T, B>& mixer, bool balanced, double alpha)
      : n_experts_(mixer.n_experts()), balanced_(balanced), alpha_(alpha) {
    if (balanced) mixer.router().check_shares();
    for (const auto& placed : mixer.gates()) {
      names_.push_back(placed.name);
      if (!balanced) continue;
      const auto& experts = placed.gate.experts;
      columns_.insert(columns_.end(), experts.begin(), experts.end());
    }
  }

  /// Numbers of a share: the sum of its losses and of each column of its gates; behind them what is counted in
  /// each of these, and of each gate the sum of its rows' entropies and the number of those rows.
  Index size() const { return 2 * taped() + 2 * static_cast<Index>(names_.size()); }

  /// They, [size() + extra]: the first half on the tape, the last `extra` are 0. Throws ArgumentError where a
  /// gate of the mixer made no decision in the pass, and as expert_shares does.
  Tensor<T, B> of(const ShareResult<T, B>& share, Index extra = 0) const {
    static_assert(!Narrow<T>, "mole: counts of a batch need gates in float or double");
    if (!share.task.defined()) return Tensor<T, B>::zeros({size() + extra});
    MOLE_CHECK_ARG(share.gates.size() == names_.size(), "batch statistics: the mixer has", names_.size(),
                   "gates, and the pass has decisions of", share.gates.size());
    std::vector<T> tail{static_cast<T>(share.counted)};
    std::vector<Tensor<T, B>> parts{
        reshape(scale(share.task, static_cast<T>(share.counted)), std::vector<Index>{1})};
    if (balanced_) {
      const auto samples = samples_of(share.gates);
      detail::check_gate_samples(samples, n_experts_);
      for (const auto& sample : samples) {
        const auto rows = counted_rows(sample);
        tail.insert(tail.end(), static_cast<std::size_t>(sample.gate.size(-1)), static_cast<T>(rows));
      }
      const Index K = static_cast<Index>(columns_.size());
      const auto counts = Tensor<T, B>::from({K}, std::vector<T>(tail.begin() + 1, tail.end()));
      const auto means = detail::gate_means(samples, Tensor<T, B>::empty({K, 1}));
      parts.push_back(mul(reshape(means, std::vector<Index>{K}), counts));
    }
    for (const auto& gate : gate_statistics(share.gates)) {
      tail.push_back(static_cast<T>(gate.entropy_sum));
      tail.push_back(static_cast<T>(gate.decided));
    }
    tail.insert(tail.end(), static_cast<std::size_t>(extra), T(0));
    parts.push_back(Tensor<T, B>::from({static_cast<Index>(tail.size())}, tail));
    return concat(parts, 0);
  }

  /// The same for a share that a graph may capture, without what only entropies need.
  Tensor<T, B> of_there(const DeviceShare<T, B>& share) const {
    static_assert(!Narrow<T>, "mole: counts of a batch need gates in float or double");
    MOLE_CHECK_ARG(share.gates.size() == names_.size(), "batch statistics: the mixer has", names_.size(),
                   "gates, and the pass has decisions of", share.gates.size());
    MOLE_CHECK_SHAPE(share.counted.shape() == Shape({1}), "batch statistics: expected a count [1], got",
                     share.counted.shape());
    std::vector<Tensor<T, B>> parts{mul(reshape(share.task, std::vector<Index>{1}), share.counted)};
    std::vector<Tensor<T, B>> counts{share.counted};
    if (balanced_) {
      const auto samples = samples_of(share.gates);
      detail::check_gate_samples(samples, n_experts_);
      const Index K = static_cast<Index>(columns_.size());
      const auto means = detail::gate_means(samples, Tensor<T, B>::empty({K, 1}));
      counts.push_back(counted_rows_there(samples));
      parts.push_back(mul(reshape(means, std::vector<Index>{K}), counts.back()));
    }
    parts.insert(parts.end(), counts.begin(), counts.end());
    parts.push_back(Tensor<T, B>::zeros({size() - 2 * taped()}));
    return concat(parts, 0);
  }

  /// The loss that follows from the sums over all shares, of() added up.
  BatchLoss<T, B> loss(const Tensor<T, B>& sums) const {
    auto result = loss_there(sums);
    const auto values = sums.to_host();
    const auto counts = values.begin() + taped();
    for (auto at = counts + taped(); result.entropy.size() < names_.size(); at += 2)
      result.entropy.push_back(static_cast<double>(at[0]) / static_cast<double>(at[1]));
    return result;
  }

  /// The same without a look at the host, and without entropies.
  BatchLoss<T, B> loss_there(const Tensor<T, B>& sums) const {
    const auto counts = slice(sums.detach(), 0, taped(), 2 * taped());
    const auto inverse = Tensor<T, B>::empty({taped()});
    transform<B>(taped(), detail::InverseOrZero{}, inverse.data(), counts.data());
    const auto mean = mul(slice(sums, 0, 0, taped()), inverse);
    const auto task = reshape(slice(mean, 0, 0, 1), std::vector<Index>{});
    if (!balanced_) return total_of(task, {});
    const Index K = static_cast<Index>(columns_.size());
    const auto present = Tensor<T, B>::empty({K, 1});
    transform<B>(K, detail::IsPositive{}, present.data(), counts.data() + 1);
    const auto means = reshape(slice(mean, 0, 1, taped()), std::vector<Index>{K, 1});
    return total_of(task, detail::shares_of_means(means, present, columns_, n_experts_));
  }

  /// The loss of a share that is the whole batch: the same numbers, and the bits of model.loss(),
  /// balance_loss() and total_loss().
  BatchLoss<T, B> loss_of_whole(const ShareResult<T, B>& share) const {
    auto result = total_of(
        share.task, balanced_ ? expert_shares(samples_of(share.gates), n_experts_) : ExpertShares<T, B>{});
    for (const auto& gate : gate_statistics(share.gates)) result.entropy.push_back(gate.entropy());
    return result;
  }

  /// The gates' names, in the order of BatchLoss::entropy.
  const std::vector<std::string>& names() const { return names_; }

 private:
  /// Sums that have a gradient: the task's, and each column's.
  Index taped() const { return 1 + static_cast<Index>(columns_.size()); }

  static std::vector<GateSample<T, B>> samples_of(const std::vector<GateRecord<T, B>>& gates) {
    std::vector<GateSample<T, B>> samples;
    for (const auto& record : gates) samples.push_back({record.value.dense, record.row_mask, record.experts});
    return samples;
  }

  static double counted_rows(const GateSample<T, B>& sample) {
    if (!sample.row_mask.defined()) return static_cast<double>(sample.gate.size() / sample.gate.size(-1));
    double rows = 0;
    for (const T one : sample.row_mask.to_host()) rows += static_cast<double>(one);
    return rows;
  }

  /// Of each column the counted rows of its gate, [columns].
  static Tensor<T, B> counted_rows_there(const std::vector<GateSample<T, B>>& samples) {
    std::vector<detail::GateTable<T>> tables;
    std::vector<Index> table_of;
    Index most = 0;
    for (const auto& sample : samples) {
      const Index n = sample.gate.size(-1), rows = sample.gate.size() / n;
      const T* const mask = sample.row_mask.defined() ? sample.row_mask.data() : nullptr;
      table_of.insert(table_of.end(), static_cast<std::size_t>(n), static_cast<Index>(tables.size()));
      tables.push_back({nullptr, mask, nullptr, rows, n, 0});
      most = std::max(most, rows);
    }
    const Buffer<detail::GateTable<T>, B> there(tables);
    const Buffer<Index, B> of(table_of);
    const auto counts = Tensor<T, B>::empty({of.size()});
    B::for_rows(of.size(), most, detail::GateCountRow<T>{there.data(), of.data(), counts.data()});
    return counts;
  }

  BatchLoss<T, B> total_of(const Tensor<T, B>& task, const ExpertShares<T, B>& shares) const {
    if (!balanced_) return {task, task.detach(), {}, {}, {}};
    const auto balance = balance_of(shares);
    return {total_loss(task, balance, alpha_), task.detach(), balance.detach(), shares.q.detach(), {}};
  }

  std::vector<std::string> names_;
  std::vector<Index> columns_;  ///< the expert of each; empty without a balance loss
  Index n_experts_;
  bool balanced_;
  double alpha_;
};

}  // namespace mole
