#pragma once
// Values that wait on the host for their pullbacks, so that a device holds few of them at a time (Rhu et al. 2016). A
// value leaves while its device works on, and comes back while the device works on the pullbacks before its own.
//
// A backend whose memory is not the host's may offer the class B::HostCopy, a copy of some bytes on the host:
//
//   HostCopy(const void* device, std::size_t bytes)  begins to copy what the thread's work so far leaves there
//   void begin_fetch(void* device)                   begins to copy it back, after the thread's work so far
//   void finish()     what the thread does from now on comes after the copy that was begun last
//   ~HostCopy()       returns once no copy is under way that finish() has not been called for
//
// On other backends, the CPU among them, values stay where they are.

#include <cstddef>
#include <memory>
#include <utility>

#include <mole/autodiff/tensor.hpp>
#include <mole/core/graph.hpp>

namespace mole {

namespace detail {

/// Whether a backend copies values to the host beside its other work.
template <class B>
constexpr bool has_host_copies = requires(void* device) {
  // clang 14 takes no member type in the list above for one that may be missing.
  std::declval<typename B::HostCopy&>().begin_fetch(device);
  std::declval<typename B::HostCopy&>().finish();
};

}  // namespace detail

/// One value that waits on the host.
template <class T, class B>
class OffloadedValue {
 public:
  /// Begins to copy x. `before` is the value that was put aside before it, and will be wanted after it.
  OffloadedValue(const Tensor<T, B>& x, std::weak_ptr<OffloadedValue> before)
      : shape_(x.shape()),
        value_(x.detach()),
        copy_(x.data(), static_cast<std::size_t>(x.size()) * sizeof(T)),
        before_(std::move(before)) {}

  /// Lets go of the value on the device.
  void let_go() {
    copy_.finish();
    value_ = {};
  }

  /// Begins to bring the value back, if it is not on the device or on its way.
  void fetch() {
    if (value_.defined()) return;
    const auto there = Tensor<T, B>::empty(shape_);
    copy_.begin_fetch(there.data());
    value_ = there;
  }

  /// The value on the device, for what this thread does from now on; the one before it is on its way then. May be called
  /// again.
  Tensor<T, B> take() {
    fetch();
    copy_.finish();
    const auto value = std::exchange(value_, {});
    if (const auto before = before_.lock()) before->fetch();
    return value;
  }

 private:
  Shape shape_;
  Tensor<T, B> value_;  // outlives the copy that is under way
  typename B::HostCopy copy_;
  std::weak_ptr<OffloadedValue> before_;
};

/// The values of one forward pass that wait on the host. The last one stays on the device as well: it is wanted first.
template <class T, class B>
class Offload {
 public:
  /// Values below `least_bytes` are not worth a copy.
  explicit Offload(std::size_t least_bytes = std::size_t{1} << 20) : least_bytes_(least_bytes) {}

  /// Puts x aside, to be taken before the one that was put aside last. Null where x stays on the device: where it is
  /// small, and while a graph is captured.
  std::shared_ptr<OffloadedValue<T, B>> put(const Tensor<T, B>& x) requires(detail::has_host_copies<B>) {
    if (static_cast<std::size_t>(x.size()) * sizeof(T) < least_bytes_ || detail::is_capturing<B>())
      return nullptr;
    const auto made = std::make_shared<OffloadedValue<T, B>>(x, last_);
    if (const auto before = last_.lock()) before->let_go();
    last_ = made;
    return made;
  }

 private:
  std::size_t least_bytes_;
  std::weak_ptr<OffloadedValue<T, B>> last_;
};

/// A value that a pullback will want, wherever it waits.
template <class T, class B>
class KeptValue {
 public:
  /// x may be undefined. `offload` may be null: x stays on the device.
  KeptValue(const Tensor<T, B>& x, [[maybe_unused]] Offload<T, B>* offload) {
    if (!x.defined()) return;
    if constexpr (detail::has_host_copies<B>) {
      if (offload) aside_ = offload->put(x);
      if (aside_) return;
    }
    value_ = x.detach();
  }

  /// The value, a leaf of its own; undefined where x was.
  Tensor<T, B> take() const {
    if constexpr (detail::has_host_copies<B>)
      if (aside_) return aside_->take();
    return value_.defined() ? value_.detach() : value_;
  }

 private:
  Tensor<T, B> value_;
  std::shared_ptr<OffloadedValue<T, B>> aside_;
};

}  // namespace mole
