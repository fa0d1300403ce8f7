#pragma once
// What save_adapter() takes of a model that trained LoRAs, and a LoraSet, such as compose() makes, as a PEFT adapter
// that peft loads to the same outputs.

#include <algorithm>
#include <cstddef>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

#include <mole/io/peft.hpp>
#include <mole/nn/lora.hpp>
#include <mole/nn/slots.hpp>

namespace mole {

/// The LoRAs that the slots of a model train, in the slots' order; of bf16 and half as floats.
template <class T, class B>
std::vector<HostLora<Compute<T>>> trained_loras(const SlotTable<T, B>& table) {
  std::vector<HostLora<Compute<T>>> entries;
  const auto on_host = [](const Tensor<T, B>& factor) {
    const auto values = factor.to_host();
    return std::vector<Compute<T>>(values.begin(), values.end());
  };
  for (const auto& slot : table.slots)
    if (slot.lora.defined())
      entries.push_back({slot.name, slot.lora.down.size(0), slot.shape[1], slot.shape[0],
                         on_host(slot.lora.down), on_host(slot.lora.up)});
  return entries;
}

namespace detail {

// The name as a regular expression that matches itself.
inline std::string escaped_pattern(const std::string& name) {
  std::string escaped;
  for (const char c : name) {
    if (std::string_view("\\^$.|?*+()[]{}").find(c) != std::string_view::npos) escaped += '\\';
    escaped += c;
  }
  return escaped;
}

// Ranks, alphas and patterns of a configuration for these entries with their alphas; targets are left to the
// caller.
template <class T>
void set_lora_scaling(LoraConfig& like, const std::vector<HostLora<T>>& entries,
                      const std::vector<double>& alphas) {
  using Scaling = std::pair<Index, double>;
  std::vector<Scaling> scaling;
  std::map<Scaling, std::size_t> count;
  for (std::size_t i = 0; i < entries.size(); ++i) {
    scaling.emplace_back(entries[i].rank, alphas[i]);
    ++count[scaling.back()];
  }
  const auto common = std::max_element(count.begin(), count.end(), [](const auto& a, const auto& b) {
                        return a.second < b.second;
                      })->first;
  like.rslora = false;
  like.rank = common.first;
  like.alpha = common.second;
  like.rank_pattern.clear();
  like.alpha_pattern.clear();
  like.target_modules.clear();
  like.target_regex.clear();

  // A pattern matches every name that ends in it after a dot, and the first that matches counts: slots that
  // another's pattern would catch are named too, and longer names come first.
  std::unordered_set<std::string> named;
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < entries.size(); ++i)
    if (scaling[i] != common) named.insert(entries[i].slot);
  const auto caught = [&](const std::string& slot) {
    for (auto dot = slot.find('.'); dot != slot.npos; dot = slot.find('.', dot + 1))
      if (named.count(slot.substr(dot + 1)) > 0) return true;
    return false;
  };
  for (std::size_t i = 0; i < entries.size(); ++i)
    if (scaling[i] != common || caught(entries[i].slot)) order.push_back(i);
  std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return entries[a].slot.size() > entries[b].slot.size();
  });
  for (const std::size_t i : order) {
    const auto pattern = escaped_pattern(entries[i].slot);
    like.rank_pattern.emplace_back(pattern, scaling[i].first);
    like.alpha_pattern.emplace_back(pattern, scaling[i].second);
  }
}

}  // namespace detail

/// Writes the set's factors as a PEFT adapter, stored as `stored_as`. Rank and alpha are the commonest of the
/// slots' (alpha = scale * rank); slots that differ are named in rank_pattern and alpha_pattern. `like` says
/// what the set does not know: the base's name, the task, fan_in_fan_out; its ranks, alphas and targets are
/// replaced. kernels: [kh, kw] of the slots that are convolutions, such as kernels_of(table) makes. Throws
/// ArgumentError for a set without slots, or what save_adapter() refuses; Error where a file cannot be
/// written; and what set.factors() throws.
template <HostNumber T = float>
void save_lora_set(const std::filesystem::path& folder, const LoraSet& set, LoraConfig like = {},
                   Dtype stored_as = Dtype::F32, const std::map<std::string, Shape>& kernels = {}) {
  MOLE_CHECK_ARG(!set.slots.empty(), "save_lora_set: adapter", set.name, "adapts nothing");
  std::vector<HostLora<T>> entries;
  std::vector<double> alphas;
  for (const auto& slot : set.slots) {
    const auto lora = set.factors(slot);
    const auto kernel = kernels.find(slot);
    entries.push_back({slot,
                       lora.rank,
                       lora.d_in,
                       lora.d_out,
                       {lora.A.begin(), lora.A.end()},
                       {lora.B.begin(), lora.B.end()},
                       kernel == kernels.end() ? Shape() : kernel->second});
    alphas.push_back(lora.scale * static_cast<double>(lora.rank));
  }
  detail::set_lora_scaling(like, entries, alphas);
  save_adapter(folder, std::move(like), entries, stored_as);
}

}  // namespace mole
