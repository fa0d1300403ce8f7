#pragma once
// The CPU backend: Eigen for matrix products (through a BLAS where EIGEN_USE_BLAS is set), OpenMP for the
// rest. Every element is computed by one thread in a fixed order: results do not depend on scheduling.
// Of bf16 and half it makes float copies, computes with those and rounds the result once.

#include <algorithm>
#include <concepts>
#include <cstring>
#include <new>

#include <mole/backends/cpu_conv.hpp>
#include <mole/backends/cpu_exceptions.hpp>
#include <mole/backends/cpu_gemm.hpp>
#include <mole/backends/cpu_group_norm.hpp>
#include <mole/backends/cpu_row.hpp>
#include <mole/core/backend.hpp>
#include <mole/core/buffer.hpp>
#include <mole/core/error.hpp>
#include <mole/core/gemm.hpp>
#include <mole/core/omp.hpp>
#include <mole/core/transform.hpp>
#include <mole/fwd.hpp>

#ifdef _OPENMP
#  include <omp.h>
#endif

namespace mole {

/// Eigen and OpenMP. See Backend for what each primitive does.
struct Cpu {
  static constexpr const char* name = "cpu";

  /// Elements below which a loop is not worth a second thread.
  static constexpr Index grain = 8192;
  /// Of memory: a cache line, and the widest vector.
  static constexpr std::align_val_t alignment{64};
  /// Blocks from this many bytes on cost little to allocate, beside what is done with them.
  static constexpr std::size_t large_block = std::size_t{32} << 20;

  static void* allocate(std::size_t bytes) {
    void* const p = ::operator new(bytes, alignment, std::nothrow);
    MOLE_CHECK_AS(DeviceError, p != nullptr, "cpu: out of memory, asked for", bytes, "bytes");
    return p;
  }
  static void deallocate(void* p, std::size_t) noexcept { ::operator delete(p, alignment); }
  /// Every byte becomes 0xff.
  static void poison(void* p, std::size_t bytes) { std::memset(p, 0xff, bytes); }
  static void synchronize() {}

  template <class T>
  static void copy(T* to, const T* from, Index n) {
    if (n > 0) std::memcpy(to, from, static_cast<std::size_t>(n) * sizeof(T));
  }
  template <class T>
  static void upload(T* device, const T* host, Index n) {
    copy(device, host, n);
  }
  template <class T>
  static void download(T* host, const T* device, Index n) {
    copy(host, device, n);
  }

  /// What f throws is thrown again once the others are done.
  template <class F>
  static void for_each(Index n, F f) {
    constexpr Index size = grain / 4;
    [[maybe_unused]] const bool several = n > grain;
    detail::FirstException thrown;
    MOLE_OMP("omp parallel for schedule(static) if (several)")
    for (Index first = 0; first < n; first += size)
      detail::each_of(f, first, std::min(n, first + size), thrown);
    thrown.rethrow();
  }

  /// Exceptions as in for_each; none may leave a row's each(), sum() or max().
  template <class F>
  static void for_rows(Index rows, Index n, F f) {
    [[maybe_unused]] const bool several = rows > 1 && rows * n > grain;
    detail::FirstException thrown;
    MOLE_OMP("omp parallel for schedule(static) if (several)")
    for (Index r = 0; r < rows; ++r) {
      try {
        f(detail::CpuRow(r));
      } catch (...) {
        thrown.keep();
      }
    }
    thrown.rethrow();
  }

  /// Rows that one thread takes through several steps before the next ones, in for_chunks; all of them where they are
  /// so few that threads had better share each step. It depends on the number of rows alone, so that no bit depends on
  /// that of threads.
  static constexpr Index chunk_rows(Index rows) {
    return rows < 512 ? std::max<Index>(rows, 1) : rows < 1024 ? 128 : 256;
  }

  /// Whether a wide matrix product, too, is computed chunk by chunk: not for few rows, for which W would be laid out
  /// anew. Otherwise chunks are as large as the parts that gemm makes.
  static bool chunks_suit_products(Index size) { return size >= (detail::blas_lags() ? 256 : 128); }

  /// f(first, count) for each `size` rows, each by one thread, in which the primitives that f calls run without others;
  /// where there is one chunk alone, they share its work. A thread that waits for a processor holds up nobody but
  /// itself. Exceptions as in for_each.
  template <class F>
  static void for_chunks(Index rows, Index size, F f) {
    if (rows <= size) return rows > 0 ? f(Index{0}, rows) : void();
    detail::FirstException thrown;
    MOLE_OMP("omp parallel for schedule(dynamic)")
    for (Index first = 0; first < rows; first += size) {
      try {
        f(first, std::min(size, rows - first));
      } catch (...) {
        thrown.keep();
      }
    }
    thrown.rethrow();
  }

