#pragma once
// Tensor<T, B>: a cheap handle to a value on backend B and, where gradients are wanted, to its place on the
// tape.

#include <concepts>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include <mole/autodiff/node.hpp>
#include <mole/core/backend.hpp>
#include <mole/core/buffer.hpp>
#include <mole/core/error.hpp>
#include <mole/core/omp.hpp>
#include <mole/core/random.hpp>
#include <mole/core/shape.hpp>
#include <mole/core/transform.hpp>
#include <mole/fwd.hpp>

namespace mole {

namespace detail {

// On its own, so that the check in Tensor::node() stays small wherever it is inlined.
[[noreturn]] inline void no_value() {
  fail<ArgumentError>({"this tensor is undefined: it was never given a value"});
}
[[noreturn]] inline void place_alone() {
  fail<ArgumentError>(
      {"this tensor has no value: it is undefined, or the place() of one; a pullback that reads an input's value "
       "captures the input itself"});
}

}  // namespace detail

/// A contiguous row-major array of scalars T on backend B. Copies share the value and the gradient.
template <class T, class B>
class Tensor {
  static_assert(
      mole::Scalar<T> || std::same_as<T, Index>,
      "mole::Tensor<T, B>: T is no scalar; use float, double, mole::bf16, mole::half, or mole::Index "
      "for indices");

 public:
  using Scalar = T;
  using Device = B;

  /// Undefined: no value at all. A pullback returns it for an input that needs no gradient.
  Tensor() = default;
  // Defined below, outside the class: programs that link mole::compiled find them there.
  Tensor(const Tensor&);
  Tensor(Tensor&&) noexcept;
  Tensor& operator=(const Tensor&);
  Tensor& operator=(Tensor&&) noexcept;
  ~Tensor();

  /// A view of the whole of `buffer` in the given shape. Throws ShapeError if the sizes differ.
  Tensor(Shape shape, std::shared_ptr<Buffer<T, B>> buffer) {
    MOLE_CHECK_SHAPE(shape.size() == buffer->size(), "Tensor: shape", shape, "does not hold", buffer->size(),
                     "elements");
    node_ = std::make_shared<detail::Node<T, B>>();
    node_->shape = shape;
    buffer_ = std::move(buffer);
  }

  /// Uninitialised values. For code that writes every element next.
  static Tensor empty(Shape shape) {
    detail::check_backend<B, T>();
    return Tensor(shape, std::make_shared<Buffer<T, B>>(shape.size()));
  }

  static Tensor full(Shape shape, T value) {
    Tensor result = empty(shape);
    result.fill(value);
    return result;
  }
  static Tensor zeros(Shape shape) { return full(shape, T(0)); }
  static Tensor ones(Shape shape) { return full(shape, T(1)); }
  static Tensor scalar(T value) { return full({}, value); }

  /// The host values in row-major order. Throws ShapeError if their number is not shape.size().
  static Tensor from(Shape shape, std::span<const T> values) {
    MOLE_CHECK_SHAPE(shape.size() == static_cast<Index>(values.size()), "Tensor::from: shape", shape, "needs",
                     shape.size(), "values, got", values.size());
    Tensor result = empty(shape);
    B::upload(result.data(), values.data(), shape.size());
    if constexpr (is_index)
      result.node_->indices.host =
          std::shared_ptr<const std::vector<T>>(new std::vector<T>(values.begin(), values.end()));
    return result;
  }
  static Tensor from(Shape shape, const std::vector<T>& values) {
    return from(shape, std::span<const T>(values));
  }
  static Tensor from(Shape shape, std::initializer_list<T> values) {
    return from(shape, std::span<const T>(values.begin(), values.size()));
  }

  /// Independent normal values of mean 0 and the given standard deviation.
  static Tensor randn(Shape shape, RandomStream stream, Compute<T> deviation = 1) {
    return from(shape, normal_numbers<T>(shape.size(), stream, static_cast<double>(deviation)));
  }
  /// Independent values, uniform in [-bound, bound).
  static Tensor uniform(Shape shape, RandomStream stream, double bound) {
    std::vector<T> values(static_cast<std::size_t>(shape.size()));
    for (std::size_t i = 0; i < values.size(); ++i)
      values[i] = static_cast<T>((2 * mole::uniform(stream, static_cast<Index>(i)) - 1) * bound);
    return from(shape, values);
  }

  bool defined() const { return node_ != nullptr; }
  const Shape& shape() const { return node().shape; }
  int rank() const { return shape().rank(); }
  Index size() const { return shape().size(); }
  /// Extent of an axis; negative axes count from the end.
  Index size(int axis) const { return shape()[axis]; }

  /// Device pointer to the first element.
  T* data() const { return buffer()->data(); }
  const std::shared_ptr<Buffer<T, B>>& buffer() const {
    if (!buffer_) detail::place_alone();
    return buffer_;
  }

  /// The values on the host, in row-major order; waits for the device, unless they are indices that came from
  /// the host.
  std::vector<T> to_host() const {
    if constexpr (is_index)
      if (node().indices.host) return *node().indices.host;
    std::vector<T> values(static_cast<std::size_t>(size()));
    B::download(values.data(), data(), size());
    return values;
  }

