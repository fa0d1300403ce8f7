#pragma once
// Many tensors in one pass: they are cut into pieces, and a backend's rows go over the pieces of all of them.
// A model's hundreds of small parameters would otherwise be bound by as many launches.

#include <algorithm>
#include <vector>

#include <mole/core/buffer.hpp>
#include <mole/core/scalar.hpp>
#include <mole/core/shape.hpp>

namespace mole::detail {

/// Elements of a piece, at most.
inline constexpr Index piece_size = 4096;

/// f(first, count) for each piece of a tensor of `size` elements.
template <class F>
void for_each_piece(Index size, F f) {
  for (Index first = 0; first < size; first += piece_size) f(first, std::min(piece_size, size - first));
}

/// f(row, piece) on the device.
template <class Piece, class F>
struct PieceRow {
  const Piece* pieces;
  F f;

  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    f(row, pieces[row.index()]);
  }
};

/// f(row, piece) for each of the pieces, plain structs of pointers on B.
template <class B, class Piece, class F>
void for_pieces(const std::vector<Piece>& pieces, const F& f) {
  if (pieces.empty()) return;
  const Buffer<Piece, B> table(pieces);
  B::for_rows(table.size(), piece_size, PieceRow<Piece, F>{table.data(), f});
}

}  // namespace mole::detail
