#pragma once
// Goldens of a T5 in Hugging Face's format: the base, each adapter alone, and all of them mixed by token
// gates.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <string>
#include <vector>

#include <golden_check/report.hpp>
#include <mole/autodiff/backward.hpp>
#include <mole/backends/cpu.hpp>
#include <mole/compose/linear.hpp>
#include <mole/io/lora_set.hpp>
#include <mole/io/peft.hpp>
#include <mole/loss/total.hpp>
#include <mole/models/generate.hpp>
#include <mole/models/t5/checkpoint.hpp>

namespace golden {

/// The adapters of a model's folder under the names that its goldens use: adapter_a is "a".
inline std::vector<mole::LoraSet> read_adapters(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> found;
  for (const auto& entry : std::filesystem::directory_iterator(folder))
    if (entry.is_directory() && entry.path().filename().string().rfind("adapter_", 0) == 0)
      found.push_back(entry.path());
  std::sort(found.begin(), found.end());
  std::vector<mole::LoraSet> sets;
  for (const auto& path : found) {
    sets.push_back(mole::lora_set(mole::load_adapter(path)));
    sets.back().name = path.filename().string().substr(std::string("adapter_").size());
  }
  return sets;
}

/// The golden's batch.
template <class T, class B>
mole::T5Batch<T, B> read_batch(const Golden& golden) {
  return {golden.indices<B>("input_ids"), golden.optional<T, B>("attention_mask"),
          golden.indices<B>("labels")};
}

/// One line: generated tokens against the golden's, all of which must be equal. After the end token either
/// padding will do: where the pad token is 0, Transformers' beam search pads with the end token.
template <class T, class B>
void check_tokens(const Golden& golden, const mole::T5<T, B>& model, const std::string& name, Index beams) {
  golden.part(name, [&] {
    const auto expected = golden.read<Index>(name);
    const Shape shape = golden.shape(name);
    const auto batch = read_batch<T, B>(golden);
    mole::MolePass<T, B> pass;
    const auto rows = generate(model, batch.input(), pass, {.max_new_tokens = shape[1] - 1, .beams = beams});
    MOLE_CHECK_FORMAT(static_cast<Index>(rows.size()) == shape[0], name, "is", shape, "but there are",
                      rows.size(), "sequences");
    for (Index s = 0; s < shape[0]; ++s)
      for (Index t = 0; t < shape[1]; ++t) {
        const auto& row = rows[static_cast<std::size_t>(s)];
        const Index token = t < static_cast<Index>(row.size()) ? row[static_cast<std::size_t>(t)]
                                                               : model.config().pad_token_id;
        const Index wanted = expected[static_cast<std::size_t>(s * shape[1] + t)];
        const bool ended = t >= static_cast<Index>(row.size());
        if (token == wanted || (ended && wanted == model.config().eos_token_id)) continue;
        golden.failure(mole::message(name, "differs first in sequence", s, "at token", t, ": expected",
                                     wanted, "got", token));
        return;
      }
    golden.compare_with(name, std::vector<double>{0}, {0});
  });
}

/// Logits, loss, encoder output and generated tokens of the model as it stands.
template <class T, class B>
void check_variant(const Golden& golden, const mole::T5<T, B>& model, const std::string& name) {
  const auto batch = read_batch<T, B>(golden);
  golden.part(name, [&] {
    const mole::NoGrad off;
    mole::MolePass<T, B> pass;
    const auto logits = model.logits(batch, pass);
    golden.compare(name + ".logits", logits, name + ".logits");
    golden.compare(name + ".loss", cross_entropy(logits, batch.labels), name + ".loss");
    if (!golden.contains(name + ".encoder")) return;
    mole::MolePass<T, B> encoding;
    golden.compare(name + ".encoder", model.encode(batch.input(), encoding).states, name + ".encoder");
  });
  if (golden.recording()) return;
  for (const auto& tensor : golden.file().names()) {
    if (tensor == name + ".greedy") check_tokens(golden, model, tensor, 1);
    const std::string beam = name + ".beam";
    if (tensor.rfind(beam, 0) == 0)
      check_tokens(golden, model, tensor, std::stol(tensor.substr(beam.size())));
  }
}

/// The rows of a gate's F that belong to each of its experts; Q [d_out, r] of each.
struct ExpertRows {
  std::vector<double> Q;  ///< [d_out, R]
  std::vector<Index> ends;
  Index d_out = 0, R = 0;

