// expect: the backend B lacks gemm\(spec, A, B, C\)
// A backend that lacks a primitive is named where a tensor is made on it, and so is the primitive.

#include <mole/autodiff/tensor.hpp>

struct NoGemm {
  static constexpr const char* name = "no_gemm";
  static void* allocate(std::size_t bytes);
  static void deallocate(void* block, std::size_t bytes) noexcept;
  static void synchronize();
  template <class T>
  static void upload(T* device, const T* host, mole::Index n);
  template <class T>
  static void download(T* host, const T* device, mole::Index n);
  template <class T>
  static void copy(T* to, const T* from, mole::Index n);
  template <class F>
  static void for_each(mole::Index n, F f);
  template <class F>
  static void for_rows(mole::Index rows, mole::Index n, F f);
  template <class T>
  static void reduce(mole::Reduction op, mole::Index outer, mole::Index n, mole::Index inner, const T* x,
                     T* y);
  template <class T>
  static void scatter_add(mole::Index rows, mole::Index n, mole::Index width, const mole::Index* index,
                          const T* x, T* y);
#ifdef MOLE_COMPILE_FAIL_OK
  template <class T>
  static void gemm(const mole::Gemm& spec, const T* a, const T* b, T* c);
#endif
};

int main() {
  const auto x = mole::Tensor<float, NoGemm>::empty({2});
  return x.defined();
}
