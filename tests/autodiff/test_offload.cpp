// Checkpointed inputs that wait on the host, with a stand-in for a device whose copies take their time.

#include <doctest/doctest.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include <mole/mole.hpp>

#include "autodiff/tape.hpp"
#include "testing.hpp"

using namespace mole;
using namespace mole::testing;

namespace {

/// What copies have done, in order.
std::vector<std::string>& copy_log() {
  static std::vector<std::string> log;
  return log;
}

/// The CPU as a device of its own. A copy reads and writes as late as it may: when it is waited for. Until then what it
/// will write is NaN.
struct FarDevice : Cpu {
  static constexpr const char* name = "far";

  class HostCopy {
   public:
    HostCopy(const void* device, std::size_t size) : host_(size), from_(device) {
      copy_log().push_back("leaves");
    }
    HostCopy(const HostCopy&) = delete;
    HostCopy& operator=(const HostCopy&) = delete;
    ~HostCopy() {
      if (from_ || to_) copy_log().push_back("given up");
      finish();
    }
    void begin_fetch(void* device) {
      finish();
      copy_log().push_back("comes");
      std::memset(to_ = device, 0xff, host_.size());
    }
    void finish() {
      if (from_) std::memcpy(host_.data(), from_, host_.size());
      if (to_) std::memcpy(to_, host_.data(), host_.size());
      from_ = nullptr;
      to_ = nullptr;
    }

   private:
    std::vector<char> host_;
    const void* from_ = nullptr;
    void* to_ = nullptr;
  };
};

template <class B>
using FarValue = Tensor<double, B>;
template <class B>
using FarList = std::vector<Tensor<double, B>>;

constexpr int n_parts = 6;
constexpr Index far_rows = 64, far_width = 64;
constexpr std::size_t far_bytes = sizeof(double) * far_rows * far_width;

template <class B>
std::size_t held_bytes() {
  return buffer_stats<B>().in_use;
}

/// A chain of parts, each of them run again on the way back. `seen` hears of each run.
template <class B>
FarValue<B> chain_of_parts(
    const FarValue<B>& x, const FarValue<B>& W, const std::shared_ptr<Offload<double, B>>& offload,
    const std::function<void()>& seen = [] {}) {
  auto y = x;
  for (int i = 0; i < n_parts; ++i)
    y = checkpoint<double, B>(
            {y}, {W},
            [W, seen](const FarList<B>& in) {
              seen();
              return FarList<B>{tanh(linear(tanh(linear(in[0], W)), W))};
            },
            offload)
            .front();
  return y;
}

template <class B>
FarValue<B> far_numbers(const Shape& shape, std::uint64_t stream) {
  return FarValue<B>::randn(shape, {4711, stream}, 0.2);
}

template <class B>
std::shared_ptr<Offload<double, B>> far_offload() {
  return std::make_shared<Offload<double, B>>(far_bytes);
}

}  // namespace

TEST_CASE("Inputs that wait on the host give the gradients of those that stay, bit for bit") {
  std::vector<double> gradients[2];
  for (const bool away : {false, true}) {
    auto x = far_numbers<FarDevice>({far_rows, far_width}, 1),
         W = far_numbers<FarDevice>({far_width, far_width}, 2);
    x.set_requires_grad();
    W.set_requires_grad();
    backward(sum(square(chain_of_parts<FarDevice>(x, W, away ? far_offload<FarDevice>() : nullptr))));
    gradients[away] = doubles(x.grad());
    const auto of_W = doubles(W.grad());
    gradients[away].insert(gradients[away].end(), of_W.begin(), of_W.end());
  }
  CHECK(gradients[0] == gradients[1]);
}

