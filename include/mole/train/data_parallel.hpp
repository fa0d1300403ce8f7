#pragma once
// Gates trained by several ranks: each holds the whole model and computes a part of every batch. Two sums over
// the ranks a step, of the losses' parts and of the gradients, give every rank the loss and the gradients of the
// whole batch, so that parameters stay equal bit for bit.

#include <algorithm>
#include <cstddef>
#include <exception>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <mole/autodiff/backward.hpp>
#include <mole/core/fingerprint.hpp>
#include <mole/dist/all_reduce.hpp>
#include <mole/dist/any_group.hpp>
#include <mole/ops/shape.hpp>
#include <mole/train/batch_loss.hpp>
#include <mole/train/interrupt.hpp>
#include <mole/train/loop.hpp>

namespace mole {

/// What ranks train, and how they cut a batch.
struct DataParallelOptions {
  bool balanced = true;  ///< whether the loss has a balance loss, times alpha
  double alpha = 0;
  /// 0: a share a rank. Else a batch always has this many shares, and the sums are taken in their order: the
  /// same bits on any number of ranks that divides it. A rank keeps the tapes of all its shares until the sums are
  /// there.
  Index fixed_shards = 0;
};

/// The ranks of a training run of gates, seen from one of them. Every rank makes the same calls. Gates of bf16 or half,
/// which cannot hold counts, train on one rank.
template <class T, class B, dist::Communicator G = dist::AnyGroup>
class DataParallel {
 public:
  /// Throws ArgumentError unless the number of ranks divides options.fixed_shards, for a router whose weights are no
  /// shares of one and a balance loss, and for several shares of gates in bf16 or half.
  DataParallel(G group, const Mixer<T, B>& mixer, const DataParallelOptions& options)
      : group_(std::move(group)),
        statistics_(mixer, options.balanced, options.alpha),
        tensors_(mixer.tensors()),
        parameters_(mixer.parameters()),
        fixed_(options.fixed_shards > 0),
        shards_(fixed_ ? options.fixed_shards : group_.size()) {
    MOLE_CHECK_ARG(options.fixed_shards >= 0 && shards_ % group_.size() == 0, "data parallel:", group_.size(),
                   "ranks cannot share", options.fixed_shards,
                   "shards evenly; choose a multiple of the number of ranks");
    MOLE_CHECK_ARG(!Narrow<T> || shards_ == 1, "data parallel: gates in bf16 or half cannot count a batch's",
                   shards_, "shares; train on one rank, or in float");
  }

  int rank() const { return group_.rank(); }
  int size() const { return group_.size(); }
  /// Shares of a batch, over all ranks.
  Index shards() const { return shards_; }
  /// The examples [first, second) of share `shard` in a batch of n. Shares differ by one example at most, and
  /// may be empty.
  std::pair<Index, Index> range(Index shard, Index n) const {
    return {n * shard / shards_, n * (shard + 1) / shards_};
  }
  /// The gates' names, in the order of BatchLoss::entropy.
  const std::vector<std::string>& gate_names() const { return statistics_.names(); }

  /// Checkpoints that rank 0 alone writes. Every rank reads them, from a file system that all see.
  Checkpoints kept_by_first(Checkpoints checkpoints) const {
    if (rank() == 0) return checkpoints;
    checkpoints.prepare = {};
    // Not empty: messages say that the run has checkpoints.
    if (checkpoints.save) checkpoints.save = [](const RunState&) {};
    return checkpoints;
  }

  /// Gives the gates' parameters the gradients of the loss of the whole batch, which it returns:
  /// forward(shard) makes the ShareResult of each share of this rank. Where it throws on one rank, every rank
  /// throws: that one its own error, the others PeerFailed.
  template <class F>
  BatchLoss<T, B> step(F forward) {
    if (shards_ == 1) return alone(forward(Index{0}));
    if constexpr (!Narrow<T>) return together(forward);
    return {};
  }

