#pragma once
// The experts of a model's layers that are in memory at a time. A page is one expert at one slot. Of each slot the most
// recently used pages are kept; the others are read again when a pass asks for them.
//
// A page is shared: a pass that uses it keeps it until its backward pass is over, also where it has been dropped here.
// So the number of pages is no limit to what a batch may use, and what is resident changes no result.

#include <algorithm>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <mole/autodiff/tensor.hpp>
#include <mole/experts/expert_factors.hpp>

namespace mole {

/// What became of the pages that passes asked for.
struct PageStats {
  std::size_t hits = 0;        ///< were in memory
  std::size_t waits = 0;       ///< were being read ahead by the thread, and waited for
  std::size_t misses = 0;      ///< were read by the pass itself
  std::size_t prefetched = 0;  ///< read by the thread, whether they were used or not
  std::size_t evicted = 0;     ///< dropped for others

  /// The share of pages that were in memory; 1 where none was asked for.
  double hit_rate() const {
    const auto all = hits + waits + misses;
    return all == 0 ? 1 : static_cast<double>(hits) / static_cast<double>(all);
  }
};

/// The pages of one model. Passes of several threads may take pages at once.
template <class T, class B>
class ExpertPages {
 public:
  using Factors = std::shared_ptr<const ExpertFactors<T>>;

