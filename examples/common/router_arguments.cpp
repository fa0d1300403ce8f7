#include "common/router_arguments.hpp"

#include <algorithm>
#include <utility>
#include <variant>

#include "common/command_line.hpp"

namespace common {

namespace {

std::string text_of(const mole::XLoraOptions& x) {
  return mole::message("depth", x.depth, "width", x.width, "softmax", x.softmax, "renormalise",
                       static_cast<int>(x.renormalize), "weight", x.weight, "first pass", x.first_pass);
}

}  // namespace

mole::RouterOptions router_of(const RouterChoice& choice) {
  auto router = mole::router_named(choice.router, choice.gates);
  if (auto* gates = std::get_if<mole::GateOptions>(&router)) gates->gate_rank = choice.gates.gate_rank;
  if (auto* placed = std::get_if<mole::XLoraOptions>(&router)) {
    auto xlora = choice.xlora;
    xlora.scope = placed->scope;
    xlora.pooling = placed->pooling;
    xlora.top_k = placed->top_k;
    xlora.temperature = placed->temperature;
    xlora.input_scale = placed->input_scale;
    router = xlora;
  }
  return router;
}

bool has_shares(const RouterChoice& choice) { return choice.router != "xlora" || choice.xlora.softmax; }

std::string method_name(const std::string& router, const mole::GateOptions& gates) {
  if (router == "arrow") return "Arrow";
  std::string method = (router == "xlora" ? "X-LoRA " : "MoLE ") + std::string(to_string(gates.scope));
  if (gates.pooling != mole::Pooling::mean) method += std::string(", ") + to_string(gates.pooling) + " gate";
  if (router == "hidden" || gates.input == mole::GateInput::hidden) method += ", hidden input";
  if (gates.input_scale == mole::InputScale::common) method += ", one spread";
  return method;
}

std::string own_options(const RouterChoice& choice) {
  if (choice.gates.gate_rank > 0 && (choice.router == "mole" || choice.router == "hidden"))
    return "gate rank " + std::to_string(choice.gates.gate_rank);
  const auto text = text_of(choice.xlora);
  return choice.router == "xlora" && text != text_of({}) ? text : "";
}

RouterArguments::RouterArguments(CLI::App& command, RouterChoice& options)
    : options_(options),
      scope_(to_string(options.gates.scope)),
      pooling_(to_string(options.gates.pooling)),
      input_(to_string(options.gates.input)),
      input_scale_(to_string(options.gates.input_scale)) {
  command
      .add_option("--router", options.router,
                  "who decides how much of each expert a layer gets\n"
                  "mole: the paper's gates, which read what the experts make of the input\n"
                  "hidden: the released code's gates, which read the input itself\n"
                  "arrow: not trained; each layer and token takes the experts it points along\n"
                  "xlora: a classifier of the model's last state (T5: the encoder's) scales the experts in\n"
                  "a second pass")
      ->capture_default_str();
  add_placement(command);
  command
      .add_option("--top-k", options.gates.top_k,
                  "keep the k largest gates, of any router; 0 keeps all\n"
                  "(all but xlora divide them by their sum)")
      ->capture_default_str();
  temperature_ = command
                     .add_option("--temperature", options.gates.temperature,
                                 "what a gate's logits are divided by: a high one mixes, a low one chooses\n"
                                 "(MoLE trains it from here; arrow and xlora have 1 if it is not given)")
                     ->capture_default_str()
                     ->check(positive_number());
  alpha_ = command
               .add_option("--alpha", options.alpha,
                           "weight of the balance loss (eq. 16); 0 where a batch needs few of the experts")
               ->capture_default_str()
               ->check(number_from_zero());
  add_xlora(command);
}

void RouterArguments::add_placement(CLI::App& command) {
  const auto add = [&](CLI::Option* option, std::vector<std::string> routers) {
    owned_.push_back({option, std::move(routers)});
    return option;
  };
  add(command.add_option("--scope", scope_,
                         "matrices that share a gate: matrix (X-LoRA's layerwise scalings), layer,\n"
                         "block, network (X-LoRA's one global scaling); arrow has one a matrix"),
      {"mole", "hidden", "xlora"})
      ->capture_default_str();
  add(command.add_option("--pooling", pooling_,
                         "tokens a gate reads: flatten (all, of sequences of one --length; not xlora),\n"
                         "mean (one gate a sequence), token (one a token; xlora's in the decoder are one\n"
                         "a sequence); arrow has one a token"),
      {"mole", "hidden", "xlora"})
      ->capture_default_str();
  add(command.add_option("--length", options_.gates.length, "tokens of a sequence, for flatten pooling"),
      {"mole", "hidden"})
      ->check(positive());
  add(command.add_option("--input", input_,
                         "what MoLE's gate reads: experts (their outputs), hidden (the scope's input)"),
      {"mole"})
      ->capture_default_str();
  add(command.add_option("--gate-rank", options_.gates.gate_rank,
                         "gates as products of two matrices of this rank, for many experts; 0: whole"),
      {"mole", "hidden"})
      ->capture_default_str()
      ->check(whole(0, Index{1} << 40, ">=0"));
  add(command.add_option("--input-scale", input_scale_,
                         "unit: gates read it as their papers have it\n"
                         "standardised: without its mean, each feature over its spread on the examples\n"
                         "common: the same with one spread for all features"),
      {"mole", "hidden", "xlora"})
      ->capture_default_str();
}

void RouterArguments::add_xlora(CLI::App& command) {
  auto& xlora = options_.xlora;
  const auto own = [&](CLI::Option* option) {
    option->capture_default_str()->group("X-LoRA (--router xlora)");
    owned_.push_back({option, {"xlora"}});
    return option;
  };
  const auto scaling = number(-1e6, 1e6, "-1e6..1e6");
  own(command.add_option("--xlora-depth", xlora.depth, "linear layers of the classifier, ReLU between them"))
      ->check(whole(1, 64, "1..64"));
  width_ = own(command.add_option("--xlora-width", xlora.width, "of its hidden layers, from a depth of 2 on"))
               ->check(whole(1, 1 << 20, ">=1"));
  own(command.add_option("--xlora-scalings", scalings_,
                         "softmax: shares of one\n"
                         "raw: the classifier's outputs, of any sign and size; no balance loss"));
  own(command.add_option("--xlora-renormalize", renormalize_,
                         "what becomes of the scalings that --top-k leaves: none (as they are),\n"
                         "sum (divided by their sum), softmax (a softmax of them, PEFT's way)"));
  own(command.add_option("--xlora-weight", xlora.weight,
                         "global weight of all experts, after everything else"))
      ->check(scaling);
  own(command.add_option("--xlora-first-pass", xlora.first_pass,
                         "every expert's scaling in the pass that the classifier reads; 0: the bare model"))
      ->check(scaling);
}

void RouterArguments::check_owners() const {
  for (const auto& [option, routers] : owned_) {
    if (option->count() == 0) continue;
    std::string owners;
    for (const auto& owner : routers) owners += (owners.empty() ? "" : " or ") + owner;
    MOLE_CHECK_ARG(std::find(routers.begin(), routers.end(), options_.router) != routers.end(),
                   option->get_name(), "is for --router", owners + ", and the router is",
                   options_.router + "; leave it out or choose another router");
  }
}

void RouterArguments::read() {
  auto& gates = options_.gates;
  auto& xlora = options_.xlora;
  mole::router_named(options_.router);
  check_owners();
  gates.scope = mole::parse_scope(scope_);
  gates.pooling = mole::parse_pooling(pooling_);
  gates.input = mole::parse_gate_input(input_);
  gates.input_scale =
      options_.router == "arrow" ? mole::InputScale::unit : mole::parse_input_scale(input_scale_);
  if (options_.router != "arrow" && options_.router != "xlora") return;
  if (temperature_->count() == 0) gates.temperature = 1;
  if (options_.router == "arrow") return;

  MOLE_CHECK_ARG(gates.pooling != mole::Pooling::flatten,
                 "--pooling flatten is for MoLE's gates; X-LoRA scales tokens (token) or sequences (mean)");
  MOLE_CHECK_ARG(scalings_ == "softmax" || scalings_ == "raw", "--xlora-scalings",
                 scalings_ + ": choose softmax or raw");
  xlora.softmax = scalings_ == "softmax";
  xlora.renormalize = mole::parse_renormalize(renormalize_);
  MOLE_CHECK_ARG(width_->count() == 0 || xlora.depth > 1,
                 "--xlora-width is of the classifier's hidden layers; give --xlora-depth of 2 or more");
  MOLE_CHECK_ARG(xlora.renormalize == mole::Renormalize::none || gates.top_k > 0,
                 "--xlora-renormalize is of the scalings that top-k leaves; give --top-k");
  if (xlora.softmax) return;
  MOLE_CHECK_ARG(alpha_->count() == 0 || options_.alpha == 0,
                 "--xlora-scalings raw are no shares of one and have no balance loss; leave --alpha out");
  options_.alpha = 0;
}

}  // namespace common
