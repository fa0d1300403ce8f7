#include "numbers/model.hpp"

#include <algorithm>
#include <iostream>
#include <span>
#include <utility>

#include <mole/io/attach.hpp>
#include <mole/io/t5_checkpoint.hpp>

#include "numbers/split.hpp"

template class mole::T5<numbers::Scalar, numbers::B>;
template class mole::Mixer<numbers::Scalar, numbers::B>;

namespace numbers {

using mole::Tensor;

namespace {

/// Sequences decoded together: enough to fill two cores, few enough to stay in their caches.
constexpr Index decode_batch = 100;
/// The longest target of the nine languages has 55 bytes; one token more ends it.
constexpr Index longest_answer = 56;

}  // namespace

std::filesystem::path shipped_base() { return std::filesystem::path(MOLE_NUMBERS_ASSETS) / "base"; }
std::filesystem::path shipped_experts() { return std::filesystem::path(MOLE_NUMBERS_ASSETS) / "experts"; }

std::string folder_name(const Task& task) { return task.source + "-" + task.target; }

mole::T5Batch<Scalar, B> batch_for(const Model& model, const std::vector<Example>& examples) {
  const auto& mixer = model.layers().mixer;
  const bool flatten = mixer && mixer->options().pooling == mole::Pooling::flatten;
  const auto batch = make_batch(examples, 8, flatten ? mixer->options().length : 0);
  const mole::Shape source{batch.size, batch.source_length}, target{batch.size, batch.target_length};
  const std::vector<Scalar> mask(batch.attention_mask.begin(), batch.attention_mask.end());
  return {Tensor<Index, B>::from(source, batch.input_ids), Values::from(source, mask),
          Tensor<Index, B>::from(target, batch.labels)};
}

std::string base_digest(const std::filesystem::path& folder) {
  const mole::SafetensorsFile file(folder / "model.safetensors");
  mole::detail::Digest digest;
  for (const auto& name : file.names()) {
    const auto& view = file.at(name);
    digest.add(std::as_bytes(std::span(name)));
    digest.add({view.data, static_cast<std::size_t>(view.bytes)});
  }
  return digest.hex();
}

Model load_base(const std::filesystem::path& folder) {
  std::vector<std::string> warnings;
  auto model = mole::load_t5<Scalar, B>(folder, &warnings);
  for (const auto& warning : warnings) std::cerr << "warning: " << warning << "\n";
  MOLE_CHECK_ARG(model.config().vocab_size >= vocabulary_size - 1, "base", folder.string(),
                 "has a vocabulary of", model.config().vocab_size, "tokens; this example's bytes need",
                 vocabulary_size - 1, "(make one with `numbers train-base`)");
  return model;
}

std::vector<mole::LoraSet> load_experts(const std::vector<std::string>& names,
                                        const std::filesystem::path& root) {
  MOLE_CHECK_ARG(!names.empty(),
                 "the list of experts is empty; name at least one, such as --experts 'en>fr,fr>en'");
  std::vector<mole::LoraSet> sets;
  for (const auto& name : names) {
    std::filesystem::path folder = name;
    std::string title = folder.filename().string();
    if (name.find('>') != std::string::npos) {
      folder = root / folder_name(parse_task(name));
      title = name;
    } else if (const auto dash = title.find('-'); dash != std::string::npos) {
      const auto source = title.substr(0, dash), target = title.substr(dash + 1);
      const auto& known = base_languages();
      auto is_known = [&](const std::string& l) {
        return std::find(known.begin(), known.end(), l) != known.end();
      };
      if (is_known(source) && is_known(target)) title = source + ">" + target;
    }
    MOLE_CHECK_ARG(std::filesystem::is_directory(folder), "expert", name + ": there is no folder",
                   folder.string(),
                   "(make it with `numbers train-expert --task ...`, or give the folder of a PEFT adapter)");
    auto adapter = mole::load_adapter(folder, title);
    for (const auto& warning : adapter.warnings) std::cerr << "warning: " << warning << "\n";
    sets.push_back(mole::lora_set(std::move(adapter)));
  }
  return sets;
}

std::vector<std::string> translate(const Model& model, const std::vector<std::string>& prompts, Pass& pass,
                                   Index beams) {
  std::vector<Example> examples;
  for (const auto& prompt : prompts) examples.push_back({{}, 0, prompt, ""});
  const auto batch = batch_for(model, examples);
  pass = {};
  pass.encoder_mask = batch.input_mask;
  const auto tokens =
      mole::generate(model, batch.input_ids, pass, {.max_new_tokens = longest_answer, .beams = beams});
  std::vector<std::string> answers;
  for (const auto& sequence : tokens) answers.push_back(decode({sequence.begin() + 1, sequence.end()}));
  return answers;
}

std::vector<double> exact_match(const Model& model, const std::vector<Task>& tasks, Index count,
                                const Tick& tick) {
  std::vector<double> rates;
  Index done = 0;
  for (const auto& task : tasks) {
    const auto examples = held_out_examples(task, count);
    Index right = 0;
    for (std::size_t first = 0; first < examples.size(); first += decode_batch) {
      const auto last = std::min(examples.size(), first + decode_batch);
      std::vector<std::string> prompts;
      for (auto i = first; i < last; ++i) prompts.push_back(examples[i].input);
      Pass pass;
      const auto answers = translate(model, prompts, pass);
      for (auto i = first; i < last; ++i) right += answers[i - first] == examples[i].target;
      tick(done += static_cast<Index>(last - first));
    }
    rates.push_back(static_cast<double>(right) / static_cast<double>(count));
  }
  return rates;
}

}  // namespace numbers
