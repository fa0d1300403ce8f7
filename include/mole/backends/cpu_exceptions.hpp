#pragma once
// Exceptions out of parallel loops.

#include <exception>
#include <mutex>

namespace mole::detail {

/// The first exception of several threads: OpenMP ends the process where one leaves a parallel region.
class FirstException {
 public:
  /// To be called where one is caught.
  void keep() noexcept {
    const std::lock_guard lock(mutex_);
    if (!first_) first_ = std::current_exception();
  }
  /// After the region.
  void rethrow() const {
    if (first_) std::rethrow_exception(first_);
  }

 private:
  std::mutex mutex_;
  std::exception_ptr first_;
};

}  // namespace mole::detail
