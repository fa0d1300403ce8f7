// `mole generate`: answers by saved gates, or by the base alone, and which experts were used.

#include <algorithm>
#include <filesystem>
#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <mole/io/json.hpp>
#include <mole/models/causal/generation_config.hpp>

#include "common/command_line.hpp"
#include "common/files.hpp"
#include "common/gates.hpp"
#include "common/progress.hpp"
#include "mole/commands.hpp"
#include "mole/experts.hpp"
#include "mole/gate_pictures.hpp"
#include "mole/session.hpp"

namespace program {

namespace {

/// Gates by name, as --gates gives them: one file, which has no name, or NAME=FILE by comma.
std::vector<std::pair<std::string, std::filesystem::path>> named_gates(const std::string& text) {
  if (text.find('=') == text.npos || std::filesystem::exists(text)) return {{"", text}};
  std::vector<std::pair<std::string, std::filesystem::path>> list;
  for (const auto& part : common::split_list(text)) {
    const auto at = part.find('=');
    MOLE_CHECK_ARG(at != part.npos && at > 0 && at + 1 < part.size(), "--gates: expected NAME=FILE, got",
                   part);
    const auto name = part.substr(0, at);
    MOLE_CHECK_ARG(
        std::none_of(list.begin(), list.end(), [&](const auto& other) { return other.first == name; }),
        "--gates: two files are named", name);
    list.emplace_back(name, part.substr(at + 1));
  }
  return list;
}

GatedModel open(const GenerateOptions& options) {
  if (!options.gates.empty()) {
    const auto list = named_gates(options.gates);
    auto made = load_gated(options.model, list.front().second, options.experts);
    // The first answers lines that name none, and may be named too.
    if (!list.front().first.empty())
      for (const auto& [name, file] : list) made.model->add_gates(name, mole::read_gates(file));
    return made;
  }
  MOLE_CHECK_ARG(!options.model.base.empty(), "give --gates FILE, or --base for the base alone");
  MOLE_CHECK_ARG(
      options.experts.empty() && options.mask.empty() && !options.show_gates && options.out.empty(),
      "--experts, --mask, --show-gates and --out are of gates; give --gates FILE");
  GatedModel made;
  made.files = read_model_files(options.model.base);
  made.coder = std::make_unique<TextCoder>(
      text_coder(made.files, options.model, prompt_template(options.model.form, options.model.system)));
  made.model = load(made.files, options.model);
  return made;
}

/// Whether texts name the gates that answer them. Throws mole::ArgumentError for a name that --gates does not give, and
/// for options that are of one set of gates.
bool check_chosen(const std::vector<TextExample>& texts, const GenerateOptions& options) {
  const auto list = options.gates.empty() ? std::vector<std::pair<std::string, std::filesystem::path>>()
                                          : named_gates(options.gates);
  bool chosen = false;
  for (const auto& text : texts) {
    if (text.gates.empty()) continue;
    chosen = true;
    std::string known;
    for (const auto& [name, file] : list)
      if (!name.empty()) known += (known.empty() ? "" : ", ") + name;
    MOLE_CHECK_ARG(
        std::any_of(list.begin(), list.end(), [&](const auto& own) { return own.first == text.gates; }),
        text.where, "asks for the gates", "'" + text.gates + "';",
        known.empty() ? "name files by --gates NAME=FILE" : "--gates names " + known);
  }
  MOLE_CHECK_ARG(!chosen || (!options.show_gates && options.out.empty()),
                 "--show-gates and --out are of one set of gates, and lines of --file choose others");
  return chosen;
}

/// How tokens are drawn: as the options say, and where they do not, as the folder's generation_config.json does.
mole::SamplingOptions sampling_of(const GenerateOptions& options, const ModelFiles& files) {
  auto sampling = options.sampling;
  const auto path = files.path / "generation_config.json";
  if (!std::filesystem::exists(path)) return sampling;
  const auto said = mole::read_generation_options(path).sampling;
  if (files.facts.encoder_decoder) {
    if (said.repetition_penalty != 1 || said.no_repeat_ngram != 0)
      std::cerr << "note: " << path.string()
                << " asks for penalties, which this program has for decoders alone\n";
    return sampling;
  }
  const auto take = [&](const char* name, auto& value, auto own) {
    if (!options.given.contains(name)) value = own;
  };
  take("--repetition-penalty", sampling.repetition_penalty, said.repetition_penalty);
  take("--no-repeat-ngram", sampling.no_repeat_ngram, said.no_repeat_ngram);
  if (!sampling.draw || !said.draw) return sampling;
  take("--draw-temperature", sampling.temperature, said.temperature);
  take("--top-k", sampling.top_k, said.top_k);
  take("--top-p", sampling.top_p, said.top_p);
  take("--min-p", sampling.min_p, said.min_p);
  return sampling;
}

/// Whether a text ended where the model reads no further.
bool is_cut(const ModelFacts& facts, const std::vector<Index>& prompt, const std::vector<Index>& answer) {
  const auto length = static_cast<Index>(prompt.size() + answer.size());
  const bool ended =
      !answer.empty() && std::find(facts.ends.begin(), facts.ends.end(), answer.back()) != facts.ends.end();
  return !facts.encoder_decoder && facts.context > 0 && length >= facts.context && !ended;
}

/// Prints the answer as it is written where it comes token by token. Returns its tokens.
std::vector<Index> write_one(const GatedModel& with, const TextExample& example, WriteOptions write) {
  const bool streams = write.beams == 1 && !with.files.facts.encoder_decoder;
  mole::TextStream stream(with.coder->tokenizer());
  const auto& ends = with.files.facts.ends;
  if (streams)
    write.on_token = [&](Index, Index token) {
      if (std::find(ends.begin(), ends.end(), token) == ends.end())
        std::cout << stream.put(token) << std::flush;
    };
  auto tokens = with.model->write({with.coder->prompt(example)}, write).front();
  std::cout << (streams ? stream.finish() : with.coder->answer(tokens)) << "\n";
  return tokens;
}

void show_gates(const GatedModel& with, const GenerateOptions& options,
                const std::vector<mole::CausalExample>& examples, const std::string& title) {
  const auto& experts = with.model->experts();
  const auto gates = mean_gates(gate_statistics(*with.model, examples, options.batch), experts.size());
  if (options.show_gates) std::cout << "\n" << common::gate_text(gates, experts);
  if (options.out.empty()) return;
  common::GateHeat heat{{}, experts, {title}, {}};
  for (const auto& gate : gates) {
    heat.scopes.push_back(gate.scope);
    heat.values.insert(heat.values.end(), gate.weights.begin(), gate.weights.end());
  }
  report(common::plot_gates(options.out, "gates", heat,
                            {.title = "Gates", .subtitle = "mean weight of each expert"}));
}

}  // namespace

void generate(const GenerateOptions& options) {
  MOLE_CHECK_ARG(options.prompt.empty() != options.file.empty(),
                 "give one of --prompt TEXT and --file JSONL, the texts to answer");
  std::vector<TextExample> texts;
  if (options.file.empty())
    texts.push_back({.prompt = options.prompt, .where = "--prompt:"});
  else
    texts = read_examples(options.file, Answers::optional);
  if (!options.out.empty()) common::prepare_folder(options.out);
  const bool chosen = check_chosen(texts, options);
  const auto with = open(options);
  if (!options.mask.empty()) with.model->mask(common::all_but(options.mask, with.model->experts()));
  const WriteOptions write{.max_new_tokens = options.max_new_tokens,
                           .beams = options.beams,
                           .sampling = sampling_of(options, with.files)};

  // Token gates differ from token to token: their mean is read off prompt and answer at once.
  std::vector<mole::CausalExample> used;
  if (options.file.empty()) {
    used.push_back({with.coder->prompt(texts.front()), write_one(with, texts.front(), write)});
    if (is_cut(with.files.facts, used.back().prompt, used.back().answer))
      std::cerr << "note: the answer ends where it does as the model reads " << with.files.facts.context
                << " tokens, prompt and answer together\n";
  } else {
    common::Progress bar("generate", static_cast<Index>(texts.size()));
    const auto batch = static_cast<std::size_t>(options.batch);
    for (std::size_t first = 0; first < texts.size(); first += batch) {
      std::vector<std::vector<Index>> prompts;
      auto own = write;
      for (std::size_t i = first; i < std::min(texts.size(), first + batch); ++i) {
        prompts.push_back(with.coder->prompt(texts[i]));
        if (chosen) own.gates.push_back(texts[i].gates);
      }
      const auto written = with.model->write(prompts, own);
      for (std::size_t i = 0; i < written.size(); ++i) {
        mole::Json line{{"prompt", texts[first + i].prompt}, {"answer", with.coder->answer(written[i])}};
        if (!texts[first + i].answer.empty()) line["wanted"] = texts[first + i].answer;
        if (is_cut(with.files.facts, prompts[i], written[i])) line["cut"] = true;
        std::cout << mole::detail::json_text(line) << "\n";
        used.push_back({prompts[i], written[i]});
      }
      common::check_output();
      bar.update(static_cast<Index>(used.size()));
    }
  }
  if (options.show_gates || !options.out.empty())
    show_gates(with, options, used, options.file.empty() ? options.prompt : options.file.filename().string());
}

}  // namespace program
