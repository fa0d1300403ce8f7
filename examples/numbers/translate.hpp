#pragma once
// `numbers translate`: one text through a saved mixture, and which experts its gates used.

#include <iostream>
#include <string>
#include <vector>

#include <mole/io/gates.hpp>

#include "common/files.hpp"
#include "numbers/assets.hpp"
#include "numbers/commands.hpp"
#include "numbers/gates.hpp"

namespace numbers {

/// See commands.hpp.
template <class B>
void translate(const TranslateOptions& options) {
  parse_prompt(options.prompt);
  if (!options.out.empty()) common::prepare_folder(options.out);
  auto model = load_base<B>(options.base);
  const auto file = mole::read_gates(options.gates);
  const auto& names = options.experts.empty() ? file.experts : options.experts;
  mole::attach_gates(model, load_experts(names, shipped_experts()), file);
  auto& mixer = model.mixer();
  if (!options.mask.empty()) mixer.set_mask(common::all_but(options.mask, mixer.names()));
  Pass<B> pass;
  const auto answers = translate(model, {options.prompt}, pass, options.beams);
  // Token gates differ from token to token: their mean is read off the whole answer at once.
  const mole::NoGrad off;
  model.logits(batch_for(model, {{{}, 0, options.prompt, answers.front()}}), pass = {});
  std::cout << answers.front() << "\n\n" << common::gate_text(common::mean_gates(mixer, pass), mixer.names());
  if (options.out.empty()) return;
  std::cout << "\n";
  for (const auto& plot : draw_gates(options.out, mole::token_gates(mixer.records(pass)), mixer.names(),
                                     options.prompt, answers.front()))
    report(plot);
}

}  // namespace numbers
