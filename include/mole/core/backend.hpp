#pragma once
// What a backend must offer. A backend is a stateless struct of static functions over raw pointers; ops are
// written once against this list. Elementwise and row ops are functors, so a new op touches no backend.

#include <concepts>
#include <cstddef>

#include <mole/core/gemm.hpp>
#include <mole/core/scalar.hpp>
#include <mole/core/shape.hpp>

namespace mole {

enum class Reduction { sum, max };

namespace detail {
/// Stand-ins the concept checks the generic primitives with.
struct ProbeEach {
  MOLE_HD void operator()(Index) const {}
};
struct ProbeRow {
  template <class Row>
  MOLE_HD void operator()(const Row& row) const {
    row.each(1, [](Index) {});
  }
};
}  // namespace detail

/// The primitives by groups, so that an error can name what is missing.
namespace primitive {
template <class B>
concept Memory = requires(void* p, std::size_t bytes) {
  { B::name } -> std::convertible_to<const char*>;
  { B::allocate(bytes) } -> std::same_as<void*>;
  B::deallocate(p, bytes);
  B::synchronize();
};
template <class B, class T>
concept Transfer = requires(T* y, const T* x, Index n) {
  B::upload(y, x, n);
  B::download(y, x, n);
  B::copy(y, x, n);
};
template <class B>
concept Loops = requires(Index n) {
  B::for_each(n, detail::ProbeEach{});
  B::for_rows(n, n, detail::ProbeRow{});
};
template <class B, class T>
concept Reduce = requires(T* y, const T* x, Index n) {
  B::reduce(Reduction::sum, n, n, n, x, y);
};
template <class B, class T>
concept Gemm = requires(T* y, const T* x, const mole::Gemm& spec) {
  B::gemm(spec, x, x, y);
};
template <class B, class T>
concept ScatterAdd = requires(T* y, const T* x, const Index* index, Index n) {
  B::scatter_add(n, n, n, index, x, y);
};
}  // namespace primitive

/// The primitives. Pointers are device pointers unless named host; n counts elements.
/// - allocate(bytes) throws DeviceError naming the size; deallocate(p, bytes)
/// - upload(device, host, n), download(host, device, n), copy(to, from, n)
/// - for_each(n, f): f(i) for i in [0, n), in any order
/// - for_rows(rows, n, f): f(row) with row.index(), row.sum(n, g), row.max(n, g) over g(j) and
///   row.each(n, g), executed by however many threads the backend gives a row of about n elements
/// - reduce(op, outer, n, inner, x, y): y[o, i] = sum or max over j of x[o, j, i]
/// - gemm(spec, A, B, C)
/// - scatter_add(rows, n, width, index, x, y): y[index[r], :] += x[r, :], y has n rows; deterministic
/// A backend may also have queue(), device() and poison(p, bytes), which the buffer pool takes (core/buffer.hpp),
/// capturing(), whether work is recorded for a graph and not done, fork(work) and join() (core/branch.hpp),
/// for_chunks(rows, size, f) with chunk_rows and chunks_suit_products, for threads that are worth giving several steps
/// at a time (backends/cpu.hpp), and fused kernels (core/kernels/).
template <class B, class T>
concept Backend = primitive::Memory<B> && primitive::Transfer<B, T> && primitive::Loops<B> &&
    primitive::Reduce<B, T> && primitive::Gemm<B, T> && primitive::ScatterAdd<B, T>;

namespace detail {

/// Fails to compile, with the primitives' name in the first line, where B lacks some.
template <class B, class T>
constexpr void check_backend() {
  static_assert(primitive::Memory<B>,
                "mole: the backend B lacks name, allocate(bytes), deallocate(p, bytes) or synchronize()");
  static_assert(primitive::Transfer<B, T>,
                "mole: the backend B lacks upload(y, x, n), download(y, x, n) or copy(y, x, n)");
  static_assert(primitive::Loops<B>, "mole: the backend B lacks for_each(n, f) or for_rows(rows, n, f)");
  static_assert(primitive::Reduce<B, T>, "mole: the backend B lacks reduce(op, outer, n, inner, x, y)");
  static_assert(primitive::Gemm<B, T>, "mole: the backend B lacks gemm(spec, A, B, C)");
  static_assert(primitive::ScatterAdd<B, T>,
                "mole: the backend B lacks scatter_add(rows, n, width, index, x, y)");
}

}  // namespace detail

}  // namespace mole
