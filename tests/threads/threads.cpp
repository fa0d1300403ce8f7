// What several threads may do at once (include/mole/README.md, "Threads"), run by several threads at once.
// Built with ThreadSanitizer, which reports each access that is not ordered. OMP_NUM_THREADS=1: it does not know
// OpenMP's own barriers.

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <unistd.h>

#include <mole/autodiff/backward.hpp>
#include <mole/backends/cpu.hpp>
#include <mole/experts/expert_pages.hpp>
#include <mole/experts/mole_linear.hpp>
#include <mole/io/expert_store.hpp>
#include <mole/io/gates.hpp>
#include <mole/io/lora_set.hpp>
#include <mole/io/safetensors.hpp>
#include <mole/io/save_lora_set.hpp>
#include <mole/models/generate.hpp>
#include <mole/models/t5/model.hpp>
#include <mole/ops/activation.hpp>
#include <mole/ops/reduce.hpp>
#include <mole/optim/adamw.hpp>

namespace {

using mole::Index;
using Real = mole::Tensor<float, mole::Cpu>;
using Layer = mole::MoleLinear<float, mole::Cpu>;
using Model = mole::T5<float, mole::Cpu>;
using Tokens = mole::Tensor<Index, mole::Cpu>;

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

/// The first numbers of the pages that are taken in some rounds, each read ahead by the pages' own thread or not.
std::vector<float> page_numbers(mole::ExpertPages<float, mole::Cpu>& pages) {
  std::vector<float> found;
  for (Index round = 0; round < 40; ++round) {
    const std::vector<Index> experts{round % 4, (round + 1) % 4};
    if (round % 3 == 0) pages.prefetch(1 - round % 2, experts);
    for (const auto& page : pages.take(round % 2, experts)) found.push_back(page.to_host().front());
  }
  return found;
}

/// Stored experts at two slots, of which two a slot stay in memory.
std::unique_ptr<mole::ExpertPages<float, mole::Cpu>> stored_pages(const std::filesystem::path& folder) {
  std::vector<mole::LoraSet> sets;
  for (const std::string name : {"a", "b", "c", "d"}) {
    auto set = random_set();
    set.name = set.digest = name;
    set.factors = [own = set.factors, name](const std::string& slot) { return own(slot + name); };
    sets.push_back(std::move(set));
  }
  const auto experts = mole::open_experts<float>(sets, folder);
  auto pages = std::make_unique<mole::ExpertPages<float, mole::Cpu>>(experts.factors,
                                                                     mole::PagingOptions{.resident = 2});
  pages->add_slot(0, "a.q", width, width, rank);
  pages->add_slot(1, "a.k", width, width, rank);
  return pages;
}

/// A small T5 with two experts on every layer that takes them.
Model small_model() {
  mole::T5Config config;
  config.vocab_size = 11;
  config.d_model = 6;
  config.d_kv = 3;
  config.d_ff = 7;
  config.num_heads = 2;
  config.num_layers = config.num_decoder_layers = 1;
  config.relative_attention_num_buckets = 8;
  config.relative_attention_max_distance = 16;
  Model model(config);
  mole::Generator generator{42};
  model.initialize(generator);
  std::vector<mole::LoraSet> experts;
  for (const std::uint64_t seed : {5, 6}) {
    mole::LoraSet set{"expert " + std::to_string(seed), "digest " + std::to_string(seed), {}, {}};
    std::map<std::string, mole::LoraFactors> factors;
    for (const auto& slot : model.layers().table.slots) {
      const Index in = slot.weight.size(1), out = slot.weight.size(0);
      set.slots.push_back(slot.name);
      factors[slot.name] = {rank,
                            in,
                            out,
                            0.5,
                            mole::Tensor<double, mole::Cpu>::randn({rank, in}, {seed, 1}).to_host(),
                            mole::Tensor<double, mole::Cpu>::randn({out, rank}, {seed, 2}).to_host()};
    }
    set.factors = [factors](const std::string& slot) { return factors.at(slot); };
    experts.push_back(std::move(set));
  }
  model.attach(experts, mole::GateOptions{.scope = mole::Scope::block});
  return model;
}

/// A loss on the tape, one off it, and what the model writes, each in a pass of its own.
struct Answers {
  float on_tape, off_tape;
  std::vector<std::vector<Index>> written;

  explicit Answers(const Model& model) {
    const mole::T5Batch<float, mole::Cpu> batch{Tokens::from({2, 4}, {5, 3, 9, 1, 7, 1, 0, 0}),
                                                Real::from({2, 4}, {1, 1, 1, 1, 1, 1, 0, 0}),
                                                Tokens::from({2, 3}, {4, 8, 1, 2, 1, -100})};
    mole::MolePass<float, mole::Cpu> first, second, third;
    on_tape = model.loss(batch, first).item();
    const mole::NoGrad off;
    off_tape = model.loss(batch, second).item();
    written = mole::generate(model, batch.input(), third, {.max_new_tokens = 3});
  }
  bool operator==(const Answers&) const = default;
};

/// All numbers of a file's tensors, added up.
double sum_of(const mole::SafetensorsFile& file) {
  double total = 0;
  for (const auto& name : file.names())
    for (const float value : file.read<float>(name)) total += static_cast<double>(value);
  return total;
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

  // One model, and its gates in a mapped file.
  const auto model = small_model();
  const Answers expected_answers(model);
  mole::save_gates(folder / "gates.safetensors", model.mixer());
  const auto gates = mole::read_gates(folder / "gates.safetensors");
  const double expected_sum = sum_of(*gates.stored);

  const auto pages = stored_pages(folder);
  const auto expected_pages = page_numbers(*pages);

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
        // .. takes pages that all threads share, and another thread reads ahead, ..
        if (page_numbers(*pages) != expected_pages) ++failures;
        // .. and runs the same model forward, and lets it write, while all read the file of its gates.
        for (int i = 0; i < 3; ++i) {
          if (!(Answers(model) == expected_answers)) ++failures;
          if (sum_of(*gates.stored) != expected_sum) ++failures;
        }
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