TEST_CASE("Of a chain of parts the device holds the last input alone, and two while one is on its way back") {
  auto x = far_numbers<FarDevice>({far_rows, far_width}, 1),
       W = far_numbers<FarDevice>({far_width, far_width}, 2);
  x.set_requires_grad();
  const auto before = held_bytes<FarDevice>();
  const auto kept = [&](const std::shared_ptr<Offload<double, FarDevice>>& offload) {
    const auto y = sum(chain_of_parts<FarDevice>(x, W, offload));
    return held_bytes<FarDevice>() - before;
  };
  CHECK(kept(nullptr) >= (n_parts - 1) * far_bytes);
  CHECK(kept(far_offload<FarDevice>()) <= far_bytes + 4096);
  CHECK(held_bytes<FarDevice>() == before);

  std::size_t peak[2];
  for (const bool away : {false, true}) {
    auto y = sum(chain_of_parts<FarDevice>(x, W, away ? far_offload<FarDevice>() : nullptr));
    BufferPool<FarDevice>::instance().reset_peak();
    backward(y);
    peak[away] = buffer_stats<FarDevice>().peak;
    x.zero_grad();
  }
  CHECK(peak[1] + 3 * far_bytes <= peak[0]);
  CHECK(held_bytes<FarDevice>() == before);
}

TEST_CASE("An input is on its way back while the part after it runs again") {
  auto x = far_numbers<FarDevice>({far_rows, far_width}, 1);
  const auto W = far_numbers<FarDevice>({far_width, far_width}, 2);
  x.set_requires_grad();
  copy_log().clear();
  const auto y =
      sum(chain_of_parts<FarDevice>(x, W, far_offload<FarDevice>(), [] { copy_log().push_back("runs"); }));
  std::vector<std::string> expected;
  for (int i = 0; i < n_parts; ++i) expected.insert(expected.end(), {"leaves", "runs"});
  CHECK(copy_log() == expected);
  copy_log().clear();
  backward(y);
  expected.clear();
  for (int i = 1; i < n_parts; ++i) expected.insert(expected.end(), {"comes", "runs"});
  expected.push_back("runs");  // the first part: nothing is left to come
  CHECK(copy_log() == expected);
}

TEST_CASE("Values that are small stay, and so do all where no gradient is wanted") {
  copy_log().clear();
  auto x = far_numbers<FarDevice>({far_rows, far_width}, 1);
  const auto W = far_numbers<FarDevice>({far_width, far_width}, 2);
  chain_of_parts<FarDevice>(x, W, far_offload<FarDevice>());
  x.set_requires_grad();
  backward(sum(chain_of_parts<FarDevice>(x, W, std::make_shared<Offload<double, FarDevice>>(far_bytes + 1))));
  CHECK(copy_log().empty());
}

TEST_CASE("Outputs of one part that are read back one after the other bring its input back each time") {
  std::vector<double> gradients[2];
  for (const bool away : {false, true}) {
    auto x = far_numbers<FarDevice>({far_rows, far_width}, 1);
    x.set_requires_grad();
    const auto offload = away ? far_offload<FarDevice>() : nullptr;
    const auto out = checkpoint<double, FarDevice>(
        {x}, {},
        [](const FarList<FarDevice>& in) {
          return FarList<FarDevice>{tanh(in[0]), exp(in[0])};
        },
        offload);
    const auto later =
        chain_of_parts<FarDevice>(x, far_numbers<FarDevice>({far_width, far_width}, 2), offload);
    backward(sum(out[0]));
    backward(sum(out[1]));
    backward(sum(later));
    gradients[away] = doubles(x.grad());
  }
  CHECK(gradients[0] == gradients[1]);
}

TEST_CASE("A graph that is dropped waits for the copies that are under way") {
  auto x = far_numbers<FarDevice>({far_rows, far_width}, 1);
  x.set_requires_grad();
  const auto before = held_bytes<FarDevice>();
  copy_log().clear();
  {
    const auto y = chain_of_parts<FarDevice>(x, far_numbers<FarDevice>({far_width, far_width}, 2),
                                             far_offload<FarDevice>());
  }
  CHECK(copy_log().back() == "given up");
  CHECK(held_bytes<FarDevice>() == before);
}

TEST_CASE("On a backend without copies to the host inputs stay where they are") {
  std::vector<double> gradients[2];
  for (const bool away : {false, true}) {
    auto x = far_numbers<Cpu>({far_rows, far_width}, 1);
    x.set_requires_grad();
    backward(sum(chain_of_parts<Cpu>(x, far_numbers<Cpu>({far_width, far_width}, 2),
                                     away ? far_offload<Cpu>() : nullptr)));
    gradients[away] = doubles(x.grad());
  }
  CHECK(gradients[0] == gradients[1]);
}
