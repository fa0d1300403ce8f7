// write_merged GOLDEN OUT: merges the adapters of a golden T5 by every method of compose() and writes each
// result for PEFT, as OUT/METHOD.f32 and OUT/METHOD.f64. OUT/logits.safetensors has this library's logits,
// all in float64: METHOD with the result merged, METHOD.f32 and METHOD.f64 with what was written read back
// and merged. tests/data/check_merged_with_peft.py compares them with PEFT's.

#include <algorithm>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include <mole/backends/cpu.hpp>
#include <mole/compose/compose.hpp>
#include <mole/io/lora_set.hpp>
#include <mole/io/save_lora_set.hpp>
#include <mole/models/t5/checkpoint.hpp>

namespace {

namespace fs = std::filesystem;
using mole::Index;

// The first rows of A and columns of B of each slot: an adapter of that rank with the scales it had.
mole::LoraSet leading(const mole::LoraSet& set, Index rank) {
  auto cut = set;
  cut.factors = [factors = set.factors, rank](const std::string& slot) {
    auto lora = factors(slot);
    lora.A.resize(static_cast<std::size_t>(rank * lora.d_in));
    std::vector<double> B;
    for (Index row = 0; row < lora.d_out; ++row) {
      const auto begin = lora.B.begin() + row * lora.rank;
      B.insert(B.end(), begin, begin + rank);
    }
    lora.B = std::move(B);
    lora.rank = rank;
    return lora;
  };
  return cut;
}

bool takes_any_ranks(const std::string& method) {
  return method.ends_with("svd") || method == "sum" || method == "cat" || method == "linear" ||
         method == "normalised" || method == "pems_negate";
}

mole::LoraSet merged(const std::string& method, std::vector<mole::LoraSet> sets) {
  // The rank that all the adapters have in all their slots.
  if (!takes_any_ranks(method))
    for (auto& set : sets) set = leading(set, 2);
  if (method == "pems_negate") sets.resize(1);
  if (method == "pems_subtract") sets.resize(2);
  mole::ComposeOptions options;
  options.weights = {0.6, -0.3, 0.8};
  options.weights.resize(sets.size());
  options.density = 0.4;
  return mole::compose(method, sets, options);
}

void write_merged(const fs::path& golden, const fs::path& out) {
  using B = mole::Cpu;
  std::vector<mole::LoraSet> sets;
  mole::LoraConfig like;
  for (const std::string name : {"adapter_a", "adapter_b", "adapter_c"}) {
    auto adapter = mole::load_adapter(golden / name);
    like = adapter.config;
    sets.push_back(mole::lora_set(std::move(adapter)));
  }
  const mole::SafetensorsFile expected((golden / "expected.safetensors").string());
  const auto indices = [&](const std::string& name) {
    return mole::Tensor<Index, B>::from(expected.at(name).shape, expected.read<Index>(name));
  };
  const mole::T5Batch<double, B> batch{indices("input_ids"),
                                       mole::Tensor<double, B>::from(expected.at("attention_mask").shape,
                                                                     expected.read<double>("attention_mask")),
                                       indices("labels")};
  auto model = mole::load_t5<double, B>(golden / "base");
  model.round_norms(true);
  const mole::NoGrad off;
  mole::SafetensorsWriter logits;
  const auto add_logits = [&](const std::string& name, const mole::LoraSet& set) {
    mole::merge(model.layers().table, set);
    mole::MolePass<double, B> pass;
    const auto found = model.logits(batch, pass);
    logits.add(name, mole::Dtype::F64, found.shape(), found.to_host());
  };
  for (const auto& method : mole::composition_methods()) {
    const auto set = merged(method, sets);
    const auto f32 = method + ".f32", f64 = method + ".f64";
    mole::save_lora_set(out / f32, set, like);
    mole::save_lora_set<double>(out / f64, set, like, mole::Dtype::F64);
    add_logits(method, set);
    for (const auto& name : {f32, f64}) add_logits(name, mole::lora_set(mole::load_adapter(out / name)));
  }
  logits.write(out / "logits.safetensors");
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: write_merged GOLDEN OUT   (such as tests/data/golden/hf/t5_flan merged)\n");
    return 1;
  }
  try {
    fs::create_directories(argv[2]);
    write_merged(argv[1], argv[2]);
    return 0;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "write_merged: %s\n", error.what());
    return 1;
  }
}
