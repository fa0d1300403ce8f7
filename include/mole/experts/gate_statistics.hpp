#pragma once
// What gates decided, as numbers on the host: gathered from passes and summed over batches.

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include <mole/experts/pass.hpp>

namespace mole {

/// Coefficient of variation of loads: their standard deviation over their mean. 0 when all are alike,
/// sqrt(N - 1) when one is all. NaN entries do not count; NaN where none is left, one is negative (scalings
/// that are no shares), or all are 0.
inline double load_variation(const std::vector<double>& load) {
  double n = 0, mean = 0, low = 0, square = 0;
  for (const double q : load)
    if (!is_nan(q)) n += 1, mean += q, low = std::min(low, q);
  mean /= n;
  for (const double q : load)
    if (!is_nan(q)) square += (q - mean) * (q - mean) / n;
  return low < 0 || mean == 0 ? detail::not_a_number<double>() : std::sqrt(square) / mean;
}

/// The decisions of one gate over the rows seen so far: sequences, or real tokens of a token gate.
struct GateStatistics {
  std::string name;            ///< the gate's: its scope, with @memory where it reads the encoder's tokens
  std::string stream;          ///< whose tokens its rows are, such as encoder, decoder or memory
  bool by_token = false;       ///< whether its rows are tokens
  std::vector<Index> experts;  ///< the model's expert of each column
  Index rows = 0;              ///< counted so far
  Index decided = 0;           ///< of them, those with weights >= 0 of a sum above 0
  std::vector<double> weight_sum;  ///< by column, of what the mixture used
  std::vector<double> dense_sum;   ///< by column, of the same before top-k and X-LoRA's weight
  std::vector<Index> used, first;  ///< by column: rows that give it any weight; the most, ties to the first
  double entropy_sum = 0;          ///< over the decided rows

  /// The mean weight of each column in the mixture; NaN without rows.
  std::vector<double> load() const { return over_rows(weight_sum); }
  /// q_i of this gate (eq. 15), what the balance loss reads: the load before top-k and X-LoRA's weight.
  std::vector<double> q() const { return over_rows(dense_sum); }
  /// Mean over the decided rows of -sum p ln p, in nats, p the row's weights over their sum: ln N for a
  /// uniform gate, 0 for one expert alone; NaN without such rows.
  double entropy() const { return entropy_sum / static_cast<double>(decided); }
  /// The same over ln N, in [0, 1]; 0 for a gate with a single expert.
  double normalized_entropy() const {
    return experts.size() < 2 ? 0 : entropy() / std::log(static_cast<double>(experts.size()));
  }
  /// Of the load, see load_variation().
  double variation() const { return load_variation(load()); }

