#pragma once
// Batches that are made while the step before works on its own: a device need not wait for the host's part.

#include <functional>
#include <future>
#include <utility>

#include <mole/core/shape.hpp>

namespace mole {

/// make(step) for steps in a row, each made on another thread while the one before is used. What make() reads must not
/// change meanwhile, and its result must depend on the step alone. What it throws, operator() throws.
template <class R>
class Ahead {
 public:
  explicit Ahead(std::function<R(Index step)> make) : make_(std::move(make)) {}

  /// make(step); begins with step + 1, unless that is `end`.
  R operator()(Index step, Index end) {
    R made = next_.valid() && at_ == step ? next_.get() : make_(step);
    next_ = {};
    at_ = step + 1;
    if (at_ < end) next_ = std::async(std::launch::async, make_, at_);
    return made;
  }

 private:
  std::function<R(Index)> make_;
  Index at_ = 0;
  std::future<R> next_;
};

}  // namespace mole
