#pragma once
// What gates decided, as CSV files.

#include <functional>
#include <limits>
#include <ostream>
#include <string>
#include <vector>

#include <mole/experts/gate_statistics.hpp>
#include <mole/io/csv.hpp>

namespace mole {

namespace detail {

inline std::string expert_field(const std::vector<std::string>& names, Index expert) {
  MOLE_CHECK_ARG(expert >= 0 && expert < static_cast<Index>(names.size()), "gates to CSV: expert", expert,
                 "has no name among the", names.size(), "given");
  return csv_field(names[static_cast<std::size_t>(expert)]);
}

/// Numbers are written so that reading them gives the same double.
inline void prepare_csv(std::ostream& out) { out.precision(std::numeric_limits<double>::max_digits10); }

}  // namespace detail

/// CSV, a line for each gate and expert. `load` is the mean weight in the mixture, `q` that before top-k and
/// X-LoRA's weight (eq. 15); `used` and `first` count rows; `rows`, entropies and variation are the gate's
/// and the same in its lines. `experts` are the model's (Mixer::names()). Throws ArgumentError when there are
/// too few.
inline void write_statistics(std::ostream& out, const std::vector<GateStatistics>& all,
                             const std::vector<std::string>& experts) {
  detail::prepare_csv(out);
  out << "scope,stream,expert,load,used,first,rows,entropy,normalized_entropy,variation,q\n";
  for (const auto& gate : all) {
    const auto load = gate.load(), q = gate.q();
    for (std::size_t j = 0; j < q.size(); ++j)
      out << csv_field(gate.name) << ',' << csv_field(gate.stream) << ','
          << detail::expert_field(experts, gate.experts[j]) << ',' << load[j] << ',' << gate.used[j] << ','
          << gate.first[j] << ',' << gate.rows << ',' << gate.entropy() << ',' << gate.normalized_entropy()
          << ',' << gate.variation() << ',' << q[j] << '\n';
  }
}

/// The text of a token, or its id, for the CSV; token -1 means the whole sequence.
using TokenText = std::function<std::string(const std::string& stream, Index sequence, Index token)>;

/// CSV, a line for each row and expert: the weights of single tokens, or of sequences (token empty).
/// Throws ArgumentError as write_statistics.
inline void write_token_gates(std::ostream& out, const std::vector<TokenGate>& rows,
                              const std::vector<std::string>& experts, const TokenText& text = {}) {
  detail::prepare_csv(out);
  out << "scope,stream,sequence,token,text,expert,weight\n";
  for (const auto& row : rows)
    for (std::size_t j = 0; j < row.weights.size(); ++j)
      out << csv_field(row.name) << ',' << csv_field(row.stream) << ',' << row.sequence << ','
          << (row.token < 0 ? std::string() : std::to_string(row.token)) << ','
          << (text ? csv_field(text(row.stream, row.sequence, row.token)) : std::string()) << ','
          << detail::expert_field(experts, row.experts[j]) << ',' << row.weights[j] << '\n';
}

}  // namespace mole
