#pragma once
// The products that a packed format has of its own, beside those of its unpacked numbers.

#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include <doctest/doctest.h>
#include <mole/nn/few_rows.hpp>
#include <mole/nn/packed_rows.hpp>

#include "io/quantised.hpp"

namespace io_test {

using namespace mole;

/// Rows that can be unpacked and nothing else.
class OnlyUnpacked final : public PackedRows {
 public:
  explicit OnlyUnpacked(std::shared_ptr<const PackedRows> rows) : rows_(std::move(rows)) {}
  Shape shape() const override { return rows_->shape(); }
  std::string_view format() const override { return rows_->format(); }
  Index bytes() const override { return rows_->bytes(); }
  void unpack(Index row, Index first, Index n, float* out) const override {
    rows_->unpack(row, first, n, out);
  }

 private:
  std::shared_ptr<const PackedRows> rows_;
};

/// Checks that up to four rows of x and of W have the bits of unpacked numbers' products. False where the format has no
/// products of its own for these.
inline bool check_dots(const std::shared_ptr<const PackedRows>& rows) {
  const OnlyUnpacked unpacked(rows);
  const Index d_out = rows->shape()[0], d_in = rows->shape()[1];
  const auto x = quantised_input<float>(d_in).to_host();
  for (const Index tokens : {1, 2, 3, 4}) {
    std::vector<float> y(static_cast<std::size_t>(tokens * d_out), 1), expected = y;
    detail::few_rows_forward(*rows, tokens, x.data(), true, y.data());
    detail::few_rows_forward(unpacked, tokens, x.data(), true, expected.data());
    CHECK(y == expected);
  }
  // Fewer than four rows of W are the first of four.
  float four[4][4], fewer[4][4];
  if (!rows->dots({4, 4, 4, x.data(), d_in}, four)) return false;
  for (const Index n : {1, 2, 3}) {
    REQUIRE(rows->dots({4, n, n, x.data(), d_in}, fewer));
    for (Index t = 0; t < n; ++t)
      for (Index r = 0; r < n; ++r) CHECK(fewer[t][r] == four[t][r]);
  }
  return true;
}

}  // namespace io_test
