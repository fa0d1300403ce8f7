// The files in which open_experts() keeps experts, and the pages that a model makes of them.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include <mole/backends/cpu.hpp>
#include <mole/experts/paged_mixer.hpp>
#include <mole/io/expert_store.hpp>
#include <mole/models/t5/model.hpp>

#include "harness.hpp"

namespace mole_fuzz {

namespace {

using mole::Index;
using mole::Shape;
using Model = mole::T5<float, mole::Cpu>;
using Ids = mole::Tensor<Index, mole::Cpu>;
using Add = std::function<void(const std::vector<std::string>&)>;

struct Paged {
  Model model;
  mole::LoraSet set;
  std::filesystem::path file;                       ///< in which the expert is kept
  std::string bytes;                                ///< as it was made
  std::map<std::string, std::vector<float>> pages;  ///< of each slot, as they should be
};

std::vector<float> page(const mole::PagedExperts<float>& experts, const std::string& slot) {
  const auto shape = experts.factors.front()->shape(slot);
  std::vector<float> A(static_cast<std::size_t>(shape.rank * shape.d_in)),
      Q(static_cast<std::size_t>(shape.rank * shape.d_out));
  experts.factors.front()->read(slot, A.data(), Q.data());
  A.insert(A.end(), Q.begin(), Q.end());
  return A;
}

Paged& paged() {
  static Paged* const made = [] {
    mole::T5Config config;
    config.vocab_size = 11;
    config.d_model = 6;
    config.d_kv = 3;
    config.d_ff = 7;
    config.num_heads = 2;
    config.num_layers = config.num_decoder_layers = 1;
    auto* const all = new Paged{Model(config), {"one", "its digest", {}, {}}, {}, {}, {}};
    mole::Generator generator{42};
    all->model.initialize(generator);
    std::map<std::string, mole::LoraFactors> factors;
    for (const auto& slot : all->model.layers().table.slots) {
      if (all->set.slots.size() == 3) break;
      using Matrix = mole::Tensor<double, mole::Cpu>;
      const Index out = slot.shape[0], in = slot.shape[1];
      all->set.slots.push_back(slot.name);
      factors[slot.name] = {2,
                            in,
                            out,
                            0.5,
                            Matrix::randn({2, in}, generator.next()).to_host(),
                            Matrix::randn({out, 2}, generator.next()).to_host()};
    }
    all->set.factors = [factors](const std::string& slot) { return factors.at(slot); };
    const auto experts = mole::open_experts<float>({all->set}, folder() / "experts");
    all->file = std::filesystem::directory_iterator(folder() / "experts")->path();
    all->bytes = read_bytes(all->file);
    for (const auto& slot : all->set.slots) all->pages[slot] = page(experts, slot);
    return all;
  }();
  return *made;
}

// Opening takes any file: one that is broken is made again. What it then holds is the adapter's, or what the file says
// with sums that fit.
void test_experts(const std::vector<std::string>& parts) {
  auto& model = paged().model;
  const auto& set = paged().set;
  const auto& file = paged().file;
  write_bytes(file, parts[0]);
  const auto experts = mole::open_experts<float>({set}, file.parent_path());
  require(std::distance(std::filesystem::directory_iterator(file.parent_path()), {}) == 1, "a file too many");
  accepts_or<mole::NumericError>([&] {  // numbers that are not finite
    for (const auto& slot : set.slots) {
      const auto found = page(experts, slot);
      require(*experts.made == 0 || found == paged().pages.at(slot),
              "a file that was made again holds other numbers");
    }
  });
  accepts_or<mole::ArgumentError,
             mole::NumericError>([&] {  // factors that do not fit the model, or are not finite
    model.attach(experts, mole::GateOptions{.scope = mole::Scope::block, .pooling = mole::Pooling::token});
    const mole::NoGrad off;
    mole::MolePass<float, mole::Cpu> pass;
    const float loss = model.loss({Ids::from({1, 3}, {1, 2, 0}), {}, Ids::from({1, 2}, {2, 1})}, pass).item();
    require(*experts.made == 0 || std::isfinite(loss), "a loss that is not finite");
  });
  model.detach();
}

/// The sums of the numbers that the file now holds: else no change of them would get past the reader.
void repair_experts(std::vector<std::string>& parts) {
  const auto path = folder() / "repaired";
  write_bytes(path, parts[0]);
  try {
    const mole::SafetensorsFile file(path);
    const auto found = file.metadata().find("sums");
    if (found == file.metadata().end()) return;
    auto sums = mole::detail::parse_json(found->second, "sums");
    if (!sums.is_object()) return;
    for (const auto& [slot, sum] : sums.items()) {
      if (!sum.is_string() || !file.contains(slot + ".A") || !file.contains(slot + ".Q")) continue;
      const auto old = sum.get<std::string>(),
                 now = mole::detail::page_sum(file.at(slot + ".A"), file.at(slot + ".Q"));
      const auto at = parts[0].find(old);
      if (old.size() == now.size() && at != std::string::npos) parts[0].replace(at, old.size(), now);
    }
  } catch (const mole::Error&) {
    // No safetensors file any more: there is nothing to repair.
  }
}

void seed_experts(const Add& add) { add({paged().bytes}); }

}  // namespace

std::vector<Target> expert_targets() {
  return {{"experts", {Part::safetensors}, test_experts, seed_experts, repair_experts}};
}

}  // namespace mole_fuzz
