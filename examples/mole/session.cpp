#include "mole/session.hpp"

#include <iostream>
#include <utility>

#include "mole/experts.hpp"

namespace program {

TextCoder text_coder(const ModelFiles& files, const ModelOptions& options, const PromptTemplate& form) {
  if (form.name == "none" && has_chat_template(files.path))
    std::cerr
        << "note: the model brings a chat template, which is not used; --template chatml or a file of your own "
           "puts one around prompts\n";
  return {tokenizer_of(options.tokenizer.empty() ? files.path : options.tokenizer, files.facts), form,
          files.facts};
}

namespace {

const Models& models_of(const ModelOptions& options) {
  return options.bf16 ? models_bf16_on(options.backend) : models_on(options.backend);
}

}  // namespace

void check_start(const ModelOptions& model, const common::RunOptions& run) {
  models_of(model);
  common::check_checkpoint(run);
}

void warn_without_end(const ModelFiles& files) {
  if (files.facts.ends.empty())
    std::cerr << "warning: " << files.path.string()
              << " names no end of text (eos_token_id): what is trained on it does not learn to stop\n";
}

std::unique_ptr<LanguageModel> load(const ModelFiles& files, const ModelOptions& options) {
  std::vector<std::string> warnings;
  if (options.quantised && files.bytes_in_memory(true) == files.bytes_in_memory(false))
    warnings.push_back("--quantised does nothing: " + files.path.string() + " is not quantised");
  auto model = models_of(options).load(files.path, {options.frugal, options.quantised}, &warnings);
  for (const auto& warning : warnings) std::cerr << "warning: " << warning << "\n";
  return model;
}

GatedModel load_gated(const ModelOptions& options, const std::filesystem::path& gates,
                      const std::vector<std::string>& experts) {
  GatedModel made;
  made.gates = mole::read_gates(gates);
  const auto trained_with = template_of(made.gates);
  auto form = trained_with;
  if (!options.form.empty() || !options.system.empty()) {
    form = prompt_template(options.form.empty() ? trained_with.name : options.form, options.system);
    if (form.fingerprint() != trained_with.fingerprint())
      std::cerr << "warning: the gates were trained with the template " << trained_with.name
                << (trained_with.system.empty() ? "" : " and the system text '" + trained_with.system + "'")
                << "; with another they may choose other experts\n";
  }
  made.files = read_model_files(base_of(made.gates, options.base));
  const auto digest = made.gates.notes.find("base_digest");
  if (digest != made.gates.notes.end() && digest->second != made.files.digest)
    std::cerr << "warning: the gates were trained on another base than " << made.files.path.string()
              << ", or on other weights of it\n";
  made.experts = load_experts(experts_of(made.gates, experts));
  auto with_tokenizer = options;
  with_tokenizer.tokenizer = tokenizer_of(made.gates, options.tokenizer);
  made.coder = std::make_unique<TextCoder>(text_coder(made.files, with_tokenizer, form));
  mole::check_gates_match(made.gates, made.experts);
  made.model = load(made.files, options);
  made.model->attach(made.experts, made.gates);
  return made;
}

}  // namespace program