  /// The rows of a whole batch, of `shape` [examples, ..], of which each share has made its own: `parts` are those of this
  /// rank's shares in order, without those of empty shares. The same on every rank, off the tape.
  /// Throws ShapeError for another number of rows than the shares have.
  Tensor<T, B> gather_rows(const std::vector<Tensor<T, B>>& parts, const Shape& shape) const {
    const Index n = shape[0], width = shape.size() / n;
    const auto rows_of = [&](Index rank) {
      return range(own() * rank + own() - 1, n).second - range(own() * rank, n).first;
    };
    std::vector<T> mine;
    for (const auto& part : parts) {
      const auto values = part.to_host();
      mine.insert(mine.end(), values.begin(), values.end());
    }
    MOLE_CHECK_SHAPE(static_cast<Index>(mine.size()) == rows_of(rank()) * width, "data parallel: rank",
                     rank(), "has", rows_of(rank()), "rows of", shape, "and gives", mine.size(), "numbers");
    if (size() == 1) return Tensor<T, B>::from(shape, mine);
    Index most = 0;
    for (Index other = 0; other < size(); ++other) most = std::max(most, rows_of(other) * width);
    mine.resize(static_cast<std::size_t>(most));
    std::vector<T> all(mine.size() * static_cast<std::size_t>(size())), rows;
    group_.all_gather(mine.data(), most, all.data());
    for (Index other = 0; other < size(); ++other) {
      const auto from = all.begin() + other * most;
      rows.insert(rows.end(), from, from + rows_of(other) * width);
    }
    return Tensor<T, B>::from(shape, rows);
  }

  /// step() without a look at the host, so that a graph can hold it where the group sums on the device:
  /// forward(shard) makes a DeviceShare of each share of this rank, none of them empty. Every rank captures it at
  /// the same time, and then replays it as often as the others. The loss has no entropies; a parameter that no share
  /// reached gets zeros; stopping() and the checksum of the gates are step()'s alone. A rank that throws ends the
  /// group's calls, or makes the others wait until their timeout.
  template <class F>
  BatchLoss<T, B> step_there(F forward) {
    there_ = true;
    std::vector<Tensor<T, B>> rows;
    for (Index j = 0; j < own(); ++j) rows.push_back(statistics_.of_there(forward(first() + j)));
    const auto sums = fixed_ ? dist::all_reduce_ordered(group_, rows)
                             : std::vector<Tensor<T, B>>{dist::all_reduce_sum(group_, rows.front())};
    BatchLoss<T, B> loss;
    std::vector<std::vector<Tensor<T, B>>> gradients;
    for (const auto& one : sums) {
      zero_grad();
      loss = statistics_.loss_there(one);
      backward(loss.total);
      loss.total = loss.total.detach();
      gradients.push_back(own_gradients());
    }
    if (fixed_) {
      std::vector<Tensor<T, B>> packs;
      for (const auto& list : gradients) packs.push_back(concat(flat(list), 0));
      give(dist::ordered_sum(group_, packs));
    } else {
      dist::all_reduce_in_place(group_, gradients.front());
      for (std::size_t i = 0; i < parameters_.size(); ++i) parameters_[i].set_grad(gradients.front()[i]);
    }
    return loss;
  }

  /// stop() is asked in every step whether this rank wants to stop; empty: it never does.
  void stop_when(std::function<bool()> stop) { stop_ = std::move(stop); }
  /// Whether some rank wanted to stop when the last step began: the same on every rank.
  bool stopping() const { return size() == 1 ? stop_ && stop_() : stopping_; }

  /// f(), a whole training run by step(), with rank 0's gates on every rank. Where it throws on one rank, outside
  /// of step() too, every rank throws: that one its own error, the others PeerFailed. Returns, or throws
  /// Interrupted, once every rank has come to its end.
  template <class F>
  auto run(F f) {
    if constexpr (Narrow<T>) {
      return f();
    } else {
      if (size() == 1) return f();
      dist::broadcast_first(group_, tensors_);
      std::optional<decltype(f())> result;
      bool interrupted = false;
      const auto error = caught([&] {
        try {
          result = f();
        } catch (const Interrupted&) {
          interrupted = true;
          throw;
        }
      });
      // The others may wait in their next step, or be here. What a graph holds knows no errors.
      if (!ended_ && !(there_ && error)) exchange({}, interrupted ? std::exception_ptr() : error);
      if (error) std::rethrow_exception(error);
      return std::move(*result);
    }
  }

