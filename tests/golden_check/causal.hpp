#pragma once
// Goldens of decoder-only models in Hugging Face's format: the base, each adapter alone, experts mixed by gates that
// read the prompt, and what is done to logits before a token is drawn.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <golden_check/report.hpp>
#include <golden_check/t5.hpp>
#include <mole/autodiff/backward.hpp>
#include <mole/compose/linear.hpp>
#include <mole/loss/total.hpp>
#include <mole/models/causal/load.hpp>

namespace golden {

/// A batch of the golden: "" or "left_" before the tensors' names.
template <class T, class B>
mole::CausalBatch<T, B> read_causal_batch(const Golden& golden, const std::string& side) {
  mole::CausalBatch<T, B> batch{golden.indices<B>(side + "input_ids"),
                                golden.optional<T, B>(side + "attention_mask"),
                                golden.optional<T, B>("prompt_mask"),
                                {}};
  if (golden.contains(side + "labels")) batch.labels = golden.indices<B>(side + "labels");
  // A single expert has all the weight, whatever its gate reads.
  if (!batch.prompt.defined()) batch.prompt = Tensor<T, B>::ones(batch.ids.shape());
  return batch;
}

/// Logits with zeros where a token is padding.
template <class T, class B>
Tensor<T, B> real_logits(const Tensor<T, B>& logits, const Tensor<T, B>& mask) {
  return mask.defined() ? mul(logits, reshape(mask, {mask.size(0), mask.size(1), 1})) : logits;
}

/// One line: rows of a prompt and what is written after it. What follows an end token does not count: there
/// transformers' beam search fills with another token than its greedy search.
template <class T, class B>
void check_written(const Golden& golden, const mole::CausalModel<T, B>& model, const std::string& name,
                   const std::string& ids, const std::string& mask, Index beams) {
  golden.part(name, [&] {
    const auto expected = golden.read<Index>(name);
    const Shape shape = golden.shape(name);
    const mole::TokenBatch<T, B> prompts(golden.indices<B>(ids), golden.optional<T, B>(mask));
    const Index L = prompts.ids.size(1);
    mole::MolePass<T, B> pass;
    const auto written = generate(model, prompts, pass,
                                  {.max_new_tokens = static_cast<Index>(
                                       golden.setting("new_tokens", static_cast<double>(shape[1] - L))),
                                   .beams = beams});
    MOLE_CHECK_FORMAT(static_cast<Index>(written.tokens.size()) == shape[0] && shape[1] >= L, name, "is",
                      shape, "but there are", written.tokens.size(), "prompts of", L);
    for (Index s = 0; s < shape[0]; ++s) {
      const auto& row = written.tokens[static_cast<std::size_t>(s)];
      Index wanted = 0;
      for (Index t = 0; L + t < shape[1]; ++t, ++wanted)
        if (t > 0 && mole::detail::is_end(model.config().eos_token_ids,
                                          expected[static_cast<std::size_t>(s * shape[1] + L + t - 1)]))
          break;
      bool same = wanted == static_cast<Index>(row.size());
      for (Index t = 0; same && t < wanted; ++t)
        same = row[static_cast<std::size_t>(t)] == expected[static_cast<std::size_t>(s * shape[1] + L + t)];
      if (same) continue;
      golden.failure(mole::message(name, "differs in sequence", s));
      return;
    }
    golden.compare_with(name, std::vector<double>{0}, {0});
    const std::string score = name + ".score";
    if (golden.contains(score))  // rounded to float32 by transformers
      golden.compare_with(score, std::vector<T>(written.scores.begin(), written.scores.end()),
                          golden.numbers(score), 1, 1e-6);
  });
}

/// How closely a golden can be met: those without left-padded texts were made with norms, angles and losses in
/// float32.
inline double causal_rounding(const Golden& golden) {
  return golden.contains("left_input_ids") || golden.contains("prompt_mask") ? 0 : 2e-6;
}

/// Logits and losses of the model as it stands.
template <class T, class B>
void compare_causal(const Golden& golden, const mole::CausalModel<T, B>& model, const std::string& key) {
  const double rounding = causal_rounding(golden);
  for (const std::string side : {"", "right", "left"}) {
    const std::string name = key + (side.empty() ? "" : "." + side);
    if (!golden.contains(name + ".logits") && !golden.contains(name + ".loss")) continue;
    golden.part(name, [&] {
      const mole::NoGrad off;
      auto batch = read_causal_batch<T, B>(golden, side == "left" ? "left_" : "");
      if (!batch.labels.defined()) batch.labels = batch.ids;
      mole::MolePass<T, B> pass;
      if (golden.contains(name + ".logits"))
        golden.compare_with(name + ".logits", real_logits(model.logits(batch, pass), batch.mask).to_host(),
                            golden.numbers(name + ".logits"), 1e-6, rounding);
      if (golden.contains(name + ".loss"))
        golden.compare_with(name + ".loss", model.loss(batch, pass).to_host(), golden.numbers(name + ".loss"),
                            1e-6, rounding);
    });
  }
}

/// The same and every text that is written.
template <class T, class B>
void check_causal_variant(const Golden& golden, const mole::CausalModel<T, B>& model,
                          const std::string& key) {
  compare_causal(golden, model, key);
  if (golden.recording()) return;
  const std::string left = golden.contains("left_input_ids") ? "left_" : "";
  for (const auto& tensor : golden.file().names()) {
    const std::string beam = key + ".beam";
    if (tensor == key + ".greedy")
      check_written(golden, model, tensor, left + "input_ids", left + "attention_mask", 1);
    else if (tensor.starts_with(beam) && !tensor.ends_with(".score"))
      check_written(golden, model, tensor, left + "input_ids", left + "attention_mask",
                    std::stol(tensor.substr(beam.size())));
  }
}

/// mole.safetensors: a gate a block, which reads the experts at q, k, v over the prompt.
template <class T, class B>
void check_prompt_mixture(const Golden& golden, mole::CausalModel<T, B>& model,
                          const std::vector<mole::LoraSet>& sets) {
  const double tau = golden.number("tau");
  model.attach(sets, mole::GateOptions{.scope = mole::Scope::block, .temperature = tau});
  auto& mixer = model.mixer();
  const auto& table = model.layers().table;
  const auto layer_of = [](const std::string& gate) { return "layers." + gate.substr(gate.rfind('.') + 1); };
  // f(name of the slice, Q, columns [from, to) of Q, first row of F)
  const auto each_slice = [&](const mole::PlacedGate<T, B>& placed, auto f) {
    Index row = 0;
    for (const std::size_t slot : placed.reads) {
      const auto& stack = mixer.experts_at(slot);
      const auto Q = mole::Tensor<T, B>(stack.Q).to_host();
      const auto& name = table.slots[slot].name;
      for (std::size_t i = 0; i < stack.experts.size(); ++i) {
        const Index from = i ? stack.ends[i - 1] : 0;
        f("." + sets[static_cast<std::size_t>(stack.experts[i])].name + name.substr(name.rfind('.')), Q,
          stack.Q.size(0), stack.Q.size(1), from, stack.ends[i], row);
        row += stack.ends[i] - from;
      }
    }
  };
  for (const auto& placed : mixer.gates()) {
    const Index N = placed.gate.n_experts();
    std::vector<T> F(static_cast<std::size_t>(placed.gate.weight.size()));
    each_slice(placed, [&](const std::string& slice, const std::vector<T>& Q, Index d_out, Index R,
                           Index from, Index to, Index row) {
      const auto e = golden.numbers(layer_of(placed.name) + ".e" + slice);
      MOLE_CHECK_FORMAT(static_cast<Index>(e.size()) == d_out * N, "e" + slice, "has", e.size(),
                        "numbers for", d_out, "features and", N, "experts");
      for (Index k = from; k < to; ++k)
        for (Index n = 0; n < N; ++n) {
          double sum = 0;
          for (Index o = 0; o < d_out; ++o)
            sum += static_cast<double>(Q[static_cast<std::size_t>(o * R + k)]) *
                   e[static_cast<std::size_t>(o * N + n)];
          F[static_cast<std::size_t>((row + k - from) * N + n)] = static_cast<T>(sum);
        }
    });
    placed.gate.weight.assign(Tensor<T, B>::from(placed.gate.weight.shape(), F));
  }
  const auto batch = read_causal_batch<T, B>(golden, "");
  mole::MolePass<T, B> pass;
  golden.compare("logits", real_logits(model.logits(batch, pass), batch.mask), "logits");
  mole::MolePass<T, B> again;
  const auto loss = model.loss(batch, again), balance = model.balance(again);
  const auto total = mole::total_loss(loss, balance, golden.number("alpha"));
  golden.compare("loss", loss, "loss");
  golden.compare("balance", balance, "balance", 1);
  golden.compare("total", total, "total");
  backward(total);
  const auto records = mixer.records(again);
  double dtau = 0;
  std::size_t at = 0;
  for (const auto& placed : mixer.gates()) {
    const std::string layer = layer_of(placed.name);
    golden.compare(layer + ".gate", records[at++].value.weights, layer + ".gate");
    dtau += static_cast<double>(placed.gate.log_tau.grad().item()) / tau;
    const auto dF = placed.gate.weight.grad().to_host();
    const Index N = placed.gate.n_experts();
    each_slice(placed, [&](const std::string& slice, const std::vector<T>& Q, Index d_out, Index R,
                           Index from, Index to, Index row) {
      std::vector<T> de(static_cast<std::size_t>(d_out * N));
      for (Index o = 0; o < d_out; ++o)
        for (Index n = 0; n < N; ++n) {
          double sum = 0;
          for (Index k = from; k < to; ++k)
            sum += static_cast<double>(Q[static_cast<std::size_t>(o * R + k)]) *
                   static_cast<double>(dF[static_cast<std::size_t>((row + k - from) * N + n)]);
          de[static_cast<std::size_t>(o * N + n)] = static_cast<T>(sum);
        }
      golden.compare(layer + ".de" + slice, de, layer + ".de" + slice);
    });
  }
  golden.compare("dtau", std::vector<T>{static_cast<T>(dtau)}, "dtau");
  if (!golden.recording() && golden.contains("greedy"))
    check_written(golden, model, "greedy", "prompt_ids", "prompt_attention_mask", 1);
  model.detach();
}

/// Every weight off by one rounding to the given precision.
template <class B>
void nudge_causal(mole::CausalModel<double, B>& model, double rounding, std::uint64_t seed) {
  std::uint64_t stream = 0;
  model.visit([&](const std::string&, const Shape& shape, Tensor<double, B>& weight) {
    weight = mul(weight, shift(Tensor<double, B>::randn(shape, {seed, stream++}, rounding), 1.0));
  });
}

/// Everything but MoLE.
template <class T, class B>
void compare_causal_all(const Golden& golden, mole::CausalModel<T, B>& model,
                        const std::vector<mole::LoraSet>& sets) {
  check_causal_variant(golden, model, "base");
  for (const auto& set : sets) {
    golden.part(set.name, [&] {
      model.attach({set}, mole::GateOptions{.scope = mole::Scope::network});
      check_causal_variant(golden, model, set.name);
      model.detach();
      if (golden.recording()) return;
      mole::merge(model.layers().table, {set}, {1.0});
      const std::string logits = set.name + (golden.contains("left_input_ids") ? ".right.logits" : ".logits");
      const auto batch = read_causal_batch<T, B>(golden, "");
      const mole::NoGrad off;
      mole::MolePass<T, B> pass;
      golden.compare_with(logits + " merged", real_logits(model.logits(batch, pass), batch.mask).to_host(),
                          golden.numbers(logits), 1e-6, causal_rounding(golden));
    });
    model.detach();
  }
}

/// A folder with base/, adapter_*/, expected.safetensors and perhaps mole.safetensors.
template <class T, class B>
void check_causal(Golden& golden, const std::filesystem::path& folder, Report& report) {
  const auto sets = read_adapters(folder);
  const auto mole_path = folder / "mole.safetensors";
  std::unique_ptr<Golden> mixture;
  if (std::filesystem::exists(mole_path))
    mixture = std::make_unique<Golden>(mole_path.string(), golden.name() + "/mole", report);
  if constexpr (sizeof(T) < sizeof(double)) {
    // In single precision a rounding may grow on its way through the model: several times, as a number may
    // happen to stay where it was.
    const auto record = [&](Golden& of, double rounding, std::uint64_t seed, auto compare) {
      return of.recorded([&] {
        const auto model = mole::load_causal<double, B>(folder / "base");
        nudge_causal(*model, rounding, seed);
        compare(of, *model);
      });
    };
    const auto all = [&](Golden& of, mole::CausalModel<double, B>& model) {
      compare_causal_all(of, model, sets);
    };
    const auto mixed = [&](Golden& of, mole::CausalModel<double, B>& model) {
      check_prompt_mixture(of, model, sets);
    };
    const auto plain = record(golden, 0, 0, all);
    const auto plain_mixed = mixture ? record(*mixture, 0, 0, mixed) : Golden::Numbers();
    for (std::uint64_t seed = 1; seed <= 8; ++seed) {
      constexpr double rounding = std::numeric_limits<T>::epsilon() / 2;
      golden.add_sensitivity(plain, record(golden, rounding, seed, all));
      if (mixture) mixture->add_sensitivity(plain_mixed, record(*mixture, rounding, seed, mixed));
    }
  }
  const auto model = mole::load_causal<T, B>(folder / "base");
  compare_causal_all(golden, *model, sets);
  if (!mixture) return;
  mixture->part("mole", [&] { check_prompt_mixture(*mixture, *model, sets); });
  mixture->skip_unread();
}

/// A folder of adapters that the library refuses, with reasons, beside the base that the metadata names.
template <class T, class B>
void check_refused_adapters(const Golden& golden, const std::filesystem::path& folder) {
  const auto note = golden.file().metadata().find("note");
  const std::string key = "base is ";
  MOLE_CHECK_FORMAT(note != golden.file().metadata().end() && note->second.starts_with(key),
                    "there is no base/, and the metadata names none");
  const auto model = mole::load_causal<T, B>(folder / note->second.substr(key.size()));
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (!entry.is_directory()) continue;
    const auto name = entry.path().filename().string();
    try {
      model->attach({mole::lora_set(mole::load_adapter(entry.path()))}, mole::GateOptions{});
      golden.failure(name + " should be refused and is not");
    } catch (const mole::FormatError& error) {
      golden.compare_with(name + " is refused (" + error.what() + ")", std::vector<double>{0}, {0});
    }
  }
}

