#pragma once
// Device memory with reuse: a buffer goes back to its backend's pool, so a steady training loop allocates
// nothing. BufferStats shows it.

#include <algorithm>
#include <cstddef>
#include <limits>
#include <map>
#include <mutex>
#include <vector>

#include <mole/core/error.hpp>
#include <mole/core/shape.hpp>

namespace mole {

/// Counters of a backend's pool, in calls and bytes.
struct BufferStats {
  std::size_t allocations = 0;  ///< calls that reached the backend's allocator since the program began
  std::size_t in_use = 0;       ///< bytes held by live buffers
  std::size_t peak = 0;         ///< largest in_use since the last reset_peak
  std::size_t cached = 0;       ///< bytes kept for reuse
};

/// Free blocks by size class; one pool a backend, shared by all threads.
template <class B>
class BufferPool {
 public:
  /// Never destroyed, so that tensors with static lifetime can still hand their buffers back.
  static BufferPool& instance() {
    static BufferPool* pool = new BufferPool;
    return *pool;
  }

  /// At least `bytes` bytes. Throws DeviceError when the backend has no more, after giving back what is
  /// cached.
  void* take(std::size_t bytes) {
    const std::size_t size = size_class(bytes);
    const std::lock_guard lock(mutex_);
    void* block = nullptr;
    if (auto found = free_.find(size); found != free_.end() && !found->second.empty()) {
      block = found->second.back();
      found->second.pop_back();
      stats_.cached -= size;
    } else {
      block = allocate(size);
    }
    stats_.in_use += size;
    stats_.peak = std::max(stats_.peak, stats_.in_use);
    return block;
  }

  void give(void* block, std::size_t bytes) noexcept {
    const std::size_t size = size_class(bytes);
    const std::lock_guard lock(mutex_);
    stats_.in_use -= size;
    try {
      free_[size].push_back(block);
      stats_.cached += size;
    } catch (...) {
      B::deallocate(block, size);
    }
  }

  BufferStats stats() const {
    const std::lock_guard lock(mutex_);
    return stats_;
  }

  void reset_peak() {
    const std::lock_guard lock(mutex_);
    stats_.peak = stats_.in_use;
  }

  /// Gives every cached block back to the backend.
  void release_cached() {
    const std::lock_guard lock(mutex_);
    release_all();
  }

 private:
  /// Multiples of 256 bytes, then of an eighth of the enclosing power of two: at most 12.5% is wasted, and
  /// batches of nearly equal lengths share blocks.
  static std::size_t size_class(std::size_t bytes) {
    std::size_t step = 256;
    while (step * 16 <= bytes) step *= 2;
    return std::max<std::size_t>(256, (bytes + step - 1) / step * step);
  }

  void* allocate(std::size_t size) {
    ++stats_.allocations;
    try {
      return B::allocate(size);
    } catch (const DeviceError&) {
      if (stats_.cached == 0) throw;
      release_all();
      return B::allocate(size);
    }
  }

  void release_all() {
    for (auto& [size, blocks] : free_)
      for (void* block : blocks) B::deallocate(block, size);
    free_.clear();
    stats_.cached = 0;
  }

  mutable std::mutex mutex_;
  std::map<std::size_t, std::vector<void*>> free_;
  BufferStats stats_;
};

/// The counters of backend B's pool.
template <class B>
BufferStats buffer_stats() {
  return BufferPool<B>::instance().stats();
}

/// An uninitialised array of `size` elements on backend B; freed to the pool with its last owner.
template <class T, class B>
class Buffer {
 public:
  /// Throws DeviceError naming the size when the backend has no more, or no machine could.
  explicit Buffer(Index size)
      : size_(size), data_(static_cast<T*>(BufferPool<B>::instance().take(bytes(size)))) {}
  ~Buffer() { BufferPool<B>::instance().give(data_, bytes(size_)); }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  T* data() const { return data_; }
  Index size() const { return size_; }

 private:
  static std::size_t bytes(Index size) {
    constexpr Index most = std::numeric_limits<Index>::max() / static_cast<Index>(sizeof(T));
    MOLE_CHECK_AS(DeviceError, size <= most, B::name, ": out of memory, asked for", size, "elements of",
                  sizeof(T), "bytes");
    return static_cast<std::size_t>(size) * sizeof(T);
  }

  Index size_;
  T* data_;
};

}  // namespace mole
