#pragma once
// The loss of a batch that is computed in shares, on several ranks or one after another: the same loss, and the
// same gradients, as of the whole batch.
//
// Means do not add up: the mean of the shares' losses is another loss where shares differ in labels, and the
// balance loss of a share is not that of the batch. So a share gives sums and counts, which do add up.

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
  static_assert(std::same_as<T, Compute<T>>, "mole: counts of a batch need gates in float or double");

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
    if (!share.task.defined()) return Tensor<T, B>::zeros({size() + extra});
    MOLE_CHECK_ARG(share.gates.size() == names_.size(), "batch statistics: the mixer has", names_.size(),
                   "gates, and the pass has decisions of", share.gates.size());
    std::vector<T> tail{static_cast<T>(share.counted)};
    std::vector<Tensor<T, B>> parts{
        reshape(scale(share.task, static_cast<T>(share.counted)), std::vector<Index>{1})};
    if (balanced_) {
      const auto samples = samples_of(share);
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

  /// The loss that follows from the sums over all shares, of() added up.
  BatchLoss<T, B> loss(const Tensor<T, B>& sums) const {
    const auto values = sums.to_host();
    const auto inverse = [](T count) { return count > T(0) ? T(1) / count : T(0); };
    const auto counts = values.begin() + taped();
    const auto mean = mul(slice(sums, 0, 0, taped()), inverses(counts, counts + taped(), inverse));
    const auto task = reshape(slice(mean, 0, 0, 1), std::vector<Index>{});
    BatchLoss<T, B> result;
    if (balanced_) {
      const Index K = static_cast<Index>(columns_.size());
      const auto present =
          inverses(counts + 1, counts + taped(), [](T count) { return count > T(0) ? T(1) : T(0); });
      const auto means = reshape(slice(mean, 0, 1, taped()), std::vector<Index>{K, 1});
      result = total_of(task, detail::shares_of_means(means, reshape(present, std::vector<Index>{K, 1}),
                                                      columns_, n_experts_));
    } else {
      result = total_of(task, {});
    }
    for (auto at = counts + taped(); result.entropy.size() < names_.size(); at += 2)
      result.entropy.push_back(static_cast<double>(at[0]) / static_cast<double>(at[1]));
    return result;
  }

  /// The loss of a share that is the whole batch: the same numbers, and the bits of model.loss(),
  /// balance_loss() and total_loss().
  BatchLoss<T, B> loss_of_whole(const ShareResult<T, B>& share) const {
    auto result =
        total_of(share.task, balanced_ ? expert_shares(samples_of(share), n_experts_) : ExpertShares<T, B>{});
    for (const auto& gate : gate_statistics(share.gates)) result.entropy.push_back(gate.entropy());
    return result;
  }

  /// The gates' names, in the order of BatchLoss::entropy.
  const std::vector<std::string>& names() const { return names_; }

 private:
  /// Sums that have a gradient: the task's, and each column's.
  Index taped() const { return 1 + static_cast<Index>(columns_.size()); }

  static std::vector<GateSample<T, B>> samples_of(const ShareResult<T, B>& share) {
    std::vector<GateSample<T, B>> samples;
    for (const auto& record : share.gates)
      samples.push_back({record.value.dense, record.row_mask, record.experts});
    return samples;
  }

  static double counted_rows(const GateSample<T, B>& sample) {
    if (!sample.row_mask.defined()) return static_cast<double>(sample.gate.size() / sample.gate.size(-1));
    double rows = 0;
    for (const T one : sample.row_mask.to_host()) rows += static_cast<double>(one);
    return rows;
  }

  template <class I, class F>
  static Tensor<T, B> inverses(I first, I last, F f) {
    std::vector<T> values;
    for (; first != last; ++first) values.push_back(f(*first));
    return Tensor<T, B>::from({static_cast<Index>(values.size())}, values);
  }

  BatchLoss<T, B> total_of(const Tensor<T, B>& task, const ExpertShares<T, B>& shares) const {
    if (!balanced_) return {task, task.detach(), {}, {}, {}};
    const auto balance = balance_of(shares);
    return {total_loss(task, balance, static_cast<T>(alpha_)),
            task.detach(),
            balance.detach(),
            shares.q.detach(),
            {}};
  }

  std::vector<std::string> names_;
  std::vector<Index> columns_;  ///< the expert of each; empty without a balance loss
  Index n_experts_;
  bool balanced_;
  double alpha_;
};

}  // namespace mole
