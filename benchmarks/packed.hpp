#pragma once
// packed/<format>/<tokens>: a frozen layer whose weight stays packed, beside the dense one, as packed/float.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include <mole/io/gguf_blocks.hpp>
#include <mole/nn/packed_weight.hpp>

#include "bench.hpp"

namespace bench {

/// Random blocks of a format of GGUF.
class RandomRows final : public mole::PackedRows {
 public:
  RandomRows(const mole::GgufFormat& format, const mole::Shape& shape) : format_(format), shape_(shape) {
    const auto stream = generator.next();
    const Index blocks = shape.size() / format.values;
    bytes_.resize(static_cast<std::size_t>(blocks * format.bytes));
    for (std::size_t i = 0; i < bytes_.size(); ++i)
      bytes_[i] = static_cast<std::uint8_t>(std::lround(100 * mole::normal(stream, static_cast<Index>(i))));
    // Scales that keep sums small, where formats have them.
    const std::uint16_t scale = mole::half(1e-3).bits;
    for (Index i = 0; i < blocks; ++i)
      for (const Index at : {Index{0}, Index{2}, format.bytes - 2})
        std::memcpy(bytes_.data() + i * format.bytes + at, &scale, sizeof scale);
  }

  mole::Shape shape() const override { return shape_; }
  std::string_view format() const override { return format_.name; }
  Index bytes() const override { return static_cast<Index>(bytes_.size()); }
  void unpack(Index row, Index first, Index n, float* out) const override {
    mole::detail::gguf_blocks(format_,
                              bytes_.data() + (row * shape_[1] + first) / format_.values * format_.bytes,
                              n / format_.values, out);
  }

 private:
  mole::GgufFormat format_;
  mole::Shape shape_;
  std::vector<std::uint8_t> bytes_;
};

inline constexpr mole::GgufType packed_types[] = {mole::GgufType::Q4_0, mole::GgufType::Q4_1,
                                                  mole::GgufType::Q8_0, mole::GgufType::Q4_K,
                                                  mole::GgufType::Q6_K};

template <class T, class B>
struct PackedLayer {
  mole::FrozenWeight<T, B> W;
  mole::Tensor<T, B> x, G, y, dx;
};

/// y of a layer, and with many tokens dx: a few tokens are those of a decoder.
template <class T, class B>
void run_packed(benchmark::State& state, const mole::GgufFormat* format, Index tokens) {
  constexpr Index n = 4096;
  const std::string name = format ? std::string(format->name) : "float";
  const auto& layer = prepared("packed/" + name + "/" + std::to_string(tokens), [&] {
    using Tensor = mole::Tensor<T, B>;
    const mole::Shape shape{n, n}, batch{tokens, n};
    mole::FrozenWeight<T, B> W = format
                                     ? mole::packed_weight<T, B>(std::make_shared<RandomRows>(*format, shape))
                                     : mole::FrozenWeight<T, B>(draw<T, B>(shape, n));
    return PackedLayer<T, B>{W, draw<T, B>(batch), draw<T, B>(batch), Tensor::empty(batch),
                             Tensor::empty(batch)};
  });
  const bool step = tokens > 16;
  time_steps<B>(state, [&] {
    layer.W.forward(tokens, layer.x.data(), false, layer.y.data());
    if (step) layer.W.backward(tokens, layer.G.data(), false, layer.dx.data());
    benchmark::ClobberMemory();
  });
  set_flops(state, (step ? 4.0 : 2.0) * static_cast<double>(tokens * n * n));
}

/// On the CPU alone, where packed weights are multiplied.
template <class T, class B>
void add_packed() {
  if constexpr (std::is_same_v<B, mole::Cpu> && std::is_floating_point_v<T>) {
    std::vector<const mole::GgufFormat*> formats{nullptr};
    for (const auto type : packed_types)
      formats.push_back(mole::gguf_format(static_cast<std::uint32_t>(type)));
    for (const Index tokens : {1, 16, 512})
      for (const auto* format : formats) {
        const std::string name =
            "packed/" + std::string(format ? format->name : "float") + "/" + std::to_string(tokens);
        add(name, [=](benchmark::State& state) { run_packed<T, B>(state, format, tokens); });
      }
  }
}

}  // namespace bench