/// NAME.gguf: beside NAME_gguf.safetensors, the numbers of its blocks; beside a folder NAME, that base's logits.
template <class T, class B>
void check_gguf(const std::filesystem::path& path, const std::string& name, Report& report) {
  const auto stem = path.stem().string();
  const auto numbers = path.parent_path() / (stem + "_gguf.safetensors");
  const auto model = path.parent_path() / stem / "expected.safetensors";
  const bool blocks = std::filesystem::exists(numbers);
  MOLE_CHECK_FORMAT(blocks || std::filesystem::exists(model), path, "has neither", numbers.filename(),
                    "nor a folder of its model beside it");
  const Golden golden((blocks ? numbers : model).string(), name, report);
  if (blocks) {
    const mole::GgufFile file(path);
    for (const auto& tensor : golden.file().names())
      golden.compare_with(tensor, file.read<double>(tensor), golden.numbers(tensor), 1e-30);
    return;
  }
  compare_causal(golden, *mole::load_causal<T, B>(path), "base");
}

/// sampling.safetensors: the probabilities after each processor, and after all.
inline void check_sampling(const Golden& golden) {
  const auto logits = golden.numbers("logits");
  const auto previous = golden.read<Index>("previous");
  const Shape shape = golden.shape("logits");
  const auto rows = static_cast<std::size_t>(shape[0]), V = static_cast<std::size_t>(shape[1]);
  const std::size_t seen = previous.size() / rows;
  const std::map<std::string, mole::SamplingOptions> cases{
      {"temperature_07", {.draw = true, .temperature = 0.7}},
      {"top_k_5", {.draw = true, .top_k = 5}},
      {"top_p_08", {.draw = true, .top_p = 0.8}},
      {"min_p_005", {.draw = true, .min_p = 0.05}},
      {"repetition_13", {.draw = true, .repetition_penalty = 1.3}},
      {"no_repeat_2", {.draw = true, .no_repeat_ngram = 2}},
      {"chain", {.draw = true, .repetition_penalty = 1.3, .temperature = 0.7, .top_k = 20, .top_p = 0.9}}};
  for (const auto& [name, options] : cases) {
    std::vector<double> found;
    for (std::size_t r = 0; r < rows; ++r) {
      std::vector<double> row(logits.begin() + static_cast<std::ptrdiff_t>(r * V),
                              logits.begin() + static_cast<std::ptrdiff_t>((r + 1) * V));
      const std::vector<Index> ids(previous.begin() + static_cast<std::ptrdiff_t>(r * seen),
                                   previous.begin() + static_cast<std::ptrdiff_t>((r + 1) * seen));
      mole::process_logits(row, ids, options);
      const auto p = mole::detail::probabilities(row);
      found.insert(found.end(), p.begin(), p.end());
    }
    golden.compare(name, found, name);
  }
}

}  // namespace golden
