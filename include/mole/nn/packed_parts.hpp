#pragma once
// The bytes of a packed matrix as a device holds them: those of a file, put in the order of core/kernels/packed_rows.hpp.
// No number is rounded.

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <vector>

#include <mole/core/error.hpp>
#include <mole/core/kernels/packed_rows.hpp>
#include <mole/core/omp.hpp>
#include <mole/nn/packed_rows.hpp>

namespace mole {

/// `matrix` without its `data`, which are to be `bytes`.
struct PackedParts {
  PackedMatrix matrix;
  std::vector<std::uint8_t> bytes;
};

namespace detail {

/// A group of 32 numbers of a GGUF block: its codes, each in a byte, and its part of `fine`; where the group is the first
/// of 256 numbers, their part of `coarse`.
struct StoredGroup {
  std::uint8_t codes[32];
  std::uint8_t fine[4] = {}, coarse[4] = {};
};

/// Q4_0, Q4_1, Q5_0, Q5_1, Q8_0: a block is a group. d | m | upper bits | codes; codes of 4 bits i and i + 16 share a byte.
template <PackedFormat f>
StoredGroup small_group(const std::uint8_t* b) {
  StoredGroup g;
  constexpr Index scales = packed_fine_bytes(f), upper = packed_high_bytes(f);
  std::memcpy(g.fine, b, static_cast<std::size_t>(scales));
  const std::uint8_t *const high = b + scales, *const low = high + upper;
  for (int i = 0; i < 32; ++i) {
    if constexpr (packed_bits(f) == 8) {
      g.codes[i] = static_cast<std::uint8_t>(low[i] ^ 128);
      continue;
    }
    int q = i < 16 ? low[i] & 15 : low[i - 16] >> 4;
    if constexpr (upper > 0) q |= (high[i / 8] >> (i % 8) & 1) << 4;
    g.codes[i] = static_cast<std::uint8_t>(q);
  }
  return g;
}

/// Group j of eight of a block of Q4_K or Q5_K: d, m | 12 bytes of scales of 6 bits | upper bits | codes; the codes of
/// groups 2 k and 2 k + 1 share bytes.
template <PackedFormat f>
StoredGroup q45_k_group(const std::uint8_t* b, int j) {
  StoredGroup g;
  constexpr bool fifth = f == PackedFormat::q5_k;
  const std::uint8_t *const s = b + 4, *const high = b + 16, *const low = b + (fifth ? 48 : 16) + j / 2 * 32;
  std::memcpy(g.coarse, b, 4);
  const int scale = j < 4 ? s[j] & 63 : (s[j + 4] & 15) | (s[j - 4] >> 6) << 4,
            least = j < 4 ? s[j + 4] & 63 : (s[j + 4] >> 4) | (s[j] >> 6) << 4;
  g.fine[0] = static_cast<std::uint8_t>(scale);
  g.fine[1] = static_cast<std::uint8_t>(least);
  for (int i = 0; i < 32; ++i) {
    int q = j % 2 == 0 ? low[i] & 15 : low[i] >> 4;
    if constexpr (fifth) q |= (high[i] >> j & 1) << 4;
    g.codes[i] = static_cast<std::uint8_t>(q);
  }
  return g;
}

/// Group j of eight of a block of Q6_K: 128 bytes of lower bits | 64 of upper ones | 16 scales | d.
inline StoredGroup q6_k_group(const std::uint8_t* b, int j) {
  StoredGroup g;
  const int part = j / 4, quarter = j % 4;
  const std::uint8_t *const low = b + part * 64 + quarter % 2 * 32, *const high = b + 128 + part * 32;
  std::memcpy(g.fine, b + 192 + part * 8 + quarter * 2, 2);
  std::memcpy(g.coarse, b + 208, 2);
  for (int i = 0; i < 32; ++i)
    g.codes[i] = static_cast<std::uint8_t>((quarter < 2 ? low[i] & 15 : low[i] >> 4) |
                                           (high[i] >> (quarter * 2) & 3) << 4);
  return g;
}

/// Group j of row b.
template <PackedFormat f>
StoredGroup stored_group(const std::uint8_t* b, Index j) {
  if constexpr (!packed_nested(f)) {
    constexpr Index block = packed_fine_bytes(f) + packed_high_bytes(f) + packed_code_bytes(f);
    return small_group<f>(b + j * block);
  } else {
    constexpr Index block = f == PackedFormat::q6_k ? 210 : f == PackedFormat::q5_k ? 176 : 144;
    const std::uint8_t* const of = b + j / 8 * block;
    if constexpr (f == PackedFormat::q6_k)
      return q6_k_group(of, static_cast<int>(j % 8));
    else
      return q45_k_group<f>(of, static_cast<int>(j % 8));
  }
}

/// Puts group `group` of the matrix where it belongs.
template <PackedFormat f>
void put_group(PackedParts& parts, Index group, const StoredGroup& g) {
  std::uint8_t* const data = parts.bytes.data();
  std::uint8_t* const codes = data + group * packed_code_bytes(f);
  if constexpr (packed_bits(f) == 8) {
    std::memcpy(codes, g.codes, 32);
  } else {
    for (int i = 0; i < 32; i += 2)
      codes[i / 2] = static_cast<std::uint8_t>((g.codes[i] & 15) | (g.codes[i + 1] & 15) << 4);
    constexpr Index eight_bytes = packed_high_bytes(f) / 4;
    if constexpr (eight_bytes > 0)
      for (int i = 0; i < 32; ++i) {
        const int bit = packed_high_place(f, i % 8);
        std::uint8_t& to =
            data[parts.matrix.high + group * packed_high_bytes(f) + i / 8 * eight_bytes + bit / 8];
        to = static_cast<std::uint8_t>(to | g.codes[i] >> 4 << bit % 8);
      }
  }
  std::memcpy(data + parts.matrix.fine + group * packed_fine_bytes(f), g.fine,
              static_cast<std::size_t>(packed_fine_bytes(f)));
  if constexpr (packed_nested(f))
    if (group % 8 == 0)
      std::memcpy(data + parts.matrix.coarse + group / 8 * packed_coarse_bytes(f), g.coarse,
                  static_cast<std::size_t>(packed_coarse_bytes(f)));
}

/// The parts of GGUF's blocks. A row is a whole number of them.
template <PackedFormat f>
void put_blocks(PackedParts& parts, const StoredRows& stored) {
  const Index rows = parts.matrix.d_out, groups = parts.matrix.d_in / 32;
  MOLE_OMP("omp parallel for schedule(static)")
  for (Index row = 0; row < rows; ++row) {
    const std::uint8_t* const from = stored.data + stored_row(stored, row) * stored.row_bytes;
    for (Index j = 0; j < groups; ++j) put_group<f>(parts, row * groups + j, stored_group<f>(from, j));
  }
}

/// Numbers of two bytes, which have no blocks.
inline void put_numbers(PackedParts& parts, const StoredRows& stored) {
  for (Index row = 0; row < parts.matrix.d_out; ++row)
    std::memcpy(parts.bytes.data() + row * stored.row_bytes,
                stored.data + stored_row(stored, row) * stored.row_bytes,
                static_cast<std::size_t>(stored.row_bytes));
}

/// bitsandbytes' 4 bits: the first of two numbers is in the upper half of their byte.
inline void put_map4(PackedParts& parts, const StoredRows& stored, Index scales) {
  const Index bytes = (parts.matrix.d_out * parts.matrix.d_in + 1) / 2;
  for (Index i = 0; i < bytes; ++i)
    parts.bytes[static_cast<std::size_t>(i)] =
        static_cast<std::uint8_t>(stored.data[i] >> 4 | (stored.data[i] & 15) << 4);
  for (Index i = 0; i < scales; ++i) {
    const float scale = stored_scale(stored, i);
    std::memcpy(parts.bytes.data() + parts.matrix.fine + 4 * i, &scale, 4);
  }
  std::copy(std::begin(stored.map), std::end(stored.map), parts.matrix.map);
}

/// bitsandbytes' 8 bits.
inline void put_int8(PackedParts& parts, const StoredRows& stored) {
  const Index n = parts.matrix.d_out * parts.matrix.d_in;
  for (Index i = 0; i < n; ++i)
    parts.bytes[static_cast<std::size_t>(i)] = static_cast<std::uint8_t>(stored.data[i] ^ 128);
  std::memcpy(parts.bytes.data() + parts.matrix.fine, stored.scales,
              static_cast<std::size_t>(4 * parts.matrix.d_out));
}

}  // namespace detail

/// The bytes of W for a device that is called `device`. Throws DeviceError, naming the format, where devices do not read it.
inline PackedParts packed_parts(const PackedRows& W, const char* device) {
  using Format = PackedFormat;
  const auto& stored = W.stored();
  MOLE_CHECK_AS(DeviceError, stored.format != Format::none, device, ": weights in", W.format(),
                "are not multiplied packed; load the model without keeping them packed");
  MOLE_CHECK_AS(
      DeviceError, stored.format != Format::map4 || stored.block >= 8, device, ": weights in", W.format(),
      "in blocks of", stored.block,
      "are not multiplied packed, blocks of 8 and more are; load the model without keeping them packed");
  MOLE_CHECK_AS(DeviceError, W.shape().size() < Index{1} << 34, device, ": a packed matrix of", W.shape(),
                "is larger than is counted");
  PackedParts parts;
  auto& m = parts.matrix;
  m.format = stored.format, m.d_out = W.shape()[0], m.d_in = W.shape()[1];
  const Index n = m.d_out * m.d_in, groups = (n + 31) / 32;
  Index end = 0;
  const auto part = [&](Index size) {
    const Index begin = end;
    end += (size + 15) / 16 * 16;
    return begin;
  };
  const bool is_map4 = stored.format == Format::map4;
  const Index scales = is_map4 ? (n + stored.block - 1) / stored.block : m.d_out;
  if (is_map4) m.block_bits = std::countr_zero(static_cast<std::uint64_t>(stored.block));
  part(groups * detail::packed_code_bytes(m.format));
  m.high = part(groups * detail::packed_high_bytes(m.format));
  m.fine =
      part(is_map4 || m.format == Format::int8 ? 4 * scales : groups * detail::packed_fine_bytes(m.format));
  m.coarse = part((n + 255) / 256 * detail::packed_coarse_bytes(m.format));
  parts.bytes.resize(static_cast<std::size_t>(end));
  detail::with_packed_format(m.format, [&](auto format) {
    if constexpr (format() == Format::map4)
      detail::put_map4(parts, stored, scales);
    else if constexpr (format() == Format::int8)
      detail::put_int8(parts, stored);
    else if constexpr (detail::packed_bits(format()) == 16)
      detail::put_numbers(parts, stored);
    else
      detail::put_blocks<format()>(parts, stored);
  });
  return parts;
}

}  // namespace mole
