#pragma once
// Launches a kernel of GateProduct where the device and the extents fit one.

#include <cstdint>
#include <type_traits>

#include <mole/backends/cuda/context.cuh>
#include <mole/backends/cuda/gate.cuh>
#include <mole/backends/cuda/hopper/gate_product_kernel.cuh>
#include <mole/backends/cuda/launch.cuh>
#include <mole/backends/cuda/two_products.cuh>
#include <mole/core/buffer.hpp>
#include <mole/core/kernels/gate_product.hpp>
#include <mole/core/scalar.hpp>

namespace mole::detail {

/// Experts that the kernels are made for.
inline constexpr int gate_product_experts = 4;

/// f(BN) as a constant, for features that fit, of gates or their pullback.
template <class Gate, class F>
void with_gate_product_columns(Index features, const F& f) {
  if constexpr (std::is_same_v<Gate, GateBackward<bf16>>)
    if (features > 64) return f(std::integral_constant<int, 128>());
  f(std::integral_constant<int, 64>());
}

/// hopper_ready() of the kernel, looked up once.
template <int BN, class Gate>
bool gate_product_ready() {
  thread_local const bool ready =
      hopper_ready(hopper::gate_product<BN, gate_product_experts, Gate>, hopper::gate_product_bytes<BN>);
  return ready;
}

/// Blocks of a gate: two for 128 rows.
inline unsigned gate_product_blocks(Index rows) {
  return 2 * static_cast<unsigned>((rows + hopper::gate_product_rows - 1) / hopper::gate_product_rows);
}

/// Fewer blocks leave most multiprocessors idle, and cuBLAS was faster on H200s.
inline constexpr Index least_gate_product_blocks = 88;

/// Of Cuda::gate_product_fits. Forth, on H200s, a product of 96 or 128 columns was faster ahead of the gate: beside the gate's
/// small kernel that of y finds room to begin.
template <class T>
bool gate_product_fits(const GateProduct<T>& p) {
  bool fit = false;
  if constexpr (std::is_same_v<T, bf16>) {
    const auto whole = [](Index n) { return n > 0 && n % 8 == 0; };
    const auto aligned = [](const void* x) { return reinterpret_cast<std::uintptr_t>(x) % 16 == 0; };
    constexpr Index most = Index{1} << 30;
    fit = whole(p.features) && whole(p.inner) && whole(p.stride) && p.features <= (p.back ? 128 : 64) &&
          p.experts >= 1 && p.experts <= gate_product_experts && p.rows > 0 && p.rows < most &&
          p.inner < most &&
          gate_product_blocks(p.rows) * static_cast<Index>(p.gates) >= least_gate_product_blocks &&
          aligned(p.b) && aligned(p.made);
    for (int i = 0; i < (p.back ? p.gates : 1); ++i) fit = fit && aligned(p.a[i]);
    const auto ready = [&]<class Gate>(const Gate*) {
      with_gate_product_columns<Gate>(p.features, [&](auto BN) { fit = gate_product_ready<BN(), Gate>(); });
    };
    if (fit)
      p.back ? ready(static_cast<const GateBackward<bf16>*>(nullptr))
             : ready(static_cast<const GateForward<bf16>*>(nullptr));
  }
  return fit;
}

/// Launches the kernel; `partial` has the parts of the gradients, back.
template <int BN, class Gate>
void launch_gate_product_kernel(const Gate& a, const GateProduct<bf16>& p, float* partial,
                                float* partial_rest) {
  hopper::GateProductCall<Gate> call;
  for (int i = 0; i < (p.back ? p.gates : 1); ++i)
    call.a[i] = tensor_map(p.a[i], p.rows, p.inner, 1, p.inner, 0, hopper::gate_product_rows);
  call.b = p.back ? tensor_map(p.b, p.inner, p.features, p.gates, p.features, p.inner * p.features, 64)
                  : tensor_map(p.b, p.features, p.inner, p.gates, p.inner, p.features * p.inner, BN);
  call.gate = a, call.made = p.made, call.partial = partial, call.partial_rest = partial_rest;
  call.steps = static_cast<int>((p.inner + hopper::gate_product_step - 1) / hopper::gate_product_step);
  const auto kernel = hopper::gate_product<BN, gate_product_experts, Gate>;
  allow_shared_bytes(kernel, hopper::gate_product_bytes<BN>);
  launch_clusters(true, 2, kernel, dim3(gate_product_blocks(p.rows), static_cast<unsigned>(p.gates)),
                  hopper::gate_product_threads, hopper::gate_product_bytes<BN>, call);
}

/// Of Cuda::gate_product_forward.
template <class T>
void launch_gate_product(const GateForward<T>& a, const GateProduct<T>& p) {
  if constexpr (std::is_same_v<T, bf16>)
    with_gate_product_columns<GateForward<T>>(
        p.features, [&](auto BN) { launch_gate_product_kernel<BN()>(a, p, nullptr, nullptr); });
}
/// Of Cuda::gate_product_backward.
template <class B, class T, class F>
void launch_gate_product(const GateBackward<T>& a, const GateProduct<T>& p, const F& beside) {
  if constexpr (std::is_same_v<T, bf16>)
    with_gate_product_columns<GateBackward<T>>(p.features, [&](auto BN) {
      constexpr int N = gate_product_experts, entries = quad * N;
      const unsigned blocks = gate_product_blocks(p.rows);
      const Index parts = static_cast<Index>(blocks) * p.gates;
      const Buffer<float, B> partial(parts * 32 * (entries + 1));
      float* const partial_rest = partial.data() + parts * 32 * entries;
      launch_gate_product_kernel<BN()>(a, p, partial.data(), partial_rest);
      gather_parts<B, N, 1>(a, partial.data(), partial_rest, blocks, beside);
    });
}

}  // namespace mole::detail
