#include "numbers/gates.hpp"

#include <algorithm>
#include <iterator>
#include <limits>
#include <sstream>

#include "common/files.hpp"

namespace numbers {

namespace {

/// A panel a gate, a row a token, a column an expert.
common::GateHeat token_heat(const std::vector<mole::TokenGate>& rows, const std::vector<std::string>& experts,
                            const mole::TokenText& text) {
  common::GateHeat heat;
  heat.experts = experts;
  for (const auto& row : rows) {
    if (heat.tasks.empty() || heat.tasks.back() != row.name) heat.tasks.push_back(row.name);
    if (heat.tasks.size() == 1)
      heat.scopes.push_back(std::to_string(row.token + 1) + "  " + text(row.stream, row.sequence, row.token));
    std::vector<double> weights(experts.size(), std::numeric_limits<double>::quiet_NaN());
    for (std::size_t i = 0; i < row.experts.size(); ++i)
      weights[static_cast<std::size_t>(row.experts[i])] = row.weights[i];
    heat.values.insert(heat.values.end(), weights.begin(), weights.end());
  }
  return heat;
}

/// A row a gate of the whole sequence.
common::GateHeat sequence_heat(const std::vector<mole::TokenGate>& rows,
                               const std::vector<std::string>& experts, const std::string& prompt) {
  common::GateHeat heat{{}, experts, {prompt}, {}};
  for (const auto& row : rows) {
    heat.scopes.push_back(row.name);
    std::vector<double> weights(experts.size(), std::numeric_limits<double>::quiet_NaN());
    for (std::size_t i = 0; i < row.experts.size(); ++i)
      weights[static_cast<std::size_t>(row.experts[i])] = row.weights[i];
    heat.values.insert(heat.values.end(), weights.begin(), weights.end());
  }
  return heat;
}

}  // namespace

std::vector<common::Plot> draw_gates(const std::filesystem::path& folder,
                                     const std::vector<mole::TokenGate>& rows,
                                     const std::vector<std::string>& experts, const std::string& prompt,
                                     const std::string& answer) {
  // A token is a byte: those of a letter of several bytes are shown by their numbers.
  const mole::TokenText text = [&](const std::string& stream, Index, Index token) -> std::string {
    if (token < 0) return "";
    const bool decoder = stream == "decoder";
    if (decoder && token == 0) return "(start)";
    const auto& bytes = decoder ? answer : prompt;
    const auto at = static_cast<std::size_t>(decoder ? token - 1 : token);
    if (at >= bytes.size()) return "(end)";
    const auto byte = static_cast<unsigned char>(bytes[at]);
    if (byte == ' ') return "(blank)";
    return byte < 0x80 ? std::string(1, bytes[at]) : "byte " + std::to_string(byte);
  };
  std::ostringstream csv;
  mole::write_token_gates(csv, rows, experts, text);
  common::write_text(folder / "token_gates.csv", csv.str());

  std::vector<common::Plot> plots;
  std::vector<mole::TokenGate> some;
  const auto choose = [&](auto belongs) {
    some.clear();
    std::copy_if(rows.begin(), rows.end(), std::back_inserter(some), belongs);
    return !some.empty();
  };
  const auto options = [](const std::string& title) {
    return common::PlotOptions{.title = title, .subtitle = "weight of each expert"};
  };
  if (choose([](const auto& row) { return row.token < 0; }))
    plots.push_back(common::plot_gates(folder, "gates", sequence_heat(some, experts, prompt),
                                       options("Gates of the sequence")));
  if (choose([](const auto& row) { return row.token >= 0 && row.stream != "decoder"; }))
    plots.push_back(common::plot_gates(folder, "gates-input", token_heat(some, experts, text),
                                       options("Gates of the tokens of: " + prompt)));
  if (choose([](const auto& row) { return row.token >= 0 && row.stream == "decoder"; }))
    plots.push_back(common::plot_gates(folder, "gates-answer", token_heat(some, experts, text),
                                       options("Gates of the tokens of: " + answer)));
  return plots;
}

}  // namespace numbers