  /// The value of a one-element tensor. Throws ShapeError for any other.
  T item() const {
    MOLE_CHECK_SHAPE(size() == 1, "item: expected one element, got", shape());
    T value;
    B::download(&value, data(), 1);
    return value;
  }

  /// Overwrites every element, outside the tape.
  void fill(T value) const {
    transform<B>(size(), functor::Constant<T>{value}, data());
    if constexpr (is_index) node().indices = {};
  }

  /// Overwrites the values by another tensor's, outside the tape. Throws ShapeError if the shapes differ, or
  /// if these were indices into something and a new one is outside it.
  void assign(const Tensor& other) const {
    MOLE_CHECK_SHAPE(shape() == other.shape(), "assign: expected", shape(), "got", other.shape());
    if constexpr (is_index) {
      const auto& known = node().indices;
      if (known.bound > 0) other.check_indices("assign", known.bound, known.besides);
      node().indices.host = other.node().indices.host;
    }
    B::copy(data(), other.data(), size());
  }

  /// For indices: makes sure that all of them are in [0, bound), or equal to `besides` if that is negative. A
  /// wild index must not read or write foreign memory. Values from the host are looked at there; others make
  /// the device wait, once. Throws ShapeError naming `op` and the first index that is not.
  void check_indices(const char* op, Index bound, Index besides = 0) const requires std::same_as<T, Index> {
    // clang 14 compiles this for any T where a whole class is instantiated.
    if constexpr (is_index) {
      auto& known = node().indices;
      if (known.bound > 0 && known.bound <= bound && (known.besides == besides || known.besides == 0)) return;
      const auto values = to_host();
      for (std::size_t i = 0; i < values.size(); ++i)
        MOLE_CHECK_SHAPE((values[i] >= 0 && values[i] < T(bound)) || (besides < 0 && values[i] == T(besides)),
                         op, ": index", values[i], "at position", i, "is outside [0,", bound, ")");
      known.bound = bound;
      known.besides = besides;
    }
  }

  /// Vouches that the indices an op has written are in [0, bound), or equal to `besides` if that is negative.
  void set_index_bound(Index bound, Index besides = 0) const requires std::same_as<T, Index> {
    if constexpr (is_index) node().indices = {nullptr, bound, besides};
  }

  /// A copy of the value, off the tape.
  Tensor clone() const {
    Tensor result = empty(shape());
    B::copy(result.data(), data(), size());
    return result;
  }

  /// The same value, off the tape.
  Tensor detach() const { return Tensor(shape(), buffer()); }

  bool requires_grad() const {
    if constexpr (is_index)
      return false;
    else
      return defined() && node_->requires_grad;
  }

  /// Marks a leaf whose gradient backward() collects. Throws ArgumentError for the result of a recorded op.
  Tensor& set_requires_grad(bool on = true) requires(!std::same_as<T, Index>) {
    MOLE_CHECK_ARG(node().inputs.empty(), "set_requires_grad: only a leaf can be marked, this is a result");
    node_->requires_grad = on;
    return *this;
  }

  /// The gradient that backward() left here; undefined if there is none.
  Tensor grad() const requires(!std::same_as<T, Index>) { return node().grad; }
  void set_grad(const Tensor& grad) const requires(!std::same_as<T, Index>) {
    MOLE_CHECK_SHAPE(!grad.defined() || grad.shape() == shape(), "set_grad: expected", shape(), "got",
                     grad.shape());
    node().grad = grad;
  }
  void zero_grad() const requires(!std::same_as<T, Index>) {
    node().grad = {};
  }

  /// This tensor without its value. A pullback captures it of an input that it does not read: the shape, whether a
  /// gradient is wanted and where it goes (GradTarget) are there, and the value is free to go. data() throws
  /// ArgumentError.
  Tensor place() const { return of_node(node_, nullptr); }

  /// For the tape; user code has no need of it.
  static Tensor of_node(std::shared_ptr<detail::Node<T, B>> node, std::shared_ptr<Buffer<T, B>> buffer) {
    Tensor result;
    result.node_ = std::move(node);
    result.buffer_ = std::move(buffer);
    return result;
  }
  const std::shared_ptr<detail::Node<T, B>>& node_pointer() const { return node_; }

 private:
  static constexpr bool is_index = std::same_as<T, Index>;

  detail::Node<T, B>& node() const {
    if (!node_) detail::no_value();
    return *node_;
  }

  std::shared_ptr<detail::Node<T, B>> node_;
  std::shared_ptr<Buffer<T, B>> buffer_;
};

template <class T, class B>
Tensor<T, B>::Tensor(const Tensor&) = default;
template <class T, class B>
Tensor<T, B>::Tensor(Tensor&&) noexcept = default;
template <class T, class B>
Tensor<T, B>& Tensor<T, B>::operator=(const Tensor&) = default;
template <class T, class B>
Tensor<T, B>& Tensor<T, B>::operator=(Tensor&&) noexcept = default;
template <class T, class B>
Tensor<T, B>::~Tensor() = default;

namespace detail {

/// Whether nobody else sees this gradient, so that it may be added to in place.
template <class T, class B>
bool sole_owner(const Tensor<T, B>& grad) {
  return grad.defined() && grad.buffer().use_count() == 1;
}

}  // namespace detail

}  // namespace mole
