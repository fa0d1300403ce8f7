#pragma once
// Work that need not wait its turn, on backends that can do two things at once.

namespace mole {

/// A part of a thread's work that runs beside the rest of it, on a backend that has fork(work) and join():
/// fork returns false, and does nothing, where that would not pay. Only one goes on at a time.
template <class B>
class Branch {
 public:
  Branch() = default;
  Branch(const Branch&) = delete;
  Branch& operator=(const Branch&) = delete;
  /// Joins, as what the branch reads may be freed once it is gone.
  ~Branch() {
    try {
      join();
    } catch (...) {  // an error of the device that the next call meets too
    }
  }

  /// Queues work() beside what this thread queues until join(), and returns true; or does nothing and
  /// returns false. `work` takes and frees no memory, and what it reads and writes is left alone until
  /// join(). Throws what `work` throws.
  template <class F>
  bool begin(F work) {
    if constexpr (requires { B::fork(work); }) begun_ = B::fork(work);
    return begun_;
  }

  /// What this thread queues from now on comes after the branch's work. Nothing to do where none was begun.
  void join() {
    if constexpr (requires { B::join(); })
      if (begun_) B::join();
    begun_ = false;
  }

 private:
  bool begun_ = false;
};

}  // namespace mole
