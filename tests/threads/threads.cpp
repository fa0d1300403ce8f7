// What several threads may do at once (include/mole/README.md, "Threads and files"), run by several threads at once.
// Built with ThreadSanitizer, which reports each access that is not ordered. OMP_NUM_THREADS=1: it does not know
// OpenMP's own barriers.

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include <unistd.h>

#include <mole/autodiff/backward.hpp>
#include <mole/backends/cpu.hpp>
#include <mole/experts/mole_linear.hpp>
#include <mole/io/lora_set.hpp>
#include <mole/io/save_lora_set.hpp>
#include <mole/ops/activation.hpp>
#include <mole/ops/reduce.hpp>
#include <mole/optim/adamw.hpp>

namespace {

using mole::Index;
using Real = mole::Tensor<float, mole::Cpu>;
using Layer = mole::MoleLinear<float, mole::Cpu>;

constexpr Index width = 24, rank = 2;

std::vector<mole::LoraFactors> experts_of(const mole::LoraSet& set) {
  std::vector<mole::LoraFactors> experts;
  for (const auto& slot : set.slots) experts.push_back(set.factors(slot));
  return experts;
}

mole::LoraSet random_set() {
  mole::LoraSet set{"set", "digest", {"a.q", "a.k", "a.v"}, {}};
  set.factors = [](const std::string& slot) {
    using Matrix = mole::Tensor<double, mole::Cpu>;
    const auto seed = static_cast<std::uint64_t>(slot.back());
    return mole::LoraFactors{rank,
                             width,
                             width,
                             0.5,
                             Matrix::randn({rank, width}, {seed, 1}).to_host(),
                             Matrix::randn({width, rank}, {seed, 2}).to_host()};
  };
  return set;
}

/// A gate trained for some steps on weights and an input that all threads read: the gate's numbers.
std::vector<float> train(const Real& W, const Real& x, const mole::LoraSet& set) {
  Layer layer(W, {}, experts_of(set), mole::GateOptions{.pooling = mole::Pooling::token});
  auto parameters = layer.parameters();
  mole::AdamW<float, mole::Cpu> optimizer(parameters, {});
  for (int step = 0; step < 5; ++step) {
    optimizer.zero_grad();
    mole::backward(mole::mean(mole::square(layer(x).y)));
    optimizer.step(0.05);
  }
  return layer.gate().weight.to_host();
}

}  // namespace

int main() {
  const auto folder = std::filesystem::temp_directory_path() / ("mole-threads-" + std::to_string(::getpid()));
  const auto W = Real::randn({width, width}, {1, 1}), x = Real::randn({3, 5, width}, {2, 1});
  const auto own = random_set();
  mole::save_lora_set<double>(folder / "adapter", own, {}, mole::Dtype::F64);
  // One adapter, and the factors in its mapped file, for all threads.
  const auto shared = mole::lora_set(mole::load_adapter(folder / "adapter"));
  const auto expected = train(W, x, shared);

  std::atomic<int> failures = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t)
    threads.emplace_back([&, t] {
      try {
        // Each trains gates of its own on what is shared, in a tape of its own ..
        if (train(W, x, shared) != expected) ++failures;
        // .. reads the same file, writes one of its own, and replaces one that the others replace too ..
        const auto again = mole::lora_set(mole::load_adapter(folder / "adapter"));
        mole::save_lora_set<double>(folder / std::to_string(t), again, {}, mole::Dtype::F64);
        mole::write_atomically(folder / "common", std::string(1000, static_cast<char>('a' + t)));
        // .. and runs the same layer forward.
        const mole::NoGrad off;
        if (mole::sum(mole::linear(x, W)).item() != mole::sum(mole::linear(x, W)).item()) ++failures;
      } catch (const std::exception& error) {
        std::printf("%s\n", error.what());
        ++failures;
      }
    });
  for (auto& thread : threads) thread.join();
  std::size_t left = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    left += entry.path().extension() == ".tmp";
  if (left > 0) ++failures;
  std::filesystem::remove_all(folder);
  if (failures > 0) std::printf("%d failures\n", failures.load());
  return failures == 0 ? 0 : 1;
}