  template <class T>
  static void reduce(Reduction op, Index outer, Index n, Index inner, const T* x, T* y) {
    if constexpr (Narrow<T>) {
      const Buffer<float, Cpu> wide(outer * n * inner), result(outer * inner);
      transform<Cpu>(wide.size(), functor::Identity{}, wide.data(), x);
      reduce(op, outer, n, inner, wide.data(), result.data());
      transform<Cpu>(result.size(), functor::Identity{}, y, result.data());
    } else if (op == Reduction::sum)
      reduce_with(outer, n, inner, x, y, T(0), [](T a, T b) { return a + b; });
    else
      reduce_with(outer, n, inner, x, y, detail::minus_infinity<T>(),
                  [](T a, T b) { return is_nan(b) || (!is_nan(a) && b > a) ? b : a; });
  }

  template <class T>
  static void gemm(const Gemm& g, const T* a, const T* b, T* c) {
    const Index count = g.batch[0] * g.batch[1];
    if (count == 1) return gemm_one(g, a, b, c);
    // One may run out of memory.
    detail::FirstException thrown;
    MOLE_OMP("omp parallel for schedule(static) if (count * g.m * g.n * g.k > grain)")
    for (Index i = 0; i < count; ++i) {
      const Index i0 = i / g.batch[1], i1 = i % g.batch[1];
      try {
        // An empty operand has no address to go on from.
        gemm_one(g, a ? a + i0 * g.a_stride[0] + i1 * g.a_stride[1] : a,
                 b ? b + i0 * g.b_stride[0] + i1 * g.b_stride[1] : b,
                 c ? c + i0 * g.c_stride[0] + i1 * g.c_stride[1] : c);
      } catch (...) {
        thrown.keep();
      }
    }
    thrown.rethrow();
  }

  /// Of float and double, without patches. dW is a product of patches.
  template <std::floating_point T>
  static bool convolve(const Convolution<T>& work) {
    if (work.product == ConvProduct::weights) return false;
    if (work.product == ConvProduct::forward)
      detail::convolve_forward(work);
    else
      detail::convolve_pullback(work);
    return true;
  }

  template <std::floating_point T>
  static bool group_norm_forward(const GroupNormForward<T>& work) {
    detail::host_group_norm(work);
    return true;
  }
  template <std::floating_point T>
  static bool group_norm_backward(const GroupNormBackward<T>& work) {
    detail::host_group_norm_pullback(work);
    return true;
  }

  template <class T>
  static void scatter_add(Index rows, Index n, Index width, const Index* index, const T* x, T* y) {
    if constexpr (Narrow<T>) {
      const Buffer<float, Cpu> wide(n * width);
      transform<Cpu>(wide.size(), functor::Identity{}, wide.data(), y);
      scatter_columns(rows, width, index, x, wide.data());
      transform<Cpu>(wide.size(), functor::Identity{}, y, wide.data());
    } else {
      scatter_columns(rows, width, index, x, y);
    }
  }

 private:
  /// Threads share the columns, not the rows: repeated indices need no atomics and sum in a fixed order.
  template <class T, class U>
  static void scatter_columns(Index rows, Index width, const Index* index, const T* x, U* y) {
    constexpr Index chunk = 16;
    const Index chunks = (width + chunk - 1) / chunk;
    MOLE_OMP("omp parallel for schedule(static) if (rows * width > grain)")
    for (Index block = 0; block < chunks; ++block) {
      const Index first = block * chunk, last = std::min(width, first + chunk);
      for (Index r = 0; r < rows; ++r)
        for (Index j = first; j < last; ++j) y[index[r] * width + j] += static_cast<U>(x[r * width + j]);
    }
  }

  /// Partial results cover fixed blocks, whatever the number of threads.
  template <class T, class F>
  static void reduce_with(Index outer, Index n, Index inner, const T* x, T* y, T start, F combine) {
    constexpr Index lanes = 64;
    const Index blocks = (inner + lanes - 1) / lanes;
    MOLE_OMP(
        "omp parallel for collapse(2) schedule(static) if (outer * blocks > 1 && outer * n * inner > grain)")
    for (Index o = 0; o < outer; ++o)
      for (Index block = 0; block < blocks; ++block) {
        const Index first = block * lanes, width = std::min(lanes, inner - first);
        const T* from = x + o * n * inner + first;
        T* to = y + o * inner + first;
        if (width == 1) {
          to[0] = reduce_column(n, inner, from, start, combine);
          continue;
        }
        for (Index j = 0; j < width; ++j) to[j] = start;
        for (Index i = 0; i < n; ++i) {
          MOLE_OMP("omp simd")
          for (Index j = 0; j < width; ++j) to[j] = combine(to[j], from[i * inner + j]);
        }
      }
  }

