#pragma once
// Sixteen numbers at a time, as packed weights are unpacked: one vector, or two where the instruction set has none so wide.
// GCC and clang make of the types here what the instruction set has. Where GCC makes one number after another of them, its
// names for the instructions stand here.

#include <cstdint>
#include <cstring>

#include <mole/core/instruction_set.hpp>
#include <mole/core/scalar.hpp>

namespace mole::detail {

/// n numbers of type T.
template <class T, int n>
struct VectorOf {
  typedef T type __attribute__((vector_size(n * sizeof(T))));
};

/// Numbers of four bytes in a vector. Of no set in particular the compiler takes sixteen apart itself.
template <InstructionSet set>
inline constexpr int vector_lanes = set == InstructionSet::avx2 ? 8 : 16;

using Bytes16 = VectorOf<std::uint8_t, 16>::type;
template <InstructionSet set>
using Ints = typename VectorOf<std::int32_t, vector_lanes<set>>::type;
template <InstructionSet set>
using Floats = typename VectorOf<float, vector_lanes<set>>::type;

// Whether the compiler takes instructions by name in functions that are inlined into ones for a set: GCC does.
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && !defined(__CUDACC__)
#  define MOLE_INSTRUCTIONS 1
#else
#  define MOLE_INSTRUCTIONS 0
#endif

template <class Value>
[[gnu::always_inline]] inline Value stored_at(const std::uint8_t* bytes) {
  Value value;
  std::memcpy(&value, bytes, sizeof value);
  return value;
}

template <InstructionSet set>
[[gnu::always_inline]] inline float half_at(const std::uint8_t* bytes) {
#if MOLE_INSTRUCTIONS
  if constexpr (set != InstructionSet::plain) {
    using Halves = VectorOf<short, 8>::type;
    return __builtin_ia32_vcvtph2ps(Halves{stored_at<std::int16_t>(bytes)})[0];
  }
#endif
  return float{stored_at<half>(bytes)};
}

/// The bits of `mask` of bytes shifted to the left, or where `left` is negative to the right. GCC shifts a vector of bytes
/// to the left one bit after another; words it shifts at once.
template <int left>
[[gnu::always_inline]] inline Bytes16 shifted(const Bytes16& bytes, std::uint8_t mask) {
  using Words = VectorOf<std::uint16_t, 8>::type;
  const auto words = reinterpret_cast<Words>(bytes);
  if constexpr (left >= 0)
    return reinterpret_cast<Bytes16>(words << left) & mask;
  else
    return reinterpret_cast<Bytes16>(words >> -left) & mask;
}

/// a[first], b[first], a[first + 1], b[first + 1], ..
template <int first>
[[gnu::always_inline]] inline Bytes16 by_turns(const Bytes16& a, const Bytes16& b) {
#if MOLE_INSTRUCTIONS
  constexpr int i = first, j = first + 16;
  return __builtin_shufflevector(a, b, i, j, i + 1, j + 1, i + 2, j + 2, i + 3, j + 3, i + 4, j + 4, i + 5,
                                 j + 5, i + 6, j + 6, i + 7, j + 7);
#else
  Bytes16 both{};
  for (int k = 0; k < 16; ++k) both[k] = k % 2 == 0 ? a[first + k / 2] : b[first + k / 2];
  return both;
#endif
}

// Wide vectors go by reference: by value their place would depend on the instruction set. GCC warns of that at the
// instructions too, which are none where these functions are not inlined.
#if MOLE_INSTRUCTIONS
#  pragma GCC diagnostic push
#  pragma GCC diagnostic ignored "-Wpsabi"
#endif

/// to = bytes without a sign, of sixteen those from `first` on, a multiple of vector_lanes.
template <InstructionSet set>
[[gnu::always_inline]] inline void widen(const Bytes16& bytes, int first, Ints<set>& to) {
  constexpr int lanes = vector_lanes<set>;
#if MOLE_INSTRUCTIONS
  using Chars = VectorOf<char, 16>::type;
  using Longs = VectorOf<long long, 2>::type;
  if constexpr (set == InstructionSet::avx512) {
    (void)first;
    to = __builtin_ia32_pmovzxbd512_mask(reinterpret_cast<Chars>(bytes), Ints<set>{}, 0xffff);
    return;
  }
  if constexpr (set == InstructionSet::avx2) {
    const auto longs = reinterpret_cast<Longs>(bytes);
    to = __builtin_ia32_pmovzxbd256(reinterpret_cast<Chars>(first == 0 ? longs : Longs{longs[1], 0}));
    return;
  }
#endif
  typename VectorOf<std::uint8_t, lanes>::type part;
  std::memcpy(&part, reinterpret_cast<const char*>(&bytes) + first, sizeof part);
  to = __builtin_convertvector(part, Ints<set>);
}

/// The same of bytes with a sign.
template <InstructionSet set>
[[gnu::always_inline]] inline void widen_signed(const Bytes16& bytes, int first, Ints<set>& to) {
#if MOLE_INSTRUCTIONS
  using Chars = VectorOf<char, 16>::type;
  using Longs = VectorOf<long long, 2>::type;
  if constexpr (set == InstructionSet::avx512) {
    (void)first;
    to = __builtin_ia32_pmovsxbd512_mask(reinterpret_cast<Chars>(bytes), Ints<set>{}, 0xffff);
    return;
  }
  if constexpr (set == InstructionSet::avx2) {
    const auto longs = reinterpret_cast<Longs>(bytes);
    to = __builtin_ia32_pmovsxbd256(reinterpret_cast<Chars>(first == 0 ? longs : Longs{longs[1], 0}));
    return;
  }
#endif
  // Bytes without a sign have an instruction that makes integers of them on every compiler.
  widen<set>(bytes ^ 128, first, to);
  to -= 128;
}

/// Whether sixteen numbers are looked up by one instruction.
template <InstructionSet set>
inline constexpr bool looks_up = MOLE_INSTRUCTIONS != 0 && set == InstructionSet::avx512;

/// to[i] = table[code[i] % 16], where looks_up.
template <InstructionSet set>
[[gnu::always_inline]] inline void look_up(const Floats<set>& table, const Ints<set>& code, Floats<set>& to) {
  static_assert(looks_up<set>);
#if MOLE_INSTRUCTIONS
  to = __builtin_ia32_permvarsf512_mask(table, code, Floats<set>{}, 0xffff);
#else
  (void)table, (void)code, (void)to;
#endif
}

/// Whether there are instructions that look numbers up in one vector or two.
template <InstructionSet set>
inline constexpr bool has_tables = MOLE_INSTRUCTIONS != 0 && set != InstructionSet::plain;
inline bool has_tables_here() {
  return has_tables<InstructionSet::avx2> && instruction_set() != InstructionSet::plain;
}

/// Sixteen numbers to look up, where has_tables.
template <InstructionSet set>
struct FloatTable {
  static_assert(has_tables<set>);
  Floats<set> part[16 / vector_lanes<set>];

