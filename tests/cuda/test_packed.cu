// Packed weights on the GPU: their numbers, and products of few rows and of many.

#include <doctest/doctest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <mole/cuda.cuh>
#include <mole/experts/ops/mixtures_off_tape.hpp>
#include <mole/io/bitsandbytes.hpp>
#include <mole/io/gguf_rows.hpp>
#include <mole/nn/packed_weight.hpp>

#include "io/packed_goldens.hpp"
#include "testing.hpp"

using namespace mole;
using namespace mole::testing;
using namespace io_test;

namespace {

/// Random weights in bitsandbytes' layout of 4 bits, in blocks of any length over the whole matrix.
class RandomMapRows final : public PackedRows {
 public:
  RandomMapRows(Index d_out, Index d_in, Index block) : shape_({d_out, d_in}) {
    const Index n = d_out * d_in;
    for (Index i = 0; i < (n + 1) / 2; ++i)
      bytes_.push_back(static_cast<std::uint8_t>(255 * uniform({7, 1}, i)));
    for (Index i = 0; i < (n + block - 1) / block; ++i)
      scales_.push_back(static_cast<float>(0.5 + uniform({7, 2}, i)));
    stored_.format = PackedFormat::map4;
    stored_.data = bytes_.data();
    stored_.scales = reinterpret_cast<const std::byte*>(scales_.data());
    stored_.block = block;
    for (Index i = 0; i < 16; ++i) stored_.map[i] = static_cast<float>(2 * uniform({7, 3}, i) - 1);
  }
  Shape shape() const override { return shape_; }
  std::string_view format() const override { return "random"; }
  Index bytes() const override { return static_cast<Index>(bytes_.size() + 4 * scales_.size()); }
  void unpack(Index row, Index first, Index n, float* out) const override {
    for (Index j = 0; j < n; ++j) {
      const Index i = row * shape_[1] + first + j;
      const int byte = bytes_[static_cast<std::size_t>(i / 2)];
      out[j] = stored_.map[i % 2 == 0 ? byte >> 4 : byte & 15] *
               scales_[static_cast<std::size_t>(i / stored_.block)];
    }
  }

