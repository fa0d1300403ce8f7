#pragma once
// Batches that are made while the step before works on its own: a device need not wait for the host's part.

#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>

#include <mole/core/shape.hpp>

namespace mole {

/// make(step) for steps in a row, each made on another thread while the one before is used. That is one thread for all
/// steps, so that those of its OpenMP loops need not be started anew for each. What make() reads must not change
/// meanwhile, and its result must depend on the step alone. What it throws, operator() throws.
template <class R>
class Ahead {
 public:
  explicit Ahead(std::function<R(Index step)> make) : make_(std::move(make)) {}
  Ahead(const Ahead&) = delete;
  Ahead& operator=(const Ahead&) = delete;
  ~Ahead() {
    {
      const std::lock_guard lock(mutex_);
      ended_ = true;
    }
    changed_.notify_all();
    if (worker_.joinable()) worker_.join();
  }

  /// make(step); begins with step + 1, unless that is `end`.
  R operator()(Index step, Index end) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return !wanted_; });
    auto next = std::exchange(next_, std::nullopt);
    const auto failed = std::exchange(failed_, nullptr);
    if (failed && at_ == step) std::rethrow_exception(failed);
    R made = next && at_ == step ? std::move(*next) : make_(step);
    at_ = step + 1;
    if (at_ < end) {
      if (!worker_.joinable()) worker_ = std::thread([this] { work(); });
      wanted_ = true;
      changed_.notify_all();
    }
    return made;
  }

 private:
  void work() {
    std::unique_lock lock(mutex_);
    while (true) {
      changed_.wait(lock, [this] { return wanted_ || ended_; });
      if (ended_) return;
      lock.unlock();
      // Nobody else reads or writes these until wanted_ is false again.
      try {
        next_ = make_(at_);
      } catch (...) {
        failed_ = std::current_exception();
      }
      lock.lock();
      wanted_ = false;
      changed_.notify_all();
    }
  }

  std::function<R(Index)> make_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool wanted_ = false;  ///< the worker makes make(at_), or is about to
  bool ended_ = false;   ///< the worker shall return
  Index at_ = 0;
  std::optional<R> next_;      ///< make(at_), once the worker is done
  std::exception_ptr failed_;  ///< or what it threw
  std::thread worker_;
};

}  // namespace mole
