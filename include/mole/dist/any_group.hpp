#pragma once
// A group whose kind is known only when the program runs: one process, several by MPI, threads.

#include <concepts>
#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include <mole/dist/communicator.hpp>

namespace mole::dist {

/// Any Communicator; by default a SelfGroup.
class AnyGroup {
 public:
  AnyGroup() : AnyGroup(SelfGroup()) {}
  template <class G>
  requires(!std::same_as<G, AnyGroup> && Communicator<G>) AnyGroup(G group)
      : group_(std::make_shared<const Of<G>>(std::move(group))) {}

  int rank() const { return group_->rank(); }
  int size() const { return group_->size(); }
  void all_reduce_sum(float* x, Index n) const { group_->sum(x, n); }
  void all_reduce_sum(double* x, Index n) const { group_->sum(x, n); }
  template <class T>
  void all_gather(const T* mine, Index n, T* all) const {
    group_->gather(reinterpret_cast<const char*>(mine), n * bytes<T>, reinterpret_cast<char*>(all));
  }
  template <class T>
  void broadcast(T* x, Index n, int root) const {
    group_->spread(reinterpret_cast<char*>(x), n * bytes<T>, root);
  }
  void barrier() const { group_->barrier(); }
  /// Throws PeerFailed where the group is known to have ended; does not wait.
  void check() const { group_->check(); }

  bool sums_on(std::string_view backend) const { return group_->sums_on(backend); }
  void device_sums(const std::vector<Piece<float>>& pieces) const { group_->sums(pieces); }
  void device_sums(const std::vector<Piece<double>>& pieces) const { group_->sums(pieces); }
  void device_gather(const float* mine, Index n, float* all) const { group_->gather_there(mine, n, all); }
  void device_gather(const double* mine, Index n, double* all) const { group_->gather_there(mine, n, all); }

 private:
  template <class T>
  static constexpr Index bytes = static_cast<Index>(sizeof(T));

  struct Base {
    virtual ~Base() = default;
    virtual int rank() const = 0;
    virtual int size() const = 0;
    virtual void sum(float* x, Index n) const = 0;
    virtual void sum(double* x, Index n) const = 0;
    virtual void gather(const char* mine, Index n, char* all) const = 0;
    virtual void spread(char* x, Index n, int root) const = 0;
    virtual void barrier() const = 0;
    virtual void check() const = 0;
    virtual bool sums_on(std::string_view backend) const = 0;
    virtual void sums(const std::vector<Piece<float>>& pieces) const = 0;
    virtual void sums(const std::vector<Piece<double>>& pieces) const = 0;
    virtual void gather_there(const float* mine, Index n, float* all) const = 0;
    virtual void gather_there(const double* mine, Index n, double* all) const = 0;
  };

  template <class G>
  struct Of final : Base {
    explicit Of(G own) : group(std::move(own)) {}
    int rank() const override { return group.rank(); }
    int size() const override { return group.size(); }
    void sum(float* x, Index n) const override { group.all_reduce_sum(x, n); }
    void sum(double* x, Index n) const override { group.all_reduce_sum(x, n); }
    void gather(const char* mine, Index n, char* all) const override { group.all_gather(mine, n, all); }
    void spread(char* x, Index n, int root) const override { group.broadcast(x, n, root); }
    void barrier() const override { group.barrier(); }
    void check() const override {
      if constexpr (requires { group.check(); }) group.check();
    }
    bool sums_on(std::string_view backend) const override {
      if constexpr (DeviceCommunicator<G>) return group.sums_on(backend);
      return false;
    }
    void sums(const std::vector<Piece<float>>& pieces) const override { sum_there(pieces); }
    void sums(const std::vector<Piece<double>>& pieces) const override { sum_there(pieces); }
    void gather_there(const float* mine, Index n, float* all) const override { gather_of(mine, n, all); }
    void gather_there(const double* mine, Index n, double* all) const override { gather_of(mine, n, all); }

    template <class T>
    void sum_there(const std::vector<Piece<T>>& pieces) const {
      if constexpr (DeviceCommunicator<G>)
        group.device_sums(pieces);
      else
        no_device();
    }
    template <class T>
    void gather_of(const T* mine, Index n, T* all) const {
      if constexpr (DeviceCommunicator<G>)
        group.device_gather(mine, n, all);
      else
        no_device();
    }
    G group;
  };

  [[noreturn]] static void no_device() {
    throw ArgumentError("this group sums on the host alone: ask sums_on() first");
  }

  std::shared_ptr<const Base> group_;
};

static_assert(DeviceCommunicator<AnyGroup>);

}  // namespace mole::dist