 private:
  Shape shape_;
  std::vector<std::uint8_t> bytes_;
  std::vector<float> scales_;
};

std::shared_ptr<const PackedRows> map_rows(Index d_out, Index d_in, Index block = 64) {
  return std::make_shared<const RandomMapRows>(d_out, d_in, block);
}

/// Random blocks of a format of GGUF with scales of 1/64 or so.
std::shared_ptr<const PackedRows> gguf_rows(const Folder& folder, GgufType type, Index d_out, Index d_in) {
  const auto& format = *gguf_format(static_cast<std::uint32_t>(type));
  GgufParts parts;
  parts.type = static_cast<std::uint32_t>(type);
  parts.extents = {static_cast<std::uint64_t>(d_in), static_cast<std::uint64_t>(d_out)};
  const Index blocks = d_out * d_in / format.values;
  for (Index i = 0; i < blocks * format.bytes; ++i)
    parts.data += static_cast<char>(static_cast<int>(256 * uniform({8, 1}, i)));
  // Where the block's halves are, of which there are one or two.
  Index at = 0, halves = 1;
  if (type == GgufType::Q6_K) at = 208;
  if (type == GgufType::Q2_K) at = 80;
  for (const auto two : {GgufType::Q4_1, GgufType::Q5_1, GgufType::Q4_K, GgufType::Q5_K, GgufType::Q2_K})
    if (type == two) halves = 2;
  const auto scale = gguf_raw(mole::half(1.0 / 64).bits);
  for (Index i = 0; i < blocks; ++i)
    for (Index k = 0; k < halves; ++k)
      parts.data.replace(static_cast<std::size_t>(i * format.bytes + at + 2 * k), 2, scale);
  write_text(folder / "random.gguf", parts.bytes());
  return std::make_shared<const GgufRows>(std::make_shared<const GgufFile>(folder / "random.gguf"), "a");
}

std::vector<std::uint32_t> bits_of(const std::vector<float>& values) {
  std::vector<std::uint32_t> bits;
  for (const float value : values) bits.push_back(std::bit_cast<std::uint32_t>(value));
  return bits;
}

/// All rows as the device unpacks them.
std::vector<float> on_device(const PackedRows& W) {
  std::vector<Index> ids;
  for (Index i = 0; i < W.shape()[0]; ++i) ids.push_back(i);
  const PackedWeight<float, Cuda> packed(std::shared_ptr<const PackedRows>(&W, [](const PackedRows*) {}));
  return packed.rows_of(Tensor<Index, Cuda>::from({W.shape()[0]}, ids)).to_host();
}

std::vector<float> on_host(const PackedRows& W) { return unpacked<float, Cpu>(W).to_host(); }

/// a B or a B^T in double.  a [rows, k]
std::vector<double> product(const std::vector<double>& a, const std::vector<double>& B, Index rows, Index k,
                            Index n, bool transposed) {
  std::vector<double> c(static_cast<std::size_t>(rows * n));
#pragma omp parallel for
  for (Index r = 0; r < rows; ++r)
    for (Index l = 0; l < k; ++l)
      for (Index j = 0; j < n; ++j)
        c[static_cast<std::size_t>(r * n + j)] +=
            a[static_cast<std::size_t>(r * k + l)] *
            B[static_cast<std::size_t>(transposed ? j * k + l : l * n + j)];
  return c;
}

/// y and dx of `rows` rows, also added to what is there, against sums in double of W's numbers in T.
template <class T>
void check_rows(const std::shared_ptr<const PackedRows>& rows_of_W, Index rows) {
  const Index d_out = rows_of_W->shape()[0], d_in = rows_of_W->shape()[1];
  CAPTURE(message(rows_of_W->format(), d_out, d_in, rows));
  const PackedWeight<T, Cuda> W(rows_of_W);
  std::vector<double> numbers;
  for (const float value : on_host(*rows_of_W))
    numbers.push_back(static_cast<double>(static_cast<Compute<T>>(static_cast<T>(value))));
  const auto x = noise<T, Cuda>({rows, d_in}, 1), G = noise<T, Cuda>({rows, d_out}, 2);
  const double half_unit = std::is_same_v<T, bf16>         ? 1.0 / 256
                           : std::is_same_v<T, mole::half> ? 1.0 / 2048
                                                           : 0;
  double squares = 0;
  for (const double value : numbers) squares += value * value;
  const double size = std::max(1.0, std::sqrt(squares / static_cast<double>(numbers.size())));
  // A sum of n terms of this size grows to 4 sqrt(n) times it. Its n roundings add up like a random walk; the matrix units,
  // which add 16 terms at a time, cut off and never round up.
  constexpr bool cut = sizeof(T) == 2;
  constexpr double rounding = std::is_same_v<T, double> ? 0x1p-53 : 0x1p-24;
  const auto lost = [&](double terms) {
    return 4 * std::sqrt(terms) * size * rounding * (cut ? 2 * (terms / 16 + 1) : std::sqrt(terms));
  };
  // In two bytes cuBLAS rounds a product before it adds what is there.
  const auto check = [&](const Tensor<T, Cuda>& found, const std::vector<double>& expected,
                         const std::vector<double>& before, double terms) {
    const auto values = doubles(found);
    REQUIRE(values.size() == expected.size());
    double worst = 0;
    for (std::size_t i = 0; i < values.size(); ++i) {
      const double product = before.empty() ? 0 : std::abs(expected[i] - before[i]);
      const double error = std::abs(values[i] - expected[i]) /
                           ((std::abs(expected[i]) + product) * (half_unit + 2 * rounding) + lost(terms));
      worst = std::isnan(error) ? INFINITY : std::max(worst, error);
    }
    CHECK(worst <= 1);
  };
  for (const bool add : {false, true}) {
    CAPTURE(add);
    const auto y = noise<T, Cuda>({rows, d_out}, 3), dx = noise<T, Cuda>({rows, d_in}, 4);
    auto expected_y = product(doubles(x), numbers, rows, d_in, d_out, true),
         expected_dx = product(doubles(G), numbers, rows, d_out, d_in, false);
    std::vector<double> before_y, before_dx;
    if (add) {
      before_y = doubles(y), before_dx = doubles(dx);
      for (std::size_t i = 0; i < expected_y.size(); ++i) expected_y[i] += before_y[i];
      for (std::size_t i = 0; i < expected_dx.size(); ++i) expected_dx[i] += before_dx[i];
    } else {
      Cuda::poison(y.data(), static_cast<std::size_t>(y.size()) * sizeof(T));
      Cuda::poison(dx.data(), static_cast<std::size_t>(dx.size()) * sizeof(T));
    }
    W.forward(rows, x.data(), add, y.data());
    W.backward(rows, G.data(), add, dx.data());
    // The kernel for few rows adds before it rounds.
    const PackedProduct<T> few{
        .x = x.data(), .rows = rows, .layers = {{packed_parts(*rows_of_W, Cuda::name).matrix, y.data()}}};
    if (detail::packed_product_fits(few)) before_y.clear();
    check(y, expected_y, before_y, static_cast<double>(d_in));
    check(dx, expected_dx, before_dx, static_cast<double>(d_out));
  }
}

}  // namespace