 private:
  /// Steps between two proofs that the ranks' parameters are equal.
  static constexpr Index check_every = 100;

  Index own() const { return shards_ / size(); }
  Index first() const { return own() * rank(); }
  /// Behind a share's statistics: whether the rank failed, whether it wants to stop, a checksum a rank.
  Index flags() const { return 2 + size(); }

  void zero_grad() const {
    for (const auto& parameter : parameters_) parameter.zero_grad();
  }

  template <class F>
  static std::exception_ptr caught(F f) {
    try {
      f();
    } catch (...) {
      return std::current_exception();
    }
    return {};
  }

  BatchLoss<T, B> alone(const ShareResult<T, B>& share) {
    zero_grad();
    auto loss = statistics_.loss_of_whole(share);
    backward(loss.total);
    loss.total = loss.total.detach();
    return loss;
  }

  /// step() of several shares.
  template <class F>
  BatchLoss<T, B> together(F forward) {
    std::vector<Tensor<T, B>> rows;
    auto error = caught([&] {
      for (Index j = 0; j < own(); ++j) rows.push_back(statistics_.of(forward(first() + j), flags()));
    });
    auto sums = exchange(std::move(rows), error);
    BatchLoss<T, B> loss;
    std::vector<Tensor<T, B>> gradients;
    error = caught([&] {
      for (auto& sum : sums) {
        zero_grad();
        loss = statistics_.loss(sum);
        sum = {};
        if (loss.total.requires_grad()) backward(loss.total);
        loss.total = loss.total.detach();
        gradients.push_back(packed());
      }
    });
    if (error) gradients.assign(static_cast<std::size_t>(own()), failed_gradients());
    // A share by share sum, where asked for; else the group's own.
    unpack(fixed_ ? dist::ordered_sum(group_, gradients) : dist::all_reduce_sum(group_, gradients.front()),
           error);
    return loss;
  }

  /// The sums of all shares' statistics, for each share of this rank with its pullback. A rank that failed, or
  /// has come to its end, gives no rows. Throws where a rank failed, and where parameters are no longer equal.
  std::vector<Tensor<T, B>> exchange(std::vector<Tensor<T, B>> rows, const std::exception_ptr& error) {
    const Index at = statistics_.size();
    const bool check = !error && !rows.empty() && steps_++ % check_every == 0;
    if (error || rows.empty())
      rows.assign(static_cast<std::size_t>(own()), Tensor<T, B>::zeros({at + flags()}));
    std::vector<T> flag(static_cast<std::size_t>(at + flags()));
    const auto mine = flag.begin() + at;
    mine[0] = error ? T(1) : T(0);
    mine[1] = stop_ && stop_() ? T(1) : T(0);
    if (check) mine[2 + rank()] = checksum();
    rows.front() = add(rows.front(), Tensor<T, B>::from({at + flags()}, flag));

    auto sums = fixed_ ? dist::all_reduce_ordered(group_, rows)
                       : std::vector<Tensor<T, B>>{dist::all_reduce_sum(group_, rows.front())};
    const auto values = sums.front().to_host();
    const auto agreed = values.begin() + at;
    if (agreed[0] > T(0)) fail_together(error);
    stopping_ = agreed[1] > T(0);
    for (int other = 1; other < size(); ++other) {
      if (agreed[2 + other] == agreed[2]) continue;
      ended_ = true;
      throw dist::PeerFailed(message("the gates of rank", other, "are no longer those of rank 0, after",
                                     steps_,
                                     "steps; do the ranks run the same program on alike processors?"));
    }
    return sums;
  }

  /// Every rank learns why, and throws.
  [[noreturn]] void fail_together(const std::exception_ptr& error) {
    ended_ = true;
    constexpr std::size_t length = 1000;
    std::vector<char> mine(length), all(length * static_cast<std::size_t>(size()));
    if (error) {
      const auto why = shortened(what_of(error), length - 1);
      std::copy(why.begin(), why.end(), mine.begin());
    }
    group_.all_gather(mine.data(), static_cast<Index>(length), all.data());
    if (error) std::rethrow_exception(error);
    int other = 0;
    while (all[static_cast<std::size_t>(other) * length] == '\0') ++other;
    throw dist::PeerFailed(message("rank", other, "of", size(),
                                   "failed:", std::string(&all[static_cast<std::size_t>(other) * length])));
  }

