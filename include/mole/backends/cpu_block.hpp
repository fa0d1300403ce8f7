#pragma once
// The innermost loops of products and convolutions on the CPU: some rows times some registers of columns, whose sums
// stay in registers. By Eigen's names for the registers of this processor.

#include <algorithm>

// GCC 12 warns of the registers that its own header for AVX-512 leaves undefined, where they are inlined.
#pragma GCC diagnostic push
#if defined(__GNUC__) && !defined(__clang__)
#  pragma GCC diagnostic ignored "-Wuninitialized"
#  pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <Eigen/Core>
#pragma GCC diagnostic pop

#include <mole/core/shape.hpp>

namespace mole::detail {

/// The SIMD registers of this processor.
template <class T>
struct Lanes {
  using Packet = typename Eigen::internal::packet_traits<T>::type;
  static constexpr Index lanes = Eigen::internal::unpacket_traits<Packet>::size;
  /// Registers of columns that are summed up at once, and how many rows with them: the sums and what they are made of
  /// fit into the registers.
  static constexpr int most_columns = EIGEN_ARCH_DEFAULT_NUMBER_OF_REGISTERS >= 32 ? 5 : 2;
  static constexpr int rows(int columns) { return most_columns == 2 ? 4 : columns >= 4 ? 4 : 8; }
};

/// y[p, o] = start[o] + alpha sum over i, r of x[p, i, r] W[i, r, o], added to y where `add` is set.
template <class T>
struct Block {
  const T* x;
  Index x_row, x_stretch, x_step;  ///< distances in x along p, i and r
  const T* W;                      ///< [stretches, length, columns * lanes], see also W_step
  Index stretches, length;
  const T* start;  ///< [columns * lanes], or null: 0
  T* y;
  Index y_row, width;  ///< the distance in y along p; outputs of each row that there are
  T alpha;
  bool add;
  Index W_step = 0;  ///< the distance in W along i and r; 0: columns * lanes
};

#ifdef __NVCC__  // does not know GCC's pragma, and says so
#  pragma nv_diagnostic push
#  pragma nv_diag_suppress 1675
#endif

/// `rows` rows, `columns` registers of outputs each. A sum runs over i and r in their order, whatever the number of
/// rows. The loops over them are unrolled whatever the optimisation: otherwise -O2 keeps the sums in memory.
template <class T, int rows, int columns>
void block_kernel(const Block<T>& b) {
  using namespace Eigen::internal;
  using Packet = typename Lanes<T>::Packet;
  constexpr Index lanes = Lanes<T>::lanes;
  Packet sums[rows][columns];
#pragma GCC unroll 8
  for (int v = 0; v < columns; ++v)
#pragma GCC unroll 8
    for (int p = 0; p < rows; ++p) sums[p][v] = pset1<Packet>(T(0));
  const T* W = b.W;
  const Index W_step = b.W_step > 0 ? b.W_step : columns * lanes;
  for (Index i = 0; i < b.stretches; ++i) {
    const T* from = b.x + i * b.x_stretch;
    for (Index r = 0; r < b.length; ++r, W += W_step, from += b.x_step) {
      Packet w[columns];
#pragma GCC unroll 8
      for (int v = 0; v < columns; ++v) w[v] = ploadu<Packet>(W + v * lanes);
#pragma GCC unroll 8
      for (int p = 0; p < rows; ++p) {
        const Packet value = pset1<Packet>(from[p * b.x_row]);
#pragma GCC unroll 8
        for (int v = 0; v < columns; ++v) sums[p][v] = pmadd(value, w[v], sums[p][v]);
      }
    }
  }
  const Packet alpha = pset1<Packet>(b.alpha);
#pragma GCC unroll 8
  for (int p = 0; p < rows; ++p)
#pragma GCC unroll 8
    for (int v = 0; v < columns; ++v) {
      Packet sum = pmul(alpha, sums[p][v]);
      if (b.start) sum = padd(ploadu<Packet>(b.start + v * lanes), sum);
      T* const to = b.y + p * b.y_row + v * lanes;
      const Index there = b.width - v * lanes;
      if (there >= lanes) {
        pstoreu(to, b.add ? padd(ploadu<Packet>(to), sum) : sum);
        continue;
      }
      T last[lanes];
      pstoreu(last, sum);
      for (Index o = 0; o < there; ++o) to[o] = b.add ? to[o] + last[o] : last[o];
    }
}

#ifdef __NVCC__
#  pragma nv_diagnostic pop
#endif

/// `count` rows.
template <class T, int columns>
void block_rows(Block<T> b, Index count) {
  constexpr int rows = Lanes<T>::rows(columns);
  while (count > 0) {
    const Index n = count >= rows ? rows : count >= 2 ? 2 : 1;
    if (n == rows)
      block_kernel<T, rows, columns>(b);
    else if (n == 2)
      block_kernel<T, 2, columns>(b);
    else
      block_kernel<T, 1, columns>(b);
    b.x += n * b.x_row;
    b.y += n * b.y_row;
    count -= n;
  }
}
template <class T>
void block_rows(const Block<T>& b, Index count, Index columns) {
  if (columns == 1) return block_rows<T, 1>(b, count);
  if (columns == 2) return block_rows<T, 2>(b, count);
  if constexpr (Lanes<T>::most_columns >= 5) {
    if (columns == 3) return block_rows<T, 3>(b, count);
    if (columns == 4) return block_rows<T, 4>(b, count);
    return block_rows<T, 5>(b, count);
  }
}

// A register's type has attributes, which GCC says it drops from the name of PacketBlock.
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wignored-attributes"

/// to[r * to_row + o] = from[o * from_row + r] for o and r in [0, lanes).
template <class T>
void transpose_square(const T* from, Index from_row, T* to, Index to_row) {
  using namespace Eigen::internal;
  using Packet = typename Lanes<T>::Packet;
  constexpr Index lanes = Lanes<T>::lanes;
  PacketBlock<Packet, static_cast<int>(lanes)> square;
  for (Index o = 0; o < lanes; ++o) square.packet[o] = ploadu<Packet>(from + o * from_row);
  ptranspose(square);
  for (Index o = 0; o < lanes; ++o) pstoreu(to + o * to_row, square.packet[o]);
}

#pragma GCC diagnostic pop

/// Columns in panels of some registers, about as many in each.
template <class T>
struct Panels {
  static constexpr Index lanes = Lanes<T>::lanes;
  Index columns, registers, count;

  explicit Panels(Index n)
      : columns(n),
        registers((n + lanes - 1) / lanes),
        count((registers + Lanes<T>::most_columns - 1) / Lanes<T>::most_columns) {}

  /// Where panel p begins, counted in registers.
  Index first(Index p) const { return p * registers / count; }
  Index size(Index p) const { return first(p + 1) - first(p); }
  /// The columns of panel p that there are.
  Index width(Index p) const { return std::min(columns - first(p) * lanes, size(p) * lanes); }
};

}  // namespace mole::detail