  /// Halves down to blocks of 1024 (pairwise summation): a float sum of millions keeps its digits.
  template <class T, class F>
  static T reduce_column(Index n, Index stride, const T* x, T start, F combine) {
    if (n <= 1024)
      return detail::fold(
          n, start, [=](Index i) { return x[i * stride]; }, combine);
    const Index front = n / 2;
    return combine(reduce_column(front, stride, x, start, combine),
                   reduce_column(n - front, stride, x + front * stride, start, combine));
  }

  template <class T>
  static void gemm_one(const Gemm& g, const T* a, const T* b, T* c) {
    if constexpr (Narrow<T>)
      wide_gemm(g, a, b, c);
    else
      gemm_in_parts(g, a, b, c);
  }

  /// Threads share the rows or the columns of C, whichever are more. The cuts depend on the shape alone, and inside
  /// a parallel region a BLAS that uses OpenMP computes in one thread: so the bits are the same for any number of
  /// threads, which those of a BLAS with threads of its own are not. Products up to a size that OpenBLAS leaves to
  /// one thread are not cut.
  template <class T>
  static void gemm_in_parts(const Gemm& g, const T* a, const T* b, T* c) {
    constexpr Index whole = Index{1} << 18;
    if (g.m * g.n * g.k <= whole) return detail::host_gemm(g, a, b, c);
    const bool rows = g.m >= g.n;
    const Index extent = rows ? g.m : g.n;
    const Index size = part_size(extent), parts = (extent + size - 1) / size;
    detail::FirstException thrown;
    MOLE_OMP("omp parallel for schedule(dynamic)")
    for (Index i = 0; i < parts; ++i) {
      const Index first = i * size;
      Gemm part = g;
      (rows ? part.m : part.n) = std::min(size, extent - first);
      try {
        if (rows)
          detail::host_gemm(part, a + first * (g.transpose_a ? 1 : g.lda), b, c + first * g.ldc);
        else
          detail::host_gemm(part, a, b + first * (g.transpose_b ? g.ldb : 1), c + first);
      } catch (...) {
        thrown.keep();
      }
    }
    thrown.rethrow();
  }

  /// Our own product has the same bits whichever way it is cut: so that each thread has a part, and several of a large
  /// product, whose threads need not wait long for one without a processor.
  static Index part_size(Index extent) {
    if (!detail::blas_lags()) return extent >= 1024 ? 256 : extent >= 256 ? 128 : 64;
#ifdef _OPENMP
    const Index threads = omp_in_parallel() ? 1 : omp_get_max_threads();
#else
    const Index threads = 1;
#endif
    return std::clamp<Index>((extent + threads - 1) / threads, 64, 256);
  }

  template <class T>
  static void wide_gemm(const Gemm& g, const T* a, const T* b, T* c) {
    const Index a_rows = g.transpose_a ? g.k : g.m, a_columns = g.transpose_a ? g.m : g.k;
    const Index b_rows = g.transpose_b ? g.n : g.k, b_columns = g.transpose_b ? g.k : g.n;
    const Buffer<float, Cpu> A(a_rows * a_columns), B(b_rows * b_columns), C(g.m * g.n);
    for_rows(a_rows, a_columns, detail::ConvertRow<float, T>{A.data(), a, a_columns, a_columns, g.lda});
    for_rows(b_rows, b_columns, detail::ConvertRow<float, T>{B.data(), b, b_columns, b_columns, g.ldb});
    if (g.beta != 0) for_rows(g.m, g.n, detail::ConvertRow<float, T>{C.data(), c, g.n, g.n, g.ldc});
    Gemm wide = g;
    wide.lda = a_columns;
    wide.ldb = b_columns;
    wide.ldc = g.n;
    gemm_one(wide, A.data(), B.data(), C.data());
    for_rows(g.m, g.n, detail::ConvertRow<T, float>{c, C.data(), g.n, g.ldc, g.n});
  }
};

static_assert(Backend<Cpu, float> && Backend<Cpu, double> && Backend<Cpu, bf16> && Backend<Cpu, half>);

}  // namespace mole
