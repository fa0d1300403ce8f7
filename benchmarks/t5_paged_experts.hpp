#pragma once
// t5_many_experts/1024/: the same T5 with 1024 experts of rank 8, gates of rank 32 and a top-k of 2: with all experts in
// memory, or on the CPU paged in from a folder, with as many in memory as make all pages hits, or nine in ten.
//
// The batch is the same at each step, and so are its experts, as the gates hardly learn. Of those of a layer, sorted,
// the first are dropped first: where a layer keeps nine tenths of what the batch asks for, one tenth is missed at each
// step.

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include <unistd.h>
#include <mole/io/expert_store.hpp>

#include "t5_many_experts.hpp"

namespace bench {

inline constexpr Index paged_experts = 1024;
inline const mole::GateOptions paged_gates{.top_k = 2, .gate_rank = 32};

/// A folder that goes when the program ends.
class TemporaryFolder {
 public:
  TemporaryFolder()
      : path(std::filesystem::temp_directory_path() / ("bench-mole-" + std::to_string(::getpid()))) {}
  TemporaryFolder(const TemporaryFolder&) = delete;
  ~TemporaryFolder() { std::filesystem::remove_all(path); }
  const std::filesystem::path path;
};

/// The experts, with digests to know their files by. Each benchmark has the same.
template <class T, class B>
std::vector<mole::LoraSet> known_experts(const mole::T5<T, B>& model) {
  const auto shapes = std::make_shared<std::map<std::string, std::pair<Index, mole::Shape>>>();
  for (const auto& slot : model.layers().table.slots)
    shapes->emplace(slot.name, std::pair(static_cast<Index>(shapes->size()), slot.shape));
  auto sets = random_experts(model, paged_experts, ManyExperts::r);
  for (std::size_t i = 0; i < sets.size(); ++i) {
    sets[i].digest = mole::message("random expert", i);
    sets[i].factors = [shapes, i](const std::string& name) {
      const auto& [number, shape] = shapes->at(name);
      // Streams that nothing else draws from.
      const auto own = (i + 1) * shapes->size() + static_cast<std::size_t>(number);
      generator.next_stream = (std::uint64_t{1} << 32) + 2 * own;
      return draw_lora(shape[0], shape[1], ManyExperts::r);
    };
  }
  return sets;
}

/// How many experts each layer keeps so that a share of the pages that a step asks for are in memory.
template <class T, class B>
Index resident_for(GateTraining<T, B>& training, double share) {
  mole::MolePass<T, B> pass;
  training.model.loss(training.batch, pass);
  const auto& mixer = training.model.mixer();
  std::vector<double> asked;  // by layer
  for (std::size_t slot = 0; slot < training.model.layers().table.slots.size(); ++slot) {
    const auto& listed = pass.used.at(mixer.gate_of(slot)).listed;
    asked.push_back(static_cast<double>(std::set<Index>(listed.begin(), listed.end()).size()));
  }
  const auto in_memory = [&](Index resident) {
    double all = 0, here = 0;
    for (const double n : asked) {
      all += n;
      here += std::min(n, static_cast<double>(resident));
    }
    return here / all;
  };
  Index resident = 1;
  while (resident < paged_experts && in_memory(resident) < share) ++resident;
  return resident;
}

/// The training with experts in memory (share < 0), or paged.
template <class T, class B>
GateTraining<T, B> make_paged(double share, bool prefetch) {
  static const TemporaryFolder folder;
  const auto paged = [&](Index resident) {
    generator = {.seed = 1};
    auto training = make_many_experts<T, B>([&](mole::T5<T, B>& model) {
      const auto sets = known_experts(model);
      const auto before = generator;
      if (resident == 0)
        model.attach(sets, paged_gates);
      else if constexpr (std::is_same_v<B, mole::Cpu>)
        model.attach(mole::open_experts<T>(sets, folder.path, {resident, prefetch}), paged_gates);
      generator = before;
    });
    training.rate = 1e-12;
    return training;
  };
  if (share < 0) return paged(0);
  auto all = paged(paged_experts);
  const Index resident = share < 1 ? resident_for(all, share) : paged_experts;
  return resident == paged_experts ? std::move(all) : paged(resident);
}

template <class T, class B>
void run_paged(benchmark::State& state, const std::string& name, double share, bool prefetch, bool graph) {
  auto& training = prepared(name, [&] { return make_paged<T, B>(share, prefetch); });
  const auto held = static_cast<double>(mole::buffer_stats<B>().in_use);
  const auto* const pages = training.model.mixer().pages();
  // The pages of the first step, at least, are not in memory.
  training.prepare();
  training.step();
  const auto before = pages ? pages->stats() : mole::PageStats();
  time_training(state, training, graph);
  state.counters["held_bytes"] = benchmark::Counter(held, {}, benchmark::Counter::kIs1024);
  if (!pages) return;
  const auto after = pages->stats();
  const auto count = [](std::size_t now, std::size_t then) { return static_cast<double>(now - then); };
  const double misses = count(after.misses, before.misses), waits = count(after.waits, before.waits);
  const double asked = count(after.hits, before.hits) + misses + waits;
  // Of the pages that the steps asked for, those that were read from the files, and those that a step waited for.
  state.counters["read"] = (misses + count(after.prefetched, before.prefetched)) / asked;
  state.counters["stalls"] = (misses + waits) / asked;
}

template <class T, class B>
void add_paged_experts() {
  const auto add_one = [](const std::string& way, double share, bool prefetch) {
    const std::string name = "t5_many_experts/1024/" + way;
    for (const bool graph : {false, true}) {
      if (graph && (!mole::has_graphs<B> || share >= 0)) continue;
      add(name + (graph ? "/graph" : ""),
          [=](benchmark::State& state) { run_paged<T, B>(state, name, share, prefetch, graph); });
    }
  };
  add_one("resident", -1, false);
  if constexpr (std::is_same_v<B, mole::Cpu>) {
    add_one("paged", 1, true);
    add_one("paged90", 0.9, true);
    add_one("paged90/no_prefetch", 0.9, false);
  }
}

}  // namespace bench
