#pragma once
// The threads of one process as ranks: for tests on any machine, and for a processor's cores.

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <mole/dist/communicator.hpp>

namespace mole::dist {

/// A rank that is a thread. The sums are taken in the order of the ranks.
class ThreadGroup {
 public:
  /// The handles of `size` ranks, one a thread. A rank that has waited for `timeout` ends the group: all of its
  /// calls throw PeerFailed from then on. Throws ArgumentError for size < 1.
  static std::vector<ThreadGroup> make(int size,
                                       std::chrono::milliseconds timeout = std::chrono::seconds(120)) {
    MOLE_CHECK_ARG(size >= 1, "ThreadGroup: expected at least one rank, got", size);
    const auto meeting = std::make_shared<Meeting>();
    meeting->given.resize(static_cast<std::size_t>(size));
    meeting->timeout = timeout;
    std::vector<ThreadGroup> ranks;
    for (int rank = 0; rank < size; ++rank) ranks.push_back(ThreadGroup(meeting, rank));
    return ranks;
  }

  /// Runs f(rank's handle) on a thread a rank and waits for all. Where one throws, the others' next call throws
  /// PeerFailed; then this throws what the first to fail has thrown, a PeerFailed only where there is nothing else.
  template <class F>
  static void run(int size, F f, std::chrono::milliseconds timeout = std::chrono::seconds(120)) {
    const auto ranks = make(size, timeout);
    std::mutex mutex;
    std::exception_ptr first;
    bool by_peer = false;
    std::vector<std::thread> threads;
    for (const auto& rank : ranks)
      threads.emplace_back([&, rank] {
        try {
          f(rank);
        } catch (const std::exception& error) {
          {
            const std::lock_guard lock(mutex);
            const bool peer = dynamic_cast<const PeerFailed*>(&error) != nullptr;
            if (!first || (by_peer && !peer)) {
              first = std::current_exception();
              by_peer = peer;
            }
          }
          rank.leave(error.what());
        }
      });
    for (auto& thread : threads) thread.join();
    if (first) std::rethrow_exception(first);
  }

  int rank() const { return rank_; }
  int size() const { return static_cast<int>(meeting_->given.size()); }

  /// Throws PeerFailed where the group has ended; does not wait.
  void check() const {
    const std::lock_guard lock(meeting_->mutex);
    if (!meeting_->ended.empty()) throw PeerFailed(meeting_->ended);
  }

  /// Ends the group: who waits, or calls later, gets PeerFailed with this rank and `why`.
  void leave(const std::string& why) const {
    const std::lock_guard lock(meeting_->mutex);
    end("rank " + std::to_string(rank_) + " of " + std::to_string(size()) + " failed: " + why);
  }

  template <class T>
  void all_reduce_sum(T* x, Index n) const {
    give(x, n);
    std::vector<T> sum(static_cast<std::size_t>(n));
    for (const auto& [from, count] : meeting_->given)
      for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += static_cast<const T*>(from)[i];
    meet();  // before anybody overwrites what others still read
    std::copy(sum.begin(), sum.end(), x);
  }

  template <class T>
  void all_gather(const T* mine, Index n, T* all) const {
    give(mine, n);
    for (const auto& [from, count] : meeting_->given)
      all = std::copy(static_cast<const T*>(from), static_cast<const T*>(from) + n, all);
    meet();
  }

  template <class T>
  void broadcast(T* x, Index n, int root) const {
    MOLE_CHECK_ARG(root >= 0 && root < size(), "broadcast: expected a root in [0,", size(), "), got", root);
    give(x, n);
    const auto* from = static_cast<const T*>(meeting_->given[static_cast<std::size_t>(root)].first);
    if (root != rank_) std::copy(from, from + n, x);
    meet();
  }

  void barrier() const {
    give(nullptr, 0);
    meet();
  }

 private:
  /// What the ranks share. An entry of `given` is written by its rank, and read between two meetings.
  struct Meeting {
    std::mutex mutex;
    std::condition_variable changed;
    std::vector<std::pair<const void*, Index>> given;  ///< by rank: its numbers, and how many
    std::chrono::milliseconds timeout{};
    int arrived = 0;
    std::size_t round = 0;  ///< meetings that are over
    std::string ended;      ///< why the group has ended; empty while it has not
  };

  ThreadGroup(std::shared_ptr<Meeting> meeting, int rank) : meeting_(std::move(meeting)), rank_(rank) {}

  /// Returns once every rank has said what it gives. Nobody reads that of the call before any more.
  void give(const void* values, Index n) const {
    {
      const std::lock_guard lock(meeting_->mutex);
      if (!meeting_->ended.empty()) throw PeerFailed(meeting_->ended);
      meeting_->given[static_cast<std::size_t>(rank_)] = {values, n};
    }
    meet();
    for (const auto& [from, count] : meeting_->given)
      if (count != n) {
        const std::lock_guard lock(meeting_->mutex);
        end(message("the ranks gave", count, "and", n, "numbers to the same call"));
        throw PeerFailed(meeting_->ended);
      }
  }

  /// Returns once every rank is here.
  void meet() const {
    auto& meeting = *meeting_;
    std::unique_lock lock(meeting.mutex);
    if (!meeting.ended.empty()) throw PeerFailed(meeting.ended);
    if (++meeting.arrived == size()) {
      meeting.arrived = 0;
      ++meeting.round;
      meeting.changed.notify_all();
    } else {
      const auto round = meeting.round;
      const auto over = [&] { return meeting.round != round || !meeting.ended.empty(); };
      if (!meeting.changed.wait_for(lock, meeting.timeout, over))
        end(message("rank", rank_, "of", size(), "has waited",
                    std::chrono::duration<double>(meeting.timeout).count(), "s for the others"));
    }
    if (!meeting.ended.empty()) throw PeerFailed(meeting.ended);
  }

  /// To be called with the mutex held. The first reason stays.
  void end(const std::string& why) const {
    if (meeting_->ended.empty()) meeting_->ended = why;
    meeting_->changed.notify_all();
  }

  std::shared_ptr<Meeting> meeting_;
  int rank_;
};

static_assert(Communicator<ThreadGroup>);

}  // namespace mole::dist
