#pragma once
// Device memory with reuse: a buffer goes back to its backend's pool, so a steady training loop allocates
// nothing. BufferStats shows it.
//
// Reuse hides mistakes from sanitizers. With MOLE_CHECK_MEMORY=exact in the environment each buffer is a
// block of its own, of just its size, that goes back to the backend at once; with MOLE_CHECK_MEMORY=1 it also
// starts as bytes of 0xff, NaN in any floating type and -1 in Index, where the backend has poison(). Slow:
// for tests.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <mutex>
#include <string_view>
#include <utility>
#include <vector>

#include <mole/core/error.hpp>
#include <mole/core/shape.hpp>

namespace mole {

/// Counters of a pool, of one device of a backend, in calls and bytes.
struct BufferStats {
  std::size_t allocations = 0;  ///< calls that reached the backend's allocator since the program began
  std::size_t in_use = 0;       ///< bytes held by live buffers
  std::size_t peak = 0;         ///< largest in_use since the last reset_peak
  std::size_t cached = 0;       ///< bytes kept for reuse
};

/// How a pool helps to find mistakes: not at all; by blocks of just their size, never reused; and filled.
enum class MemoryCheck { none, exact, poisoned };

namespace detail {

/// The order of work that a thread of backend B is in. A backend that returns before its work is done offers
/// `queue()`: a block freed in one queue is reused in that queue alone, where its last use comes first.
template <class B>
constexpr bool has_queues = requires {
  B::queue();
};
template <class B>
std::uint64_t queue_of() {
  if constexpr (has_queues<B>)
    return B::queue();
  else
    return 0;
}

/// Devices of one machine that a backend may have.
inline constexpr std::size_t most_devices = 64;

/// The device that this thread works on, counted from 0. A backend of several offers `device()`.
template <class B>
std::size_t device_of() {
  if constexpr (requires { B::device(); })
    return static_cast<std::size_t>(B::device());
  else
    return 0;
}

// On its own, so that the check in Buffer::data() stays small wherever it is inlined.
[[noreturn]] inline void wrong_device(const char* backend, std::size_t its, std::size_t here) {
  fail<DeviceError>({backend, ": a tensor of device", its, "was used in a thread that works on device", here,
                     "; a thread works on one device: pass values on through the host, to_host() there and "
                     "Tensor::from() here"});
}

/// What the environment asks for by MOLE_CHECK_MEMORY.
inline MemoryCheck memory_check_asked_for() {
  const char* const value = std::getenv("MOLE_CHECK_MEMORY");
  const std::string_view text = value ? value : "";
  if (text.empty() || text == "0") return MemoryCheck::none;
  return text == "exact" ? MemoryCheck::exact : MemoryCheck::poisoned;
}

}  // namespace detail

/// Free blocks by queue and size class; one pool a device of a backend, shared by all threads.
template <class B>
class BufferPool {
 public:
  /// The pool of the device that this thread works on. Never destroyed, so that tensors with static lifetime can
  /// still hand their buffers back.
  static BufferPool& instance() {
    if constexpr (requires { B::device(); }) {
      static auto* const pools = [] {
        auto* const made = new std::array<BufferPool, detail::most_devices>;
        for (std::size_t i = 0; i < made->size(); ++i) (*made)[i].device_ = i;
        return made;
      }();
      const std::size_t device = detail::device_of<B>();
      MOLE_CHECK_AS(DeviceError, device < pools->size(), B::name, ": device", device, "is beyond the first",
                    pools->size(), "that there are pools for");
      return (*pools)[device];
    } else {
      static BufferPool* pool = new BufferPool;
      return *pool;
    }
  }

  /// Which device's it is.
  std::size_t device() const { return device_; }

  /// At least `bytes` bytes. Throws DeviceError when the backend has no more, after giving back what is
  /// cached.
  void* take(std::size_t bytes) {
    const std::lock_guard lock(mutex_);
    const Key key{detail::queue_of<B>(), size_class(bytes)};
    const std::size_t size = key.second;
    void* block = nullptr;
    if (auto found = free_.find(key); !exact() && found != free_.end() && !found->second.empty()) {
      block = found->second.back();
      found->second.pop_back();
      stats_.cached -= size;
    } else {
      block = allocate(size);
    }
    if constexpr (requires { B::poison(block, size); })
      if (check_ == MemoryCheck::poisoned) poison(block, size);
    stats_.in_use += size;
    stats_.peak = std::max(stats_.peak, stats_.in_use);
    if constexpr (detail::has_queues<B>)
      if (reserving(key.first)) own(block, key.first, true);
    return block;
  }

