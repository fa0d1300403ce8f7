#pragma once
// Free blocks of a pool filled with NaN, so that an op that reads memory it did not write, or leaves a part
// of its result unwritten, shows.

#include <cstdint>
#include <utility>
#include <vector>

#include <mole/core/buffer.hpp>
#include <mole/core/transform.hpp>

namespace mole::testing {

/// While one is alive, B's pool reuses blocks, whatever MOLE_CHECK_MEMORY says: for tests of that.
template <class B>
class ReusesBlocks {
 public:
  ReusesBlocks() : before_(BufferPool<B>::instance().checks_memory()) {
    if (before_) BufferPool<B>::instance().check_memory(false);
  }
  ~ReusesBlocks() {
    if (before_) BufferPool<B>::instance().check_memory(true);
  }
  ReusesBlocks(const ReusesBlocks&) = delete;
  ReusesBlocks& operator=(const ReusesBlocks&) = delete;

 private:
  bool before_;
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
    transform<B>(static_cast<Index>(bytes / 8), functor::Constant<std::uint64_t>{~std::uint64_t{0}},
                 static_cast<std::uint64_t*>(block));
    pool.give(block, bytes);
  }
}

}  // namespace mole::testing