  static std::string what_of(const std::exception_ptr& error) {
    try {
      std::rethrow_exception(error);
    } catch (const std::exception& known) {
      const std::string why = known.what();
      return why.empty() ? "for no stated reason" : why;
    } catch (...) {
      return "by an unknown exception";
    }
  }

  /// A number that T holds exactly.
  T checksum() const {
    Fingerprint print;
    for (const auto& parameter : parameters_) {
      const auto values = parameter.to_host();
      print.add(std::as_bytes(std::span(values)));
    }
    return static_cast<T>((print.state ^ print.state >> 24 ^ print.state >> 48) & 0xffffffU);
  }

  /// All gradients one after another, for each parameter whether it has one, and whether this rank failed.
  Tensor<T, B> packed() const {
    std::vector<T> values, has;
    for (const auto& parameter : parameters_) {
      const auto gradient = parameter.grad();
      has.push_back(gradient.defined() ? T(1) : T(0));
      if (gradient.defined()) {
        const auto own = gradient.to_host();
        values.insert(values.end(), own.begin(), own.end());
      } else {
        values.insert(values.end(), static_cast<std::size_t>(parameter.size()), T(0));
      }
    }
    values.insert(values.end(), has.begin(), has.end());
    values.push_back(T(0));
    return Tensor<T, B>::from({static_cast<Index>(values.size())}, values);
  }

  /// Of each parameter a gradient that nothing else shares.
  std::vector<Tensor<T, B>> own_gradients() const {
    std::vector<Tensor<T, B>> list;
    for (const auto& parameter : parameters_) {
      const auto& gradient = parameter.node_pointer()->grad;
      if (!gradient.defined())
        list.push_back(Tensor<T, B>::zeros(parameter.shape()));
      else
        list.push_back(detail::sole_owner(gradient) ? gradient : gradient.clone());
    }
    return list;
  }

  static std::vector<Tensor<T, B>> flat(std::vector<Tensor<T, B>> list) {
    for (auto& one : list) one = reshape(one, std::vector<Index>{one.size()});
    return list;
  }

  /// Gives each parameter its part of all gradients, one after another.
  void give(const Tensor<T, B>& sum) const {
    Index from = 0;
    for (const auto& parameter : parameters_) {
      const Index end = from + parameter.size();
      parameter.set_grad(reshape(slice(sum, 0, from, end), parameter.shape()));
      from = end;
    }
  }

  Tensor<T, B> failed_gradients() const {
    Index n = static_cast<Index>(parameters_.size());
    for (const auto& parameter : parameters_) n += parameter.size();
    std::vector<T> values(static_cast<std::size_t>(n) + 1);
    values.back() = T(1);
    return Tensor<T, B>::from({n + 1}, values);
  }

  /// A parameter that no share reached keeps no gradient, as without ranks.
  void unpack(const Tensor<T, B>& sum, const std::exception_ptr& error) {
    const auto values = sum.to_host();
    if (values.back() > T(0)) fail_together(error);
    auto from = values.begin();
    auto has = values.end() - 1 - static_cast<std::ptrdiff_t>(parameters_.size());
    for (const auto& parameter : parameters_) {
      const auto end = from + parameter.size();
      const bool reached = *has++ > T(0);
      parameter.set_grad(reached ? Tensor<T, B>::from(parameter.shape(), std::vector<T>(from, end))
                                 : Tensor<T, B>());
      from = end;
    }
  }

  G group_;
  BatchStatistics<T, B> statistics_;
  std::vector<Tensor<T, B>> tensors_, parameters_;
  std::function<bool()> stop_;
  bool fixed_;
  Index shards_;
  Index steps_ = 0;
  bool stopping_ = false;
  bool there_ = false;  ///< whether step_there() is used
  bool ended_ = false;  ///< the ranks have failed together: there is no further call
};

}  // namespace mole
