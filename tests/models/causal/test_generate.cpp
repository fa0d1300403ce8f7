// How decoder-only models write on.

#include <cmath>
#include <limits>

#include <doctest/doctest.h>

#include <mole/mole.hpp>

#include <models/causal/tiny_causal.hpp>

using namespace mole;
using namespace mole::testing;

namespace {

using Pass = MolePass<double, Device>;
using Prompts = TokenBatch<double, Device>;

const std::vector<std::vector<Index>> prompts{{3, 9, 4, 1}, {8, 2}, {5}};

}  // namespace

TEST_CASE("A batch of padded prompts is continued as each prompt alone") {
  for (const auto& model : tiny_causal_models())
    for (const bool mixed : {false, true})
      for (const Index beams : {Index{1}, Index{3}}) {
        if (mixed) {
          model->attach(causal_adapters(*model), GateOptions{.scope = Scope::block});
          scatter(*model);
        }
        const CausalGenerateOptions options{.max_new_tokens = 6, .beams = beams};
        Pass pass;
        const auto together = generate(*model, pad_left<double, Device>(prompts, 0), pass, options);
        for (std::size_t i = 0; i < prompts.size(); ++i) {
          Pass own;
          const auto alone = generate(*model, pad_left<double, Device>({prompts[i]}, 0), own, options);
          CHECK(alone.tokens[0] == together.tokens[i]);
          CHECK(!alone.tokens[0].empty());
          CHECK(alone.tokens[0].size() <= 6);
        }
        model->detach();
      }
}

TEST_CASE("Each token is told at once, and a text stops at any of its ends") {
  const auto model = filled<Llama<double, Device>>(tiny_llama_config());
  model->set_tokens(-1, -1, {});
  Pass pass;
  std::vector<std::vector<Index>> told(prompts.size());
  CausalGenerateOptions options{.max_new_tokens = 8};
  options.on_token = [&](Index row, Index token) { told[static_cast<std::size_t>(row)].push_back(token); };
  const auto free = generate(*model, pad_left<double, Device>(prompts, 0), pass, options);
  CHECK(told == free.tokens);
  for (const auto& row : free.tokens) CHECK(row.size() == 8);
  // Two ends: a token of the first row, and one of another.
  model->set_tokens(-1, -1, {free.tokens[0][2], free.tokens[1][4]});
  const auto ended = generate(*model, pad_left<double, Device>(prompts, 0), pass, {.max_new_tokens = 8});
  for (std::size_t i = 0; i < prompts.size(); ++i) {
    std::vector<Index> wanted;
    for (const Index token : free.tokens[i]) {
      wanted.push_back(token);
      if (token == free.tokens[0][2] || token == free.tokens[1][4]) break;
    }
    CHECK(ended.tokens[i] == wanted);
  }
}

TEST_CASE("Draws follow the distribution, repeat with their seed, and do not depend on the other rows") {
  const auto model = filled<Llama<double, Device>>(tiny_llama_config());
  model->set_tokens(-1, 0, {});
  CausalCache<double, Device> cache;
  Pass pass;
  auto logits = model->next_logits(ids_of({{5}}), {}, pass, cache).to_host();
  const auto p = detail::probabilities(logits);
  std::vector<std::vector<Index>> many(4000, {5});
  CausalGenerateOptions options{.max_new_tokens = 1, .sampling = {.draw = true, .seed = 3}};
  Pass drawing;
  const auto drawn = generate(*model, pad_left<double, Device>(many, 0), drawing, options);
  std::vector<double> counts(17);
  for (const auto& row : drawn.tokens) counts[static_cast<std::size_t>(row[0])] += 1.0 / 4000;
  // Five standard deviations of 4000 draws at most.
  for (std::size_t i = 0; i < 17; ++i) CHECK(std::abs(counts[i] - p[i]) < 5 * std::sqrt(0.25 / 4000));

  options.max_new_tokens = 5;
  Pass a, b, c;
  const auto first = generate(*model, pad_left<double, Device>(prompts, 0), a, options);
  CHECK(first.tokens == generate(*model, pad_left<double, Device>(prompts, 0), b, options).tokens);
  CHECK(first.tokens[0] == generate(*model, pad_left<double, Device>({prompts[0]}, 0), c, options).tokens[0]);
  options.sampling.seed = 4;
  CHECK(first.tokens != generate(*model, pad_left<double, Device>(prompts, 0), b, options).tokens);
}

