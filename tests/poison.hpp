#pragma once
// What a pool hands out: blocks filled with NaN, so that an op that reads memory it did not write, or leaves
// a part of its result unwritten, shows; and blocks that are reused.

#include <cstddef>
#include <utility>
#include <vector>

#include <mole/core/buffer.hpp>

namespace mole::testing {

/// While one is alive, B's pool reuses blocks, whatever MOLE_CHECK_MEMORY says: for tests of that.
template <class B>
class ReusesBlocks {
 public:
  ReusesBlocks() : before_(BufferPool<B>::instance().memory_check()) { set(MemoryCheck::none); }
  ~ReusesBlocks() { set(before_); }
  ReusesBlocks(const ReusesBlocks&) = delete;
  ReusesBlocks& operator=(const ReusesBlocks&) = delete;

 private:
  void set(MemoryCheck check) const {
    if (before_ != MemoryCheck::none) BufferPool<B>::instance().check_memory(check);
  }
  MemoryCheck before_;
};

/// Makes the next `count` blocks of each size up to `largest` bytes that B's pool hands out hold bytes of
/// 0xFF: NaN in any floating type, an index far outside in Index.
template <class B>
void poison_free_blocks(std::size_t largest = 4096, int count = 32) {
  auto& pool = BufferPool<B>::instance();
  std::vector<std::pair<void*, std::size_t>> taken;
  // Up to 4096 bytes, a size is a multiple of 256.
  for (std::size_t bytes = 256; bytes <= largest; bytes += 256)
    for (int i = 0; i < count; ++i) taken.emplace_back(pool.take(bytes), bytes);
  for (const auto& [block, bytes] : taken) {
    B::poison(block, bytes);
    pool.give(block, bytes);
  }
}

}  // namespace mole::testing
