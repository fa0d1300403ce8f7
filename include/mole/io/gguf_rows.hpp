#pragma once
// A matrix of a GGUF file as it lies there, in the mapped file: nothing of it is copied.

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <utility>

#include <mole/core/error.hpp>
#include <mole/core/quote.hpp>
#include <mole/io/gguf.hpp>
#include <mole/nn/packed_rows.hpp>

namespace mole {

/// The rows of a tensor [d_out, d_in], which holds on to its file. With a head_dim, rows lie as llama.cpp puts a Llama's
/// queries and keys: within a head the two halves that are turned together alternate. They are read back in order.
class GgufRows final : public PackedRows {
 public:
  /// Throws FormatError, naming file and tensor, for one that is missing, is no matrix, has a type that is not read,
  /// no whole number of heads, or a block whose scale is not finite.
  GgufRows(std::shared_ptr<const GgufFile> file, const std::string& name, Index head_dim = 0)
      : file_(std::move(file)) {
    const std::string where = message(file_->path()) + ": tensor " + quote(name);
    const auto& tensor = file_->at(name);
    const auto* format = gguf_format(tensor.type);
    MOLE_CHECK_FORMAT(format, where, "is stored as ggml type", tensor.type, ", which is not read");
    MOLE_CHECK_FORMAT(tensor.shape.rank() == 2, where, "should be a matrix and is", tensor.shape);
    MOLE_CHECK_FORMAT(head_dim == 0 || (head_dim % 2 == 0 && tensor.shape[0] % head_dim == 0), where, "has",
                      tensor.shape[0], "rows, no whole number of heads of", head_dim);
    format_ = *format;
    shape_ = tensor.shape;
    stored_.format = for_devices(format_.type);
    stored_.data = reinterpret_cast<const std::uint8_t*>(tensor.data);
    stored_.row_bytes = shape_[1] / format_.values * format_.bytes;
    stored_.head_dim = head_dim;
    const Index bad = detail::first_not_finite(format_, tensor.data, shape_.size());
    MOLE_CHECK_FORMAT(bad < 0, where, "has numbers that are not finite in block", bad);
  }

  Shape shape() const override { return shape_; }
  Index bytes() const override { return shape_[0] * stored_.row_bytes; }
  std::string_view format() const override { return format_.name; }

  void unpack(Index row, Index first, Index n, float* out) const override {
    const std::uint8_t* const from = stored_.data + detail::stored_row(stored_, row) * stored_.row_bytes;
    detail::gguf_blocks(format_, from + first / format_.values * format_.bytes, n / format_.values, out);
  }

 private:
  static PackedFormat for_devices(GgufType type) {
    using Type = GgufType;
    switch (type) {
      case Type::F16:
        return PackedFormat::f16;
      case Type::BF16:
        return PackedFormat::bf16;
      case Type::Q4_0:
        return PackedFormat::q4_0;
      case Type::Q4_1:
        return PackedFormat::q4_1;
      case Type::Q5_0:
        return PackedFormat::q5_0;
      case Type::Q5_1:
        return PackedFormat::q5_1;
      case Type::Q8_0:
        return PackedFormat::q8_0;
      case Type::Q4_K:
        return PackedFormat::q4_k;
      case Type::Q5_K:
        return PackedFormat::q5_k;
      case Type::Q6_K:
        return PackedFormat::q6_k;
      default:
        return PackedFormat::none;
    }
  }

  std::shared_ptr<const GgufFile> file_;
  GgufFormat format_{};
  Shape shape_;
};

}  // namespace mole