 private:
  std::vector<double> over_rows(std::vector<double> sums) const {
    for (double& sum : sums) sum /= static_cast<double>(rows);
    return sums;
  }
};

/// One row of one gate: whose it is, and its weights.
struct TokenGate {
  std::string name;  ///< the gate's
  std::string stream;
  Index sequence = 0;
  Index token = -1;            ///< -1: the whole sequence's
  std::vector<Index> experts;  ///< the model's expert of each weight
  std::vector<double> weights;
  std::vector<double> dense;  ///< the same before top-k and X-LoRA's weight
};

/// Every row of the records that counts (padding does not): a sequence each, or a real token.
template <class T, class B>
std::vector<TokenGate> token_gates(const std::vector<GateRecord<T, B>>& records) {
  std::vector<TokenGate> list;
  for (const auto& record : records) {
    const auto& [used, all] = record.value;
    const auto weights = used.to_host();
    const auto dense = all.data() == used.data() ? weights : all.to_host();
    const auto mask = record.row_mask.defined() ? record.row_mask.to_host() : std::vector<T>();
    const bool by_token = record.value.weights.rank() == 3;
    const auto length = static_cast<std::size_t>(by_token ? record.value.weights.size(1) : 1);
    const std::size_t n = record.experts.size();
    for (std::size_t row = 0; row * n < weights.size(); ++row) {
      if (!mask.empty() && mask[row] == T(0)) continue;
      TokenGate gate{record.name,
                     record.stream,
                     static_cast<Index>(row / length),
                     by_token ? static_cast<Index>(row % length) : -1,
                     record.experts,
                     {},
                     {}};
      for (std::size_t j = row * n; j < (row + 1) * n; ++j) {
        gate.weights.push_back(static_cast<double>(weights[j]));
        gate.dense.push_back(static_cast<double>(dense[j]));
      }
      list.push_back(std::move(gate));
    }
  }
  return list;
}

/// Adds the rows of one pass to what was gathered before; starts with an empty list. Throws ArgumentError
/// for a gate that holds other experts than it did.
template <class T, class B>
void gather_statistics(std::vector<GateStatistics>& all, const std::vector<GateRecord<T, B>>& records) {
  for (const auto& record : records) {
    auto found = std::find_if(all.begin(), all.end(), [&](const auto& s) { return s.name == record.name; });
    if (found == all.end()) {
      GateStatistics fresh;
      fresh.name = record.name;
      fresh.stream = record.stream;
      fresh.by_token = record.value.weights.rank() == 3;
      fresh.experts = record.experts;
      fresh.weight_sum.resize(record.experts.size());
      fresh.dense_sum.resize(record.experts.size());
      fresh.used.resize(record.experts.size());
      fresh.first.resize(record.experts.size());
      found = all.insert(all.end(), std::move(fresh));
    }
    MOLE_CHECK_ARG(found->experts == record.experts, "gather_statistics:", record.name,
                   "holds other experts than before; start a new list for another model");
    for (const auto& row : token_gates<T, B>({record})) {
      double sum = 0, lowest = 0;
      std::size_t first = 0;
      for (std::size_t j = 0; j < row.weights.size(); ++j) {
        const double weight = row.weights[j];
        found->weight_sum[j] += weight;
        found->dense_sum[j] += row.dense[j];
        found->used[j] += weight != 0;
        sum += weight;
        lowest = std::min(lowest, weight);
        if (weight > row.weights[first]) first = j;
      }
      ++found->rows;
      if (!(lowest >= 0 && sum > 0)) continue;
      ++found->decided;
      ++found->first[first];
      for (const double weight : row.weights)
        if (weight > 0) found->entropy_sum -= weight / sum * std::log(weight / sum);
    }
  }
}

/// The statistics of one pass.
template <class T, class B>
std::vector<GateStatistics> gate_statistics(const std::vector<GateRecord<T, B>>& records) {
  std::vector<GateStatistics> all;
  gather_statistics(all, records);
  return all;
}

/// A mean over all gates: that of each expert over the gates that hold it and saw rows; NaN where none does.
/// `of` is &GateStatistics::q (then it is q_i of eq. 15) or &GateStatistics::load.
inline std::vector<double> mean_over_gates(const std::vector<GateStatistics>& all, Index n_experts,
                                           std::vector<double> (GateStatistics::*of)() const) {
  std::vector<double> sum(static_cast<std::size_t>(n_experts)), gates(sum.size());
  for (const auto& gate : all) {
    if (gate.rows == 0) continue;
    const auto values = (gate.*of)();
    for (std::size_t j = 0; j < values.size(); ++j) {
      sum.at(static_cast<std::size_t>(gate.experts[j])) += values[j];
      gates[static_cast<std::size_t>(gate.experts[j])] += 1;
    }
  }
  for (std::size_t i = 0; i < sum.size(); ++i) sum[i] /= gates[i];
  return sum;
}
/// Each expert's load over all gates.
inline std::vector<double> expert_load(const std::vector<GateStatistics>& all, Index n_experts) {
  return mean_over_gates(all, n_experts, &GateStatistics::load);
}
/// q of eq. 15, as the balance loss reads it.
inline std::vector<double> expert_q(const std::vector<GateStatistics>& all, Index n_experts) {
  return mean_over_gates(all, n_experts, &GateStatistics::q);
}

}  // namespace mole
