#include "common/gates.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <numeric>

#include <mole/core/error.hpp>

#include "common/files.hpp"

namespace common {

std::string gate_text(const std::vector<MeanGate>& gates, const std::vector<std::string>& experts) {
  std::size_t scope_width = 0, expert_width = 0;
  for (const auto& gate : gates) scope_width = std::max(scope_width, text_width(gate.scope));
  for (const auto& expert : experts) expert_width = std::max(expert_width, text_width(expert));
  std::string text;
  for (const auto& gate : gates) {
    std::vector<std::size_t> order(experts.size());
    std::iota(order.begin(), order.end(), 0);
    std::erase_if(order, [&](std::size_t i) { return mole::is_nan(gate.weights[i]); });
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t a, std::size_t b) { return gate.weights[a] > gate.weights[b]; });
    text += gate.scope + std::string(scope_width - text_width(gate.scope), ' ');
    for (const auto i : order) {
      char share[16];
      std::snprintf(share, sizeof share, " %3.0f%%", 100 * gate.weights[i]);
      text += "  " + experts[i] + std::string(expert_width - text_width(experts[i]), ' ') + share;
    }
    text += "\n";
  }
  return text;
}

std::vector<bool> all_but(const std::vector<std::string>& masked, const std::vector<std::string>& experts) {
  std::vector<bool> keep(experts.size(), true);
  for (const auto& name : masked) {
    const auto found = std::find(experts.begin(), experts.end(), name);
    std::string known;
    for (const auto& expert : experts) known += (known.empty() ? "" : ", ") + expert;
    MOLE_CHECK_ARG(found != experts.end(), "--mask: there is no expert", name + "; the gates know", known);
    keep[static_cast<std::size_t>(found - experts.begin())] = false;
  }
  return keep;
}

}  // namespace common
