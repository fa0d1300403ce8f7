#pragma once
// Packed rows without products of their own.

#include <memory>
#include <string_view>
#include <utility>

#include <mole/nn/packed_rows.hpp>

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

}  // namespace io_test