TEST_CASE("Numbers that a GPU unpacks are those of the file, bit by bit") {
  const Folder folder;
  for (const auto& [label, rows] : packed_goldens(folder)) {
    const std::string name = label;
    CAPTURE(name);
    CHECK(bits_of(on_device(*rows)) == bits_of(on_host(*rows)));
  }
  for (const auto& [label, type] : gguf_goldens) {
    const std::string name = label;
    CAPTURE(name);
    const auto rows = gguf_rows(folder, type, 300, 2048);
    CHECK(bits_of(on_device(*rows)) == bits_of(on_host(*rows)));
  }
  for (const auto type : {GgufType::F16, GgufType::BF16})
    for (const Index d_in : {36, 64}) {
      const auto rows = two_byte_rows(folder, type, 5, d_in);
      CHECK(bits_of(on_device(*rows)) == bits_of(on_host(*rows)));
    }
  for (const Index d_in : {7, 100, 120, 4096}) {
    const auto rows = map_rows(33, d_in, 8);
    CHECK(bits_of(on_device(*rows)) == bits_of(on_host(*rows)));
  }
}

TEST_CASE("Rows and columns of a packed matrix are those parts of it") {
  const Index d_out = 40, d_in = 96;
  for (const Index first_column : {16, 5}) {
    const auto rows = map_rows(d_out, d_in, 32);
    auto parts = packed_parts(*rows, "cuda");
    const Buffer<std::uint8_t, Cuda> bytes(parts.bytes);
    parts.matrix.data = bytes.data();
    const Index n = 24;
    const auto found = Tensor<double, Cuda>::empty({9, n});
    Cuda::unpack_numbers(UnpackNumbers<double>{.W = parts.matrix,
                                               .out = found.data(),
                                               .rows = 9,
                                               .columns = n,
                                               .first_row = 31,
                                               .first_column = first_column});
    const auto all = on_host(*rows);
    std::vector<double> expected;
    for (Index r = 31; r < d_out; ++r)
      for (Index j = 0; j < n; ++j)
        expected.push_back(all[static_cast<std::size_t>(r * d_in + first_column + j)]);
    CHECK(doubles(found) == expected);
  }
}

TEST_CASE("Every format has its golden's products and gradients on a GPU") {
  const Folder folder;
  for (const auto& [name, rows] : packed_goldens(folder))
    if (name != "int8") check_packed(name, rows);
}

TEST_CASE_TEMPLATE("Few rows and many have the products of W's numbers", T, float, double, bf16, mole::half) {
  const Folder folder;
  // 3 groups a row, rows that fill no tile, several chunks a warp, and rows that are no whole groups.
  for (const auto& W : {map_rows(40, 96), map_rows(17, 32), map_rows(1, 4096), map_rows(72, 11008, 128),
                        map_rows(24, 100), map_rows(5, 40, 8), map_rows(33, 64, 16)})
    for (const Index rows : {1, 2, 5, 8, 9, 31, 33}) check_rows<T>(W, rows);
  for (const auto& [name, type] : gguf_goldens)
    for (const Index rows : {1, 7, 20}) check_rows<T>(gguf_rows(folder, type, 50, 1280), rows);
  for (const auto type : {GgufType::F16, GgufType::BF16})
    for (const Index rows : {1, 7}) check_rows<T>(two_byte_rows(folder, type, 19, 160), rows);
  const auto int8 = packed_goldens(folder).back();
  REQUIRE(int8.name == "int8");
  for (const Index rows : {1, 8, 40}) check_rows<T>(int8.rows, rows);
}

TEST_CASE_TEMPLATE("Packed layers of one input are one launch, with the bits of each by itself", T, float,
                   bf16) {
  for (const Index rows : {1, 3, 12}) {
    CAPTURE(rows);
    const Index d_in = 256, N = 2, R = 16;
    const auto x = noise<T, Cuda>({rows, 1, d_in}, 1);
    std::vector<KnownMixture<T, Cuda>> layers;
    for (const Index width : {40, 9, 130})
      layers.push_back({.W = packed_weight<T, Cuda>(map_rows(width, d_in))});
    const auto y = mixtures_off_tape(x, layers);
    REQUIRE(y.size() == layers.size());
    for (std::size_t i = 0; i < y.size(); ++i) CHECK(doubles(y[i]) == doubles(frozen_linear(x, layers[i].W)));

    for (auto& layer : layers) {
      layer.A = noise<T, Cuda>({R, d_in}, 2), layer.Q = noise<T, Cuda>({layer.W.d_out(), R}, 3);
      layer.g = noise<T, Cuda>({rows, N}, 4);
      layer.column = Tensor<Index, Cuda>::from({R}, {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1});
    }
    const auto mixed = mixtures_off_tape(x, layers);
    REQUIRE(mixed.size() == (rows <= 8 ? layers.size() : 0));
    for (std::size_t i = 0; i < mixed.size(); ++i) {
      const auto& layer = layers[i];
      const auto expected =
          doubles(mixture(x, layer.W, layer.c, linear(x, layer.A), layer.g, layer.Q, layer.column));
      double size = 0;
      for (const double v : expected) size = std::max(size, std::abs(v));
      CHECK(worst_error(doubles(mixed[i]), expected) <= (std::is_same_v<T, float> ? 1e-5 : 1e-2) * size);
    }
  }
}