  [[gnu::always_inline]] explicit FloatTable(const float* sixteen) {
    std::memcpy(&part, sixteen, sizeof part);
  }
  /// to[i] = table[code[i] % 16]
  [[gnu::always_inline]] void look_up(const Ints<set>& code, Floats<set>& to) const {
#if MOLE_INSTRUCTIONS
    if constexpr (looks_up<set>)
      detail::look_up<set>(part[0], code, to);
    else
      to = __builtin_ia32_blendvps256(__builtin_ia32_permvarsf256(part[0], code),
                                      __builtin_ia32_permvarsf256(part[1], code),
                                      reinterpret_cast<Floats<set>>(code << 28));
#else
    (void)code, (void)to;
#endif
  }
};

#if MOLE_INSTRUCTIONS
#  pragma GCC diagnostic pop
#endif
#undef MOLE_INSTRUCTIONS

/// The sum of sixteen numbers: of its halves, their halves, and so on.
template <class T>
[[gnu::always_inline]] inline T sum_of_lanes(const T* lanes) {
  typename VectorOf<T, 8>::type halves[2];
  typename VectorOf<T, 4>::type quarters[2];
  std::memcpy(halves, lanes, sizeof halves);
  halves[0] += halves[1];
  std::memcpy(quarters, &halves[0], sizeof quarters);
  const auto four = quarters[0] + quarters[1];
  return (four[0] + four[2]) + (four[1] + four[3]);
}

}  // namespace mole::detail
