// Requests of one batch that are weighed by different sets of gates over the same experts, or by fixed weights: each as
// if it were alone.

#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <mole/io/gates.hpp>
#include <mole/models/causal/generate.hpp>

#include "io/folder.hpp"
#include "models/causal/tiny_causal.hpp"

using namespace mole;
using namespace mole::testing;

namespace gate_sets {

namespace {

using Doubles = Tensor<double, Device>;
using Model = CausalModel<double, Device>;
using Pass = MolePass<double, Device>;

constexpr Index fixed = Pass::fixed;

/// Texts of several lengths, so that a batch of them is padded.
const std::vector<CausalExample> texts{{{1, 2, 3, 4}, {7, 16}},
                                       {{5, 6}, {2, 16}},
                                       {{9, 3, 8, 2, 11}, {4, 16}},
                                       {{4, 4, 2}, {16}},
                                       {{7}, {1, 3, 16}}};
/// What each of them asks for: the number of a set, or fixed weights.
const std::vector<Index> asked{1, 0, fixed, 2, 1};
const std::vector<double> given{0.75, -0.5};

const std::vector<RouterOptions> routers{
    GateOptions{},
    GateOptions{.pooling = Pooling::token, .top_k = 1},
    GateOptions{.scope = Scope::matrix, .pooling = Pooling::token},
    GateOptions{.scope = Scope::matrix, .top_k = 1},
    GateOptions{.scope = Scope::network, .input = GateInput::hidden, .gate_rank = 1},
    GateOptions{.input_scale = InputScale::standardised},
    ArrowOptions{.top_k = 1},
    XLoraOptions{.pooling = Pooling::mean, .top_k = 1},
    XLoraOptions{.pooling = Pooling::token, .first_pass = 0.5}};

CausalBatch<double, Device> batch_of(const std::vector<CausalExample>& rows) {
  return causal_batch<double, Device>(rows, 0);
}

/// Files of three sets of gates: 0 will be the model's own.
std::vector<GatesFile> trained(Model& model, const std::vector<LoraSet>& adapters,
                               const RouterOptions& router) {
  const io_test::Folder folder;  // the files stay mapped
  std::vector<GatesFile> files;
  for (std::uint64_t k = 0; k < 3; ++k) {
    model.attach(adapters, router);
    if (placement_of(router).input_scale != InputScale::unit) {
      auto seen = texts;
      for (auto& text : seen) text.prompt.push_back(static_cast<Index>(k) + 1);
      model.standardise_gates({batch_of(seen)});
    }
    std::uint64_t stream = 10 * k;
    for (const auto& parameter : model.mixer().parameters())
      parameter.assign(noise<double>(parameter.shape(), ++stream));
    const auto path = folder / ("gates" + std::to_string(k));
    save_gates(path, model.mixer());
    files.push_back(read_gates(path));
  }
  return files;
}

/// The model with these gates, the first its own and the others as sets "one" and "two".
void take(Model& model, const std::vector<LoraSet>& adapters, const std::vector<GatesFile>& files) {
  attach_gates(model, adapters, files[0]);
  add_gates(model, "one", files[1]);
  add_gates(model, "two", files[2]);
}

/// Attaches the gates of a set as the model's own, or gives the pass fixed weights.
Pass alone(Model& model, const std::vector<LoraSet>& adapters, const std::vector<GatesFile>& files,
           Index set) {
  attach_gates(model, adapters, files[set < 0 ? 0 : static_cast<std::size_t>(set)]);
  Pass pass;
  if (set == fixed) pass.weights = Doubles::from({1, 2}, given);
  return pass;
}

Pass together(const std::vector<Index>& sets) {
  Pass pass;
  pass.sets = sets;
  std::vector<double> weights;
  for (std::size_t i = 0; i < sets.size(); ++i) weights.insert(weights.end(), given.begin(), given.end());
  pass.weights = Doubles::from({static_cast<Index>(sets.size()), 2}, weights);
  return pass;
}

/// The worst error of the logits of each text in a batch of all against those of the text alone.
double worst_difference(Model& model, const RouterOptions& router, const std::vector<bool>& mask) {
  const auto adapters = causal_adapters(model);
  const auto files = trained(model, adapters, router);
  take(model, adapters, files);
  model.mixer().set_mask(mask);
  auto pass = together(asked);
  const auto all = model.logits(batch_of(texts), pass).to_host();
  const std::size_t length = all.size() / texts.size();
  double worst = 0;
  for (std::size_t i = 0; i < texts.size(); ++i) {
    auto own = alone(model, adapters, files, asked[i]);
    model.mixer().set_mask(mask);
    const auto expected = model.logits(batch_of({texts[i]}), own).to_host();
    const auto begin = all.begin() + static_cast<std::ptrdiff_t>(i * length);
    // What follows is padding.
    const std::vector<double> found(begin, begin + static_cast<std::ptrdiff_t>(expected.size()));
    worst = std::max(worst, worst_error(found, expected));
  }
  return worst;
}

}  // namespace

TEST_CASE("Each request of a batch is weighed by the set of gates it asks for, as if it were alone") {
  for (const auto& model : tiny_causal_models())
    for (const auto& router : routers) {
      CAPTURE(
          message(router_name(router), to_string(placement_of(router).pooling), placement_of(router).top_k));
      CHECK(worst_difference(*model, router, {true, true}) <= 1e-12);
    }
}

TEST_CASE("Off the tape, where a device weighs all sets in one go, each request is as if it were alone") {
  const auto model = std::move(tiny_causal_models().front());
  for (const auto& router : routers) {
    CAPTURE(message(router_name(router), to_string(placement_of(router).pooling)));
    const auto adapters = causal_adapters(*model);
    const auto files = trained(*model, adapters, router);
    const std::vector<Index> sets{1, 0, 2, 2, 1};
    const NoGrad off;
    for (const bool masked : {false, true}) {
      take(*model, adapters, files);
      model->mixer().set_mask({!masked, true});
      auto pass = together(sets);
      const auto all = model->logits(batch_of(texts), pass).to_host();
      for (std::size_t i = 0; i < texts.size(); ++i) {
        auto own = alone(*model, adapters, files, sets[i]);
        model->mixer().set_mask({!masked, true});
        const auto expected = model->logits(batch_of({texts[i]}), own).to_host();
        const auto begin = all.begin() + static_cast<std::ptrdiff_t>(i * (all.size() / texts.size()));
        CHECK(worst_error({begin, begin + static_cast<std::ptrdiff_t>(expected.size())}, expected) <= 1e-12);
      }
    }
  }
}

TEST_CASE("A mask of experts holds for every set of gates") {
  const auto model = std::move(tiny_causal_models().front());
  for (const auto& router : routers) CHECK(worst_difference(*model, router, {false, true}) <= 1e-12);
}

TEST_CASE("Sets of gates differ, so that a request with the wrong one would be noticed") {
  const auto model = std::move(tiny_causal_models().front());
  const auto adapters = causal_adapters(*model);
  take(*model, adapters, trained(*model, adapters, GateOptions{}));
  const auto logits = [&](Index set) {
    auto pass = together({set});
    return model->logits(batch_of({texts[0]}), pass).to_host();
  };
  CHECK(worst_error(logits(1), logits(0)) > 1e-3);
  CHECK(worst_error(logits(2), logits(1)) > 1e-3);
  CHECK(worst_error(logits(fixed), logits(1)) > 1e-3);
}

TEST_CASE("Requests keep their sets of gates while their answers are written, by beams too") {
  for (const auto& model : tiny_causal_models())
    for (const auto& router : routers)
      for (const Index beams : {1, 3}) {
        CAPTURE(message(router_name(router), to_string(placement_of(router).pooling), beams));
        const auto adapters = causal_adapters(*model);
        const auto files = trained(*model, adapters, router);
        take(*model, adapters, files);
        const CausalGenerateOptions options{.max_new_tokens = 4, .beams = beams};
        std::vector<std::vector<Index>> prompts;
        for (const auto& text : texts) prompts.push_back(text.prompt);
        auto pass = together(asked);
        const auto all = generate(*model, pad_left<double, Device>(prompts, 0), pass, options).tokens;
        for (std::size_t i = 0; i < texts.size(); ++i) {
          auto own = alone(*model, adapters, files, asked[i]);
          CHECK(all[i] ==
                generate(*model, pad_left<double, Device>({prompts[i]}, 0), own, options).tokens[0]);
        }
      }
}

TEST_CASE("A pass whose sets of gates do not fit its batch is refused") {
  const auto model = std::move(tiny_causal_models().front());
  const auto adapters = causal_adapters(*model);
  const auto files = trained(*model, adapters, GateOptions{});
  take(*model, adapters, files);
  const auto run = [&](Pass pass) { model->logits(batch_of({texts[0], texts[1]}), pass); };
  CHECK(lacks<ShapeError>([&] { run(together({1})); }, {"each of 2 sequences", "got 1"}) == "");
  CHECK(lacks<ArgumentError>([&] { run(together({0, 3})); }, {"no set of gates 3", "last one is 2"}) == "");
  CHECK(lacks<ArgumentError>([&] { run(together({0, -2})); }, {"no set of gates -2"}) == "");
  Pass without_weights;
  without_weights.sets = {0, fixed};
  CHECK(lacks<ShapeError>([&] { run(without_weights); }, {"[2, 2]"}) == "");
  CHECK(model->mixer().gate_set("two") == 2);
  CHECK(lacks<ArgumentError>([&] { model->mixer().gate_set("three"); }, {"three", "one, two"}) == "");
  attach_gates(*model, adapters, files[0]);
  CHECK(lacks<ArgumentError>([&] { model->mixer().gate_set("one"); }, {"none was added"}) == "");
}

TEST_CASE(
    "A set of gates of other experts, another router or other options is refused, and no set is added") {
  const auto model = std::move(tiny_causal_models().front());
  const auto adapters = causal_adapters(*model);
  const auto others = trained(*model, adapters, GateOptions{.top_k = 1});
  const auto arrow = trained(*model, adapters, ArrowOptions{});
  auto changed = adapters;
  changed[1].digest = "another digest";
  const auto stranger = trained(*model, changed, GateOptions{});
  attach_gates(*model, adapters, trained(*model, adapters, GateOptions{})[0]);
  const auto refused = [&](const GatesFile& file, const char* words) {
    return lacks<FormatError>([&] { add_gates(*model, "set", file); }, {words});
  };
  CHECK(refused(others[0], "top_k") == "");
  CHECK(refused(arrow[0], "arrow") == "");
  CHECK(refused(stranger[0], "another digest") == "");
  CHECK(lacks<ArgumentError>([&] { model->mixer().gate_set("set"); }, {"none was added"}) == "");
}

TEST_CASE("A set that is added again takes the place of the one of its name, and trains nothing") {
  const auto model = std::move(tiny_causal_models().front());
  const auto adapters = causal_adapters(*model);
  const auto files = trained(*model, adapters, GateOptions{});
  take(*model, adapters, files);
  add_gates(*model, "one", files[2]);
  CHECK(model->mixer().gate_set("one") == 1);
  CHECK(model->mixer().gate_set("two") == 2);
  const auto logits = [&](Index set) {
    auto pass = together({set});
    return model->logits(batch_of({texts[0]}), pass);
  };
  CHECK(logits(1).to_host() == logits(2).to_host());
  CHECK(logits(0).requires_grad());
  CHECK(!logits(1).requires_grad());
}

}  // namespace gate_sets
