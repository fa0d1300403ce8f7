// The pool: reuse, counters, and a backend that runs out of memory.

#include <doctest/doctest.h>

#include <cmath>
#include <memory>

#include "poison.hpp"
#include "testing.hpp"

using namespace mole;
using namespace mole::testing;

namespace {

/// A backend of its own for each test, so that the pools are fresh: the Cpu with a limit in bytes.
template <int Test>
struct Limited : Cpu {
  static constexpr const char* name = "limited";
  static inline std::size_t limit = std::size_t{1} << 30, taken = 0;

  static void* allocate(std::size_t bytes) {
    MOLE_CHECK_AS(DeviceError, taken + bytes <= limit, "limited: out of memory, asked for", bytes, "bytes");
    taken += bytes;
    return Cpu::allocate(bytes);
  }
  static void deallocate(void* p, std::size_t bytes) noexcept {
    taken -= bytes;
    Cpu::deallocate(p, bytes);
  }
};

static_assert(Backend<Limited<0>, float>);

}  // namespace

TEST_CASE("A buffer that was freed is used again for a size of the same class") {
  using B = Limited<1>;
  const ReusesBlocks<B> reuses;
  const float* first = nullptr;
  {
    const Buffer<float, B> buffer(1000);
    first = buffer.data();
    CHECK(buffer_stats<B>().in_use >= 4000);
    CHECK(buffer_stats<B>().cached == 0);
  }
  CHECK(buffer_stats<B>().in_use == 0);
  CHECK(buffer_stats<B>().cached >= 4000);
  const Buffer<float, B> again(990);
  CHECK(again.data() == first);
  CHECK(buffer_stats<B>().allocations == 1);
  CHECK(buffer_stats<B>().cached == 0);
  const Buffer<float, B> more(1000);
  CHECK(more.data() != first);
  CHECK(buffer_stats<B>().allocations == 2);
}

TEST_CASE("The peak is the most that was in use at once, since it was reset") {
  using B = Limited<2>;
  const ReusesBlocks<B> reuses;
  using F = Buffer<char, B>;
  {
    const F a(1024);
    { const F b(2048); }
    { const F c(512); }
    CHECK(buffer_stats<B>().peak == 3072);
    BufferPool<B>::instance().reset_peak();
    CHECK(buffer_stats<B>().peak == 1024);
    { const F d(256); }
    CHECK(buffer_stats<B>().peak == 1280);
  }
  BufferPool<B>::instance().release_cached();
  CHECK(buffer_stats<B>().cached == 0);
  CHECK(B::taken == 0);
}

TEST_CASE("A block wastes at most an eighth, or less than 256 bytes") {
  using B = Limited<3>;
  const ReusesBlocks<B> reuses;
  for (std::size_t bytes = 0; bytes < 3000000; bytes += bytes / 7 + 1) {
    const Buffer<char, B> buffer(static_cast<Index>(bytes));
    const std::size_t held = buffer_stats<B>().in_use;
    CHECK(held >= bytes);
    CHECK(held <= std::max(bytes + 256, bytes + bytes / 8));
  }
  BufferPool<B>::instance().release_cached();
}

TEST_CASE("Large blocks that are cached make room for one of another size, small ones stay") {
  using B = Limited<40>;
  const ReusesBlocks<B> reuses;
  constexpr Index large = Index{32} << 20;
  static_assert(B::large_block == static_cast<std::size_t>(large));
  { const Buffer<char, B> small(4096), one(large), two(large), three(2 * large); }
  CHECK(B::taken == 4096 + 4 * B::large_block);
  {
    // The two smallest are enough.
    const Buffer<char, B> other(large + large / 2);
    CHECK(B::taken == 4096 + 2 * B::large_block + 3 * B::large_block / 2);
    CHECK(buffer_stats<B>().cached == 4096 + 2 * B::large_block);
  }
  // A size that is cached is taken from there.
  const auto before = buffer_stats<B>().allocations;
  const Buffer<char, B> other(large + large / 2), three(2 * large), small(4096);
  CHECK(buffer_stats<B>().allocations == before);
  CHECK(buffer_stats<B>().cached == 0);
}

