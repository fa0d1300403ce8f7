#pragma once
// What the suites of the tape share.

#include <cstddef>
#include <cstdint>
#include <type_traits>

#include <mole/core/buffer.hpp>

#include "testing.hpp"

namespace mole::testing {

/// Random values that want a gradient.
inline Tensor<double, Device> leaf(const Shape& shape, std::uint64_t stream) {
  return noise<double>(shape, stream).set_requires_grad();
}

/// Bytes that live tensors hold.
inline std::size_t in_use() { return buffer_stats<Device>().in_use; }

/// Nodes of a long chain. On a GPU each is a launch and a block of its memory; recursion overflows the stack
/// with fewer, too.
inline constexpr int links = std::is_same_v<Device, Cpu> ? 1000000 : 100000;

}  // namespace mole::testing