  /// Throws ArgumentError unless at least one expert of each layer is kept.
  ExpertPages(std::vector<Factors> factors, const PagingOptions& options)
      : factors_(std::move(factors)), options_(options) {
    MOLE_CHECK_ARG(options.resident >= 1, "attach: at least one expert of each layer stays in memory, got",
                   options.resident);
  }
  ExpertPages(const ExpertPages&) = delete;
  ExpertPages& operator=(const ExpertPages&) = delete;
  ~ExpertPages() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
      wanted_.clear();
    }
    changed_.notify_all();
    if (thread_.joinable()) thread_.join();
  }

  /// Announces a slot, before any page is taken: its name and extents, and the largest rank r of its experts.
  void add_slot(std::size_t slot, const std::string& name, Index d_in, Index d_out, Index r) {
    if (slots_.size() <= slot) slots_.resize(slot + 1);
    auto& own = slots_[slot];
    own = {name, d_in, d_out, r, Tensor<T, B>::zeros({r * (d_in + d_out)}), {}, {}};
  }
  /// The largest rank at a slot.
  Index rank(std::size_t slot) const { return slots_[slot].r; }
  /// A page of zeros, for an expert that does not adapt the slot.
  const Tensor<T, B>& nothing(std::size_t slot) const { return slots_[slot].zeros; }

  /// The pages of experts that adapt a slot, each [r (d_in + d_out)]: the rows of A', then those of Q^T, both with zeros
  /// up to r rows. What is not in memory is read.    Throws what reading throws; the next try reads again.
  std::vector<Tensor<T, B>> take(std::size_t slot, const std::vector<Index>& experts) {
    auto& own = slots_[slot];
    std::vector<Tensor<T, B>> pages;
    std::unique_lock lock(mutex_);
    // The pass is here already: what the thread has not begun to read would come too late.
    std::erase_if(wanted_, [&](const Wanted& wanted) { return wanted.slot == slot; });
    for (const Index expert : experts) pages.push_back(page(lock, own, expert));
    evict(own);
    return pages;
  }

  /// The same for experts that shall not stay in memory where they are not there now. It counts nothing.
  std::vector<Tensor<T, B>> look(std::size_t slot, const std::vector<Index>& experts) const {
    const auto& own = slots_[slot];
    std::vector<Tensor<T, B>> pages;
    for (const Index expert : experts) {
      std::unique_lock lock(mutex_);
      const auto found = own.held.find(expert);
      const bool here = found != own.held.end() && found->second.page.defined();
      if (here) pages.push_back(found->second.page);
      const auto from = factors_[static_cast<std::size_t>(expert)];
      lock.unlock();
      if (!here) pages.push_back(read(own, *from));
    }
    return pages;
  }

  /// Has the thread read pages that a pass will ask for. Nothing comes of it where paging is without a thread, and where
  /// a page cannot be read: the pass then meets the error itself.
  void prefetch(std::size_t slot, const std::vector<Index>& experts) {
    if (!options_.prefetch) return;
    {
      const std::lock_guard lock(mutex_);
      for (const Index expert : experts)
        if (!slots_[slot].held.contains(expert)) wanted_.push_back({slot, expert});
      if (wanted_.empty()) return;
      if (!thread_.joinable() && !start_thread()) return;
    }
    changed_.notify_all();
  }

  /// From now on, an expert's pages are of these factors.
  void replace(std::size_t expert, Factors factors) {
    const std::lock_guard lock(mutex_);
    factors_[expert] = std::move(factors);
    for (auto& own : slots_) {
      const auto found = own.held.find(static_cast<Index>(expert));
      // One that is being read is noticed by its reader.
      if (found == own.held.end() || !found->second.page.defined()) continue;
      own.recent.erase(found->second.place);
      own.held.erase(found);
    }
  }

  PageStats stats() const {
    const std::lock_guard lock(mutex_);
    return stats_;
  }
  void reset_stats() {
    const std::lock_guard lock(mutex_);
    stats_ = {};
  }

 private:
  /// A page in memory, or undefined while somebody reads it.
  struct Held {
    Tensor<T, B> page;
    std::list<Index>::iterator place;
  };
  struct Slot {
    std::string name;
    Index d_in = 0, d_out = 0, r = 0;
    Tensor<T, B> zeros;
    std::map<Index, Held> held;  ///< by expert
    std::list<Index> recent;     ///< the experts whose pages are in memory, the most recently used first
  };
  struct Wanted {
    std::size_t slot;
    Index expert;
  };

  Tensor<T, B> page(std::unique_lock<std::mutex>& lock, Slot& own, Index expert) {
    for (bool waited = false;; waited = true) {
      const auto found = own.held.find(expert);
      if (found == own.held.end()) {
        ++stats_.misses;
        return read_and_keep(lock, own, expert);
      }
      if (found->second.page.defined()) {
        ++(waited ? stats_.waits : stats_.hits);
        own.recent.splice(own.recent.begin(), own.recent, found->second.place);
        return found->second.page;
      }
      changed_.wait(lock);
    }
  }

  /// Reads a page that nobody holds. The lock is open meanwhile.
  Tensor<T, B> read_and_keep(std::unique_lock<std::mutex>& lock, Slot& own, Index expert) {
    for (;;) {
      own.held[expert] = {};
      const auto from = factors_[static_cast<std::size_t>(expert)];
      lock.unlock();
      Tensor<T, B> made;
      try {
        made = read(own, *from);
      } catch (...) {
        lock.lock();
        own.held.erase(expert);
        changed_.notify_all();
        throw;
      }
      lock.lock();
      if (from != factors_[static_cast<std::size_t>(expert)]) continue;
      own.recent.push_front(expert);
      own.held[expert] = {made, own.recent.begin()};
      changed_.notify_all();
      return made;
    }
  }

  static Tensor<T, B> read(const Slot& own, const ExpertFactors<T>& from) {
    const Index n = own.r * (own.d_in + own.d_out);
    std::vector<T> host(static_cast<std::size_t>(n));
    // An expert that took another's place may adapt fewer slots.
    if (from.shape(own.name).rank > 0) from.read(own.name, host.data(), host.data() + own.r * own.d_in);
    return Tensor<T, B>::from({n}, host);
  }

  void evict(Slot& own) {
    while (static_cast<Index>(own.recent.size()) > options_.resident) {
      own.held.erase(own.recent.back());
      own.recent.pop_back();
      ++stats_.evicted;
    }
  }

  /// Whether there is a thread now. Where the system has none left, passes read for themselves.
  bool start_thread() {
    try {
      thread_ = std::thread([this] { read_ahead(); });
      return true;
    } catch (const std::system_error&) {
      wanted_.clear();
      return false;
    }
  }

  void read_ahead() {
    std::unique_lock lock(mutex_);
    for (;;) {
      changed_.wait(lock, [this] { return stop_ || !wanted_.empty(); });
      if (stop_) return;
      const auto [slot, expert] = wanted_.front();
      wanted_.pop_front();
      if (slots_[slot].held.contains(expert)) continue;
      try {
        read_and_keep(lock, slots_[slot], expert);
        // The pass may work in another order than this thread.
        B::synchronize();
        ++stats_.prefetched;
      } catch (...) {
        // The pass that needs the page reads it again, and throws.
      }
    }
  }

  mutable std::mutex mutex_;
  std::condition_variable changed_;  ///< a page was read, or cannot be; the thread is wanted
  std::vector<Factors> factors_;
  PagingOptions options_;
  std::vector<Slot> slots_;
  std::deque<Wanted> wanted_;
  std::thread thread_;
  bool stop_ = false;
  PageStats stats_;
};

}  // namespace mole