TEST_CASE("A matrix of several panels is multiplied as one") {
  check_rows<float>(map_rows(1100, 8192), 40);
  check_rows<bf16>(map_rows(16400, 1056), 40);
}

TEST_CASE("Products of packed weights are captured in a graph and have the same bits again") {
  const PackedWeight<bf16, Cuda> W(map_rows(264, 512));
  for (const Index rows : {3, 64}) {
    const auto x = noise<bf16, Cuda>({rows, 512}, 1), G = noise<bf16, Cuda>({rows, 264}, 2),
               y = Tensor<bf16, Cuda>::empty({rows, 264}), dx = Tensor<bf16, Cuda>::empty({rows, 512});
    const auto step = [&] {
      W.forward(rows, x.data(), false, y.data());
      W.backward(rows, G.data(), false, dx.data());
    };
    CudaGraph graph(step);
    x.assign(noise<bf16, Cuda>({rows, 512}, 5));
    graph.replay();
    const auto found_y = doubles(y), found_dx = doubles(dx);
    step();
    CHECK(doubles(y) == found_y);
    CHECK(doubles(dx) == found_dx);
  }
}

TEST_CASE("A layer of MoLE over packed weights is the one over their numbers, for few tokens and many") {
  const Index S = 2, d_in = 256, d_out = 512, N = 3, r = 8;
  const auto rows = map_rows(d_out, d_in);
  const auto dense = unpacked<bf16, Cuda>(*rows);
  const auto packed = packed_weight<bf16, Cuda>(rows);
  std::vector<LoraFactors> factors;
  for (Index i = 0; i < N; ++i) {
    LoraFactors f;
    f.rank = r, f.d_in = d_in, f.d_out = d_out, f.scale = 0.1;
    f.A = doubles(noise<double, Cpu>({r, d_in}, 20 + static_cast<std::uint64_t>(i)));
    f.B = doubles(noise<double, Cpu>({d_out, r}, 40 + static_cast<std::uint64_t>(i)));
    factors.push_back(f);
  }
  // y, and the gradients of x and of the gate's weight.
  const auto run = [&](const FrozenWeight<bf16, Cuda>& W, Index L, Pooling pooling) {
    auto x = noise<bf16, Cuda>({S, L, d_in}, 1).set_requires_grad();
    MoleLinear<bf16, Cuda> layer(W, noise<bf16, Cuda>({d_out}, 3), factors, {.pooling = pooling});
    layer.gate().weight.assign(noise<bf16, Cuda>({N * r, N}, 4));
    const auto y = layer(x).y;
    backward(y, noise<bf16, Cuda>({S, L, d_out}, 5));
    return std::vector{doubles(y), doubles(x.grad()), doubles(layer.gate().weight.grad())};
  };
  for (const Pooling pooling : {Pooling::token, Pooling::mean})
    for (const Index L : {2, 100, 1024}) {
      CAPTURE(L);
      const auto found = run(packed, L, pooling), expected = run(dense, L, pooling);
      for (std::size_t i = 0; i < found.size(); ++i) {
        double squares = 0, size = 0;
        for (std::size_t j = 0; j < found[i].size(); ++j) {
          squares += (found[i][j] - expected[i][j]) * (found[i][j] - expected[i][j]);
          size += expected[i][j] * expected[i][j];
        }
        CHECK(std::sqrt(squares / size) < 4e-3);  // a result is rounded once, or twice
      }
    }
}

TEST_CASE("A packed matrix needs its file no longer once it is on the device") {
  auto folder = std::make_unique<Folder>();
  auto rows = gguf_rows(*folder, GgufType::Q4_K, 16, 256);
  const std::weak_ptr<const PackedRows> there = rows;
  const PackedWeight<float, Cuda> W(rows);
  rows.reset();
  CHECK(there.expired());
  CHECK(W.bytes() < 16 * 256 * 5 / 8);
}

TEST_CASE("A format that is not multiplied packed is refused by name") {
  const Folder folder;
  const auto rows = gguf_rows(folder, GgufType::Q2_K, 4, 256);
  CHECK(lacks<DeviceError>([&] { packed_weight<float, Cuda>(rows); }, {"cuda", "Q2_K", "without keeping"}) ==
        "");
  CHECK(lacks<DeviceError>([&] { packed_weight<float, Cuda>(map_rows(4, 64, 4)); },
                           {"cuda", "blocks of 4"}) == "");
}