  Index begin(std::size_t i) const { return i ? ends[i - 1] : 0; }
};

/// F = Q^T e.  e [N d_out, N] ordered (expert, feature), F [R, N].
inline std::vector<double> project(const ExpertRows& rows, const std::vector<double>& e) {
  const Index N = static_cast<Index>(rows.ends.size());
  std::vector<double> F(static_cast<std::size_t>(rows.R * N));
  for (std::size_t i = 0; i < rows.ends.size(); ++i)
    for (Index k = rows.begin(i); k < rows.ends[i]; ++k)
      for (Index o = 0; o < rows.d_out; ++o)
        for (Index n = 0; n < N; ++n)
          F[static_cast<std::size_t>(k * N + n)] +=
              rows.Q[static_cast<std::size_t>(o * rows.R + k)] *
              e[static_cast<std::size_t>((static_cast<Index>(i) * rows.d_out + o) * N + n)];
  return F;
}

/// de = Q dF, the gradient at full width: what project() is for a gradient, the other way.
template <class T>
std::vector<T> expand(const ExpertRows& rows, const std::vector<T>& dF) {
  const Index N = static_cast<Index>(rows.ends.size());
  std::vector<double> de(static_cast<std::size_t>(N * rows.d_out * N));
  for (std::size_t i = 0; i < rows.ends.size(); ++i)
    for (Index k = rows.begin(i); k < rows.ends[i]; ++k)
      for (Index o = 0; o < rows.d_out; ++o)
        for (Index n = 0; n < N; ++n)
          de[static_cast<std::size_t>((static_cast<Index>(i) * rows.d_out + o) * N + n)] +=
              rows.Q[static_cast<std::size_t>(o * rows.R + k)] *
              static_cast<double>(dF[static_cast<std::size_t>(k * N + n)]);
  return {de.begin(), de.end()};
}

/// The matrix whose gate this is.
inline std::string matrix_of(const std::string& gate) { return gate.substr(0, gate.find('@')); }

template <class T, class B>
ExpertRows expert_rows(mole::T5<T, B>& model, const std::string& matrix) {
  const auto& stack = model.mixer().experts_at(model.layers().table.find(matrix));
  const auto Q = stack.Q.to_host();
  return {{Q.begin(), Q.end()}, stack.ends, stack.Q.size(0), stack.rank()};
}

/// mole.*: all adapters under a token gate an adapted matrix.
template <class T, class B>
void check_mixture(const Golden& golden, mole::T5<T, B>& model, const std::vector<mole::LoraSet>& sets) {
  model.attach(sets, {.scope = mole::Scope::matrix,
                      .pooling = mole::Pooling::token,
                      .temperature = golden.setting("tau", 1.2)});
  auto& mixer = model.mixer();
  for (const auto& placed : mixer.gates()) {
    const auto matrix = matrix_of(placed.name);
    const auto rows = expert_rows(model, matrix);
    const auto e = golden.numbers("mole." + matrix + ".e");
    const auto n = placed.gate.experts.size();
    MOLE_CHECK_FORMAT(e.size() == n * n * static_cast<std::size_t>(rows.d_out), "mole." + matrix + ".e is",
                      golden.shape("mole." + matrix + ".e"), "for", n, "experts and", rows.d_out, "features");
    const auto F = project(rows, e);
    placed.gate.weight.assign(
        Tensor<T, B>::from(placed.gate.weight.shape(), std::vector<T>(F.begin(), F.end())));
  }
  const auto batch = read_batch<T, B>(golden);
  mole::MolePass<T, B> pass;
  const auto logits = model.logits(batch, pass);
  const auto loss = cross_entropy(logits, batch.labels), balance = model.balance(pass);
  const auto total = mole::total_loss(loss, balance, golden.setting("alpha", 0.5));
  golden.compare("mole.logits", logits, "mole.logits");
  golden.compare("mole.loss", loss, "mole.loss");
  golden.compare("mole.balance", balance, "mole.balance", 1);
  golden.compare("mole.total", total, "mole.total");
  backward(total);
  std::size_t at = 0;
  const auto records = mixer.records(pass);
  for (const auto& placed : mixer.gates()) {
    const auto name = "mole." + matrix_of(placed.name);
    const auto& weights = records[at++].value.weights;
    golden.part(name, [&] {
      golden.compare(name + ".gate_mean", mean(reshape(weights, {-1, weights.size(-1)}).detach(), {0}),
                     name + ".gate_mean");
      const auto de = expand(expert_rows(model, matrix_of(placed.name)), placed.gate.weight.grad().to_host());
      const std::size_t N = placed.gate.experts.size();
      double squares = 0;
      std::vector<T> first;
      for (std::size_t i = 0; i < de.size(); ++i) {
        squares += static_cast<double>(de[i]) * static_cast<double>(de[i]);
        if (i % N == 0) first.push_back(de[i]);
      }
      // A column of de: its rounding is relative to all of it.
      const double norm = golden.number(name + ".de_norm");
      golden.compare(name + ".de_norm", std::vector<T>{static_cast<T>(std::sqrt(squares))},
                     name + ".de_norm");
      golden.compare(name + ".de0", first, name + ".de0", std::max(1e-6, norm));
    });
  }
}

/// Every weight off by one rounding to the given precision.
template <class B>
void nudge_weights(mole::T5<double, B>& model, double rounding, std::uint64_t seed) {
  std::uint64_t stream = 0;
  model.visit([&](const std::string&, const Shape& shape, Tensor<double, B>& weight) {
    weight = mul(weight, shift(Tensor<double, B>::randn(shape, {seed, stream++}, rounding), 1.0));
  });
}

/// Everything the golden holds but the tokens, which have no size of an error.
template <class T, class B>
void compare_t5(const Golden& golden, mole::T5<T, B>& model, const std::vector<mole::LoraSet>& sets) {
  model.round_norms(true);
  check_variant(golden, model, "base");
  for (const auto& set : sets) {
    // One expert has all the weight: its gate is 1 whatever it reads.
    golden.part(set.name, [&] {
      model.attach({set}, {});
      check_variant(golden, model, set.name);
      model.detach();
      mole::merge(model.layers().table, {set}, {1.0});
      const mole::NoGrad off;
      mole::MolePass<T, B> pass;
      golden.compare(set.name + ".logits merged", model.logits(read_batch<T, B>(golden), pass),
                     set.name + ".logits");
    });
    model.detach();
  }
  if (golden.contains("mole.logits")) golden.part("mole", [&] { check_mixture(golden, model, sets); });
}

/// A folder with base/, adapter_*/ and expected.safetensors of a T5.
template <class T, class B = mole::Cpu>
void check_t5(Golden& golden, const std::filesystem::path& folder) {
  const auto sets = read_adapters(folder);
  auto record = [&](double rounding, std::uint64_t seed) {
    return golden.recorded([&] {
      auto model = mole::load_t5<double, B>(folder / "base");
      nudge_weights(model, rounding, seed);
      compare_t5(golden, model, sets);
    });
  };
  const auto plain = record(0, 0);
  // Several times: a number may happen to stay where it was.
  for (std::uint64_t seed = 1; seed <= 8; ++seed)
    golden.add_sensitivity(plain, record(std::numeric_limits<T>::epsilon() / 2, seed));
  auto model = mole::load_t5<T, B>(folder / "base");
  compare_t5(golden, model, sets);
}

}  // namespace golden