TEST_CASE("Penalties bar what was said, in greedy search, in beams and in draws") {
  const auto model = filled<Llama<double, Device>>(tiny_llama_config());
  model->set_tokens(-1, 0, {});
  for (const int way : {0, 1, 2}) {
    CausalGenerateOptions options{.max_new_tokens = 12, .beams = way == 1 ? 2 : 1};
    options.sampling.no_repeat_ngram = 1;
    options.sampling.draw = way == 2;
    Pass pass;
    const auto written = generate(*model, pad_left<double, Device>({{3, 9, 4, 1}}, 0), pass, options);
    std::vector<Index> all{3, 9, 4, 1};
    all.insert(all.end(), written.tokens[0].begin(), written.tokens[0].end());
    std::sort(all.begin(), all.end());
    CHECK(std::adjacent_find(all.begin(), all.end()) == all.end());
    CHECK(all.size() == 16);
  }
}

TEST_CASE("A token without probability is never drawn") {
  const double never = -std::numeric_limits<double>::infinity();
  CHECK(draw_token({never, 0, never, 0, never}, 0) == 1);
  CHECK(draw_token({never, 0, never, 0, never}, 0.5) == 3);
  CHECK(draw_token({never, 0, never, 0, never}, 0.999999) == 3);
  std::vector<double> logits{1, 3, 2, 3};
  process_logits(logits, {}, {.top_k = 1});
  CHECK(logits == std::vector<double>{never, 3, never, 3});
}

TEST_CASE("Prompts that cannot be continued are refused") {
  const auto model = filled<Llama<double, Device>>(tiny_llama_config());
  Pass pass;
  const Prompts right(ids_of({{3, 9}, {8, 0}}), mask_of({{1, 1}, {1, 0}}));
  CHECK(lacks<ArgumentError>([&] { generate(*model, right, pass); }, {"row 1", "left"}) == "");
  const Prompts empty(ids_of({{3, 9}, {0, 0}}), mask_of({{1, 1}, {0, 0}}));
  CHECK(lacks<ArgumentError>([&] { generate(*model, empty, pass); }, {"row 1", "no token"}) == "");
  const auto good = pad_left<double, Device>(prompts, 0);
  CHECK_THROWS_AS(generate(*model, good, pass, {.beams = 0}), ArgumentError);
  CHECK_THROWS_AS(generate(*model, good, pass, {.beams = 2, .sampling = {.draw = true}}), ArgumentError);
  CHECK_THROWS_AS(generate(*model, good, pass, {.sampling = {.draw = true, .temperature = 0}}),
                  ArgumentError);
  CHECK_THROWS_AS(generate(*model, good, pass, {.sampling = {.top_p = 1.5}}), ArgumentError);
  CHECK(lacks<ArgumentError>([&] { generate(*model, good, pass, {.max_new_tokens = 100}); },
                             {"longer", "32"}) == "");
  model->visit([](const std::string& name, const Shape&, Tensor<double, Device>& tensor) {
    if (name == "model.norm.weight") tensor.fill(std::nan(""));
  });
  CHECK(lacks<NumericError>([&] { generate(*model, good, pass); }, {"row 0", "NaN"}) == "");
  CHECK(lacks<NumericError>([&] { generate(*model, good, pass, {.beams = 2}); }, {"row 0", "NaN"}) == "");
}

TEST_CASE("Examples become batches of like length, padded and labelled") {
  const std::vector<CausalExample> examples{{{1, 2}, {3}}, {{4}, {5, 6, 7}}, {{8}, {}}};
  const auto batch = causal_batch<double, Device>(examples, 0);
  CHECK(batch.ids.to_host() == std::vector<Index>{1, 2, 3, 0, 4, 5, 6, 7, 8, 0, 0, 0});
  CHECK(batch.mask.to_host() == std::vector<double>{1, 1, 1, 0, 1, 1, 1, 1, 1, 0, 0, 0});
  CHECK(batch.prompt.to_host() == std::vector<double>{1, 1, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0});
  CHECK(batch.labels.to_host() ==
        std::vector<Index>{-100, -100, 3, -100, -100, 5, 6, 7, -100, -100, -100, -100});
  CHECK(causal_batch<double, Device>(examples, 0, 9).ids.shape() == Shape{3, 9});
  CHECK_THROWS_AS((causal_batch<double, Device>(examples, 0, 3)), ArgumentError);
  CHECK(batches_by_length(examples, 2) == std::vector<std::vector<std::size_t>>{{1, 0}, {2}});
  const auto left = pad_left<double, Device>({{1, 2, 3}, {4}}, 9);
  CHECK(left.ids.to_host() == std::vector<Index>{1, 2, 3, 9, 9, 4});
  CHECK(left.mask.to_host() == std::vector<double>{1, 1, 1, 0, 0, 1});
  CHECK_THROWS_AS((pad_left<double, Device>({{1}, {}}, 0)), ArgumentError);
}
