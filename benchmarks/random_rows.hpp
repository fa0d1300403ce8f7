#pragma once
// Packed weights of random bytes.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string_view>
#include <vector>

#include <mole/core/random.hpp>
#include <mole/core/scalar.hpp>
#include <mole/io/bitsandbytes_numbers.hpp>
#include <mole/io/gguf_blocks.hpp>
#include <mole/io/gguf_dots.hpp>
#include <mole/nn/packed_rows.hpp>

namespace bench {

using mole::Index;

/// A format: one of GGUF, or bitsandbytes' 4 bits in blocks of 64.
struct PackedKind {
  const char* name;
  mole::PackedFormat format;
  mole::GgufType type;  ///< F32: it is none of GGUF
};

inline constexpr PackedKind packed_kinds[] = {{"NF4", mole::PackedFormat::map4, mole::GgufType::F32},
                                              {"Q4_0", mole::PackedFormat::q4_0, mole::GgufType::Q4_0},
                                              {"Q4_1", mole::PackedFormat::q4_1, mole::GgufType::Q4_1},
                                              {"Q8_0", mole::PackedFormat::q8_0, mole::GgufType::Q8_0},
                                              {"Q4_K", mole::PackedFormat::q4_k, mole::GgufType::Q4_K},
                                              {"Q6_K", mole::PackedFormat::q6_k, mole::GgufType::Q6_K}};

/// Random bytes, with scales that keep sums of a layer's size about 1.
class RandomRows final : public mole::PackedRows {
 public:
  RandomRows(const PackedKind& kind, const mole::Shape& shape) : kind_(kind), shape_(shape) {
    const bool of_gguf = kind.type != mole::GgufType::F32;
    if (of_gguf) gguf_ = *mole::gguf_format(static_cast<std::uint32_t>(kind.type));
    const Index blocks = of_gguf ? shape.size() / gguf_.values : shape.size() / block;
    bytes_.resize(static_cast<std::size_t>(of_gguf ? blocks * gguf_.bytes : shape.size() / 2));
    // Bytes repeat after a while: what is measured does not hang on them, and drawing all takes longer.
    constexpr std::size_t drawn = 65521;
    for (std::size_t i = 0; i < std::min(drawn, bytes_.size()); ++i)
      bytes_[i] = static_cast<std::uint8_t>(std::lround(100 * mole::normal({1, 1}, static_cast<Index>(i))));
    for (std::size_t i = drawn; i < bytes_.size(); ++i) bytes_[i] = bytes_[i - drawn];
    stored_.format = kind.format;
    stored_.data = bytes_.data();
    if (of_gguf) {
      const std::uint16_t scale = mole::half(1e-3).bits;
      for (Index i = 0; i < blocks; ++i)
        for (const Index at : {Index{0}, Index{2}, gguf_.bytes - 2})
          std::memcpy(bytes_.data() + i * gguf_.bytes + at, &scale, sizeof scale);
      stored_.row_bytes = shape[1] / gguf_.values * gguf_.bytes;
    } else {
      scales_.assign(static_cast<std::size_t>(blocks), 0.02F);
      stored_.scales = reinterpret_cast<const std::byte*>(scales_.data());
      stored_.block = block;
      for (std::size_t code = 0; code < 16; ++code)
        map_.of[code] = stored_.map[code] = static_cast<float>(code) / 7.5F - 1;
      for (std::size_t byte = 0; byte < 256; ++byte)
        map_.pairs[byte] = {map_.of[byte >> 4], map_.of[byte & 15]};
    }
  }

  mole::Shape shape() const override { return shape_; }
  std::string_view format() const override { return kind_.name; }
  Index bytes() const override { return static_cast<Index>(bytes_.size() + 4 * scales_.size()); }
  void unpack(Index row, Index first, Index n, float* out) const override {
    const Index at = row * shape_[1] + first;
    if (kind_.type != mole::GgufType::F32)
      return mole::detail::gguf_blocks(gguf_, bytes_.data() + at / gguf_.values * gguf_.bytes,
                                       n / gguf_.values, out);
    mole::detail::run_widest<mole::detail::Bits4Blocks>(&map_, bytes_.data() + at / 2, block / 2,
                                                        scales_.data() + at / block, n / block, out);
  }
  bool dots(const mole::PackedDots& dots, float (*y)[mole::PackedDots::most]) const override {
    constexpr Index most = mole::PackedDots::most;
    if (kind_.type == mole::GgufType::F32) return mole::detail::bits4_dots(stored_, shape_[1], dots, y);
    const auto row_at = [&](Index row) { return bytes_.data() + row * stored_.row_bytes; };
    mole::detail::GgufRowBlocks W{.rows = {},
                                  .blocks = shape_[1] / gguf_.values,
                                  .bytes = gguf_.bytes,
                                  .ahead = most * stored_.row_bytes};
    const float* x[most];
    for (Index i = 0; i < most; ++i) {
      W.rows[i] = row_at(dots.row + std::min(i, dots.rows - 1));
      x[i] = dots.x + std::min(i, dots.tokens - 1) * dots.x_step;
    }
    return mole::detail::gguf_dots(gguf_, W, dots.tokens, x, y);
  }

 private:
  static constexpr Index block = 64;

  PackedKind kind_;
  mole::GgufFormat gguf_{};
  mole::Shape shape_;
  std::vector<std::uint8_t> bytes_;
  std::vector<float> scales_;
  mole::detail::Bits4Map map_;
};

inline std::shared_ptr<const mole::PackedRows> random_rows(const PackedKind& kind, const mole::Shape& shape) {
  return std::make_shared<const RandomRows>(kind, shape);
}

}  // namespace bench
