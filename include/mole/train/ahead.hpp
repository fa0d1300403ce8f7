#pragma once
// Batches that are made while the step before works on its own: a device need not wait for the host's part.

#include <exception>
#include <functional>
#include <optional>
#include <thread>
#include <utility>

#include <mole/core/shape.hpp>

namespace mole {

/// make(step) for steps in a row, each made on another thread while the one before is used. What make() reads must not
/// change meanwhile, and its result must depend on the step alone. What it throws, operator() throws.
template <class R>
class Ahead {
 public:
  explicit Ahead(std::function<R(Index step)> make) : make_(std::move(make)) {}
  Ahead(const Ahead&) = delete;
  Ahead& operator=(const Ahead&) = delete;
  ~Ahead() { wait(); }

  /// make(step); begins with step + 1, unless that is `end`.
  R operator()(Index step, Index end) {
    wait();
    auto next = std::exchange(next_, std::nullopt);
    const auto failed = std::exchange(failed_, nullptr);
    if (failed && at_ == step) std::rethrow_exception(failed);
    R made = next && at_ == step ? std::move(*next) : make_(step);
    at_ = step + 1;
    if (at_ < end)
      worker_ = std::thread([this] {
        try {
          next_ = make_(at_);
        } catch (...) {
          failed_ = std::current_exception();
        }
      });
    return made;
  }

 private:
  void wait() {
    if (worker_.joinable()) worker_.join();
  }

  std::function<R(Index)> make_;
  Index at_ = 0;
  std::optional<R> next_;      ///< make(at_), once the worker is done
  std::exception_ptr failed_;  ///< or what it threw
  std::thread worker_;
};

}  // namespace mole