TEST_CASE("When memory runs out, cached blocks are given back before giving up") {
  using B = Limited<4>;
  const ReusesBlocks<B> reuses;
  B::limit = 10240;
  { const Buffer<char, B> a(4096), b(4096); }
  CHECK(buffer_stats<B>().cached == 8192);
  const Buffer<char, B> large(8192);
  CHECK(buffer_stats<B>().cached == 0);
  CHECK(B::taken == 8192);

  const auto before = buffer_stats<B>();
  CHECK(lacks<DeviceError>([] { Buffer<char, B>(4096); }, {"limited", "4096 bytes"}) == "");
  CHECK(lacks<DeviceError>([] { Tensor<float, B>::zeros({1024}); }, {"limited", "4096 bytes"}) == "");
  CHECK(buffer_stats<B>().in_use == before.in_use);
  const Buffer<char, B> small(1024);
  CHECK(buffer_stats<B>().in_use == 9216);
}

TEST_CASE("Where memory is checked, a block is of just its size, starts as NaN, and goes back at once") {
  using B = Limited<6>;
  auto& pool = BufferPool<B>::instance();
  pool.check_memory(MemoryCheck::poisoned);
  for (int again = 1; again <= 2; ++again) {
    const Buffer<float, B> buffer(3);
    CHECK(B::taken == 12);
    for (Index i = 0; i < 3; ++i) {
      CHECK(std::isnan(buffer.data()[i]));
      buffer.data()[i] = 0;
    }
    CHECK(buffer_stats<B>().allocations == static_cast<std::size_t>(again));
    CHECK(buffer_stats<B>().in_use == 12);
    CHECK(lacks<ArgumentError>([&] { pool.check_memory(MemoryCheck::none); }, {"12 bytes", "held"}) == "");
  }
  CHECK(B::taken == 0);
  CHECK(buffer_stats<B>().in_use == 0);
  CHECK(buffer_stats<B>().cached == 0);
}

namespace {

/// The Cpu with two devices.
template <int Test>
struct TwoDevices : Limited<Test> {
  static inline int current = 0;
  static int device() { return current; }
};

}  // namespace

TEST_CASE("Each device has a pool of its own, and a block never changes devices") {
  using B = TwoDevices<50>;
  const ReusesBlocks<B> reuses;
  { const Buffer<char, B> first(1024); }
  CHECK(buffer_stats<B>().cached == 1024);
  B::current = 1;
  CHECK(buffer_stats<B>().cached == 0);
  auto second = std::make_unique<Buffer<char, B>>(1024);
  CHECK(buffer_stats<B>().in_use == 1024);
  CHECK(BufferPool<B>::instance().device() == 1);
  // Freed where another device is worked on, it goes back at once: nothing there is in its order of work.
  B::current = 0;
  CHECK(B::taken == 2048);
  second.reset();
  CHECK(B::taken == 1024);
  CHECK(buffer_stats<B>().cached == 1024);
  B::current = 1;
  CHECK(buffer_stats<B>().in_use == 0);
  B::current = 0;
}

TEST_CASE("A tensor is refused where another device is worked on, naming both") {
  using B = TwoDevices<51>;
  const auto first = Tensor<float, B>::ones({2});
  B::current = 1;
  const std::initializer_list<const char*> parts{"limited", "device 0", "device 1", "to_host()"};
  CHECK(lacks<DeviceError>([&] { first.to_host(); }, parts) == "");
  CHECK(lacks<DeviceError>([&] { first.fill(1); }, parts) == "");
  CHECK(lacks<DeviceError>([&] { Tensor<float, B>::zeros({2}).assign(first); }, parts) == "");
  B::current = 0;
  CHECK(first.to_host() == std::vector<float>{1, 1});
  B::current = 64;
  CHECK(lacks<DeviceError>([] { Tensor<float, B>::zeros({2}); }, {"device 64", "first 64"}) == "");
  B::current = 0;
}

TEST_CASE("A size that no machine has is a DeviceError, not a wrapped count of bytes") {
  for (const int exponent : {50, 58, 59, 60, 61, 62}) {
    CAPTURE(exponent);
    const Index size = Index{1} << exponent;
    const auto text = std::to_string(exponent < 60 ? size * 8 : size);
    CHECK(lacks<DeviceError>([&] { Tensor<double, Limited<5>>::empty({size}); },
                             {"limited", "out of memory", text.c_str()}) == "");
  }
}

TEST_CASE("An empty tensor has memory of its own and no elements") {
  const auto none = Tensor<>::empty({0, 3});
  CHECK(none.size() == 0);
  CHECK(none.to_host().empty());
  CHECK(none.data() != nullptr);
}