  /// A thread that works on another device may give a block back, too, once the work on it is done.
  void give(void* block, std::size_t bytes) noexcept {
    std::uint64_t queue = 0;
    bool here = true;
    try {
      here = detail::device_of<B>() == device_;
      if (here) queue = detail::queue_of<B>();
    } catch (...) {
      // A thread that cannot work on the device has no queue; its blocks go to the common one.
    }
    const std::lock_guard lock(mutex_);
    Key key{queue, size_class(bytes)};
    const std::size_t size = key.second;
    stats_.in_use -= size;
    try {
      bool owned = false;
      if constexpr (detail::has_queues<B>) owned = to_owner(block, key.first);
      if (!owned && (exact() || !here)) return B::deallocate(block, size);
      free_[key].push_back(block);
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

  /// As MOLE_CHECK_MEMORY does, from now on. Throws ArgumentError while buffers are held: their blocks would
  /// be taken for others.
  void check_memory(MemoryCheck check) {
    const std::lock_guard lock(mutex_);
    MOLE_CHECK_ARG(stats_.in_use == 0, B::name, ": check_memory while", stats_.in_use, "bytes are held");
    release_all();
    check_ = check;
  }
  MemoryCheck memory_check() const {
    const std::lock_guard lock(mutex_);
    return check_;
  }

  /// Gives every cached block back to the backend, but for the reserved ones.
  void release_cached() {
    const std::lock_guard lock(mutex_);
    release_all();
  }

  /// From now on, blocks taken or freed in `queue` belong to it, whoever frees them later: a captured graph
  /// writes to them whenever it is replayed.
  void reserve(std::uint64_t queue) {
    const std::lock_guard lock(mutex_);
    if (!reserving(queue)) reserved_.push_back(queue);
  }

  /// The end of reserve(): what the queue held goes back to the backend, now or when it is freed.
  void release(std::uint64_t queue) {
    const std::lock_guard lock(mutex_);
    std::erase(reserved_, queue);
    std::erase_if(owners_, [&](const Owner& owner) { return owner.second == queue; });
    release_if([&](std::uint64_t of) { return of == queue; });
  }

 private:
  using Key = std::pair<std::uint64_t, std::size_t>;
  using Owner = std::pair<void*, std::uint64_t>;  ///< a block and the reserved queue that it belongs to

  bool exact() const { return check_ != MemoryCheck::none; }

  static void poison(void* block, std::size_t size) {
    try {
      B::poison(block, size);
    } catch (...) {
      B::deallocate(block, size);
      throw;
    }
  }

  bool reserving([[maybe_unused]] std::uint64_t queue) const {
    if constexpr (detail::has_queues<B>)
      return std::find(reserved_.begin(), reserved_.end(), queue) != reserved_.end();
    else
      return false;
  }

  /// Where a block stands in the list of owners, or would.
  auto owner_of(void* block) {
    return std::lower_bound(owners_.begin(), owners_.end(), block, [](const Owner& owner, void* other) {
      return std::less<void*>()(owner.first, other);
    });
  }

  /// A block belongs to a queue from now on; one that has an owner goes to the new one if `anew`.
  void own(void* block, std::uint64_t queue, bool anew) {
    const auto at = owner_of(block);
    if (at == owners_.end() || at->first != block)
      owners_.insert(at, {block, queue});
    else if (anew)
      at->second = queue;
  }

  /// Whether a block that is freed in `queue` belongs to a reserved queue, which `queue` then becomes.
  bool to_owner(void* block, std::uint64_t& queue) {
    if (reserving(queue)) own(block, queue, false);
    const auto owner = owner_of(block);
    if (owner == owners_.end() || owner->first != block) return false;
    queue = owner->second;
    return true;
  }

  /// Multiples of 256 bytes, then of an eighth of the enclosing power of two: at most 12.5% is wasted, and
  /// batches of nearly equal lengths share blocks. Just the bytes where blocks are exact.
  std::size_t size_class(std::size_t bytes) const {
    if (exact()) return std::max<std::size_t>(1, bytes);
    std::size_t step = 256;
    while (step * 16 <= bytes) step *= 2;
    return std::max<std::size_t>(256, (bytes + step - 1) / step * step);
  }

  void* allocate(std::size_t size) {
    ++stats_.allocations;
    // Else a program that works on large arrays of many sizes would keep the largest number of each.
    if constexpr (requires { B::large_block; })
      if (size >= B::large_block) make_room(size);
    try {
      return B::allocate(size);
    } catch (const DeviceError&) {
      if (stats_.cached == 0) throw;
      release_all();
      return B::allocate(size);
    }
  }

  void release_all() {
    release_if([&](std::uint64_t queue) { return !reserving(queue); });
  }

  /// Gives back cached blocks that are large, the smallest of them first, until they come to `size`.
  void make_room(std::size_t size) {
    std::size_t sum = 0;
    for (auto& [key, blocks] : free_) {
      if (key.second < B::large_block || reserving(key.first)) continue;
      for (; !blocks.empty() && sum < size; blocks.pop_back()) {
        B::deallocate(blocks.back(), key.second);
        sum += key.second;
      }
    }
    stats_.cached -= sum;
  }

  template <class F>
  void release_if(F wanted) {
    for (auto at = free_.begin(); at != free_.end();) {
      const auto& [key, blocks] = *at;
      if (!wanted(key.first)) {
        ++at;
        continue;
      }
      for (void* block : blocks) B::deallocate(block, key.second);
      stats_.cached -= key.second * blocks.size();
      at = free_.erase(at);
    }
  }

  mutable std::mutex mutex_;
  std::size_t device_ = 0;
  MemoryCheck check_ = detail::memory_check_asked_for();
  std::map<Key, std::vector<void*>> free_;
  std::vector<std::uint64_t> reserved_;
  std::vector<Owner> owners_;  ///< sorted by block
  BufferStats stats_;
};

/// The counters of backend B's pool, on the device that this thread works on.
template <class B>
BufferStats buffer_stats() {
  return BufferPool<B>::instance().stats();
}

/// An array of `size` elements on backend B, uninitialised; freed to the pool with its last owner. Or a part
/// of another, which lives as long as its parts do.
template <class T, class B>
class Buffer {
 public:
  /// Throws DeviceError naming the size when the backend has no more, or no machine could.
  explicit Buffer(Index size)
      : size_(size), pool_(&BufferPool<B>::instance()), data_(static_cast<T*>(pool_->take(bytes(size)))) {}
  /// A copy of the host's values.
  explicit Buffer(const std::vector<T>& values) : Buffer(static_cast<Index>(values.size())) {
    B::upload(data_, values.data(), size_);
  }
  /// `size` elements of `whole` from `first` on. Throws ShapeError if it does not hold them.
  Buffer(std::shared_ptr<const Buffer> whole, Index first, Index size)
      : size_(size), pool_(whole->pool_), whole_(std::move(whole)) {
    MOLE_CHECK_SHAPE(first >= 0 && size >= 0 && first + size <= whole_->size(), "Buffer: elements", first,
                     "to", first + size, "are no part of", whole_->size());
    data_ = whole_->data() + first;
  }
  ~Buffer() {
    if (!whole_) pool_->give(data_, bytes(size_));
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  /// Throws DeviceError in a thread that works on another device, naming both.
  T* data() const {
    if constexpr (requires { B::device(); })
      if (const auto here = detail::device_of<B>(); here != pool_->device())
        detail::wrong_device(B::name, pool_->device(), here);
    return data_;
  }
  Index size() const { return size_; }

 private:
  static std::size_t bytes(Index size) {
    constexpr Index most = std::numeric_limits<Index>::max() / static_cast<Index>(sizeof(T));
    MOLE_CHECK_AS(DeviceError, size <= most, B::name, ": out of memory, asked for", size, "elements of",
                  sizeof(T), "bytes");
    return static_cast<std::size_t>(size) * sizeof(T);
  }

  Index size_;
  BufferPool<B>* pool_;
  T* data_ = nullptr;
  std::shared_ptr<const Buffer> whole_;
};

}  // namespace mole
