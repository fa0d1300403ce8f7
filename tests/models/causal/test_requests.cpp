// Requests of several users in one batch, each with weights of its own; and an expert that takes another's place.

#include <doctest/doctest.h>

#include <mole/models/causal/generate.hpp>

#include "models/causal/tiny_causal.hpp"

using namespace mole;
using namespace mole::testing;

namespace request_tests {

namespace {

using Doubles = Tensor<double, Device>;
using Batch = CausalBatch<double, Device>;
using Pass = MolePass<double, Device>;
using Texts = std::vector<CausalExample>;

const Texts texts{{{1, 2, 3, 4}, {7, 16}}, {{5, 6, 9, 3}, {2, 16}}, {{9, 3, 8, 2}, {4, 16}}};
const std::vector<std::vector<double>> weights{{1, 0}, {0.25, 2}, {0, 0}};

Batch batch_of(const Texts& rows) { return causal_batch<double, Device>(rows, 0); }

/// The logits of a text, with or without weights of its own.
std::vector<double> alone(const CausalModel<double, Device>& model, std::size_t text, bool given = true) {
  Pass pass;
  if (given) pass.weights = Doubles::from({1, 2}, weights[text]);
  return model.logits(batch_of({texts[text]}), pass).to_host();
}

const std::vector<RouterOptions> routers{GateOptions{}, GateOptions{.pooling = Pooling::token},
                                         GateOptions{.scope = Scope::matrix, .top_k = 1},
                                         ArrowOptions{.top_k = 1}, XLoraOptions{}};

/// An adapter like `set` with other numbers and a rank.
LoraSet other_adapter(const LoraSet& set, Index rank) {
  LoraSet other{"other", "other's digest", set.slots, {}};
  other.factors = [set, rank](const std::string& slot) {
    const auto like = set.factors(slot);
    return random_factors(rank, like.d_in, like.d_out, 0.5, 900 + std::hash<std::string>()(slot) % 1000);
  };
  return other;
}

/// Makes the change, then the step, which a backend with graphs captured before.
template <class B, class Step, class Change>
void captured_over(Step step, Change change) {
  if constexpr (has_graphs<B>) {
    typename GraphOf<B>::type captured(step);
    change();
    captured.replay();
  } else {
    change();
    step();
  }
}

}  // namespace

TEST_CASE("Each sequence of a batch is mixed by the weights it was given, as if it were alone") {
  for (const auto& model : tiny_causal_models())
    for (const auto& router : routers) {
      CAPTURE(router_name(router));
      model->attach(causal_adapters(*model), router);
      Pass pass;
      pass.weights = Doubles::from({3, 2}, {1, 0, 0.25, 2, 0, 0});
      const auto together = model->logits(batch_of(texts), pass).to_host();
      std::vector<double> expected;
      for (std::size_t i = 0; i < texts.size(); ++i) {
        const auto one = alone(*model, i);
        expected.insert(expected.end(), one.begin(), one.end());
      }
      CHECK(worst_error(together, expected) <= 1e-12);
    }
}

TEST_CASE("Weights of one and zero are one expert alone, and zeros are the bare model") {
  for (const auto& model : tiny_causal_models()) {
    const auto adapters = causal_adapters(*model);
    const auto bare = alone(*model, 2, false);
    model->attach({adapters[0]}, GateOptions{});
    const auto first = alone(*model, 0, false);
    for (const auto& router : routers) {
      CAPTURE(router_name(router));
      model->attach(adapters, router);
      CHECK(worst_error(alone(*model, 0), first) <= 1e-12);
      CHECK(worst_error(alone(*model, 2), bare) <= 1e-12);
    }
    model->detach();
  }
}

TEST_CASE("Beams keep the weights of their own request") {
  for (const auto& model : tiny_causal_models()) {
    model->attach(causal_adapters(*model), GateOptions{.pooling = Pooling::token});
    const CausalGenerateOptions options{.max_new_tokens = 4, .beams = 3};
    const auto tokens_of = [&](const std::vector<std::size_t>& chosen) {
      std::vector<std::vector<Index>> ids;
      std::vector<double> given;
      for (const auto i : chosen) {
        ids.push_back(texts[i].prompt);
        given.insert(given.end(), weights[i].begin(), weights[i].end());
      }
      Pass pass;
      pass.weights = Doubles::from({static_cast<Index>(chosen.size()), 2}, given);
      return generate(*model, pad_left<double, Device>(ids, 0), pass, options).tokens;
    };
    const auto together = tokens_of({0, 1, 2});
    for (std::size_t i = 0; i < 3; ++i) CHECK(together[i] == tokens_of({i})[0]);
  }
}

TEST_CASE("Weights for another number of experts are refused") {
  const auto model = std::move(tiny_causal_models().front());
  model->attach(causal_adapters(*model), GateOptions{});
  Pass pass;
  pass.weights = Doubles::full({3, 4}, 1);
  CHECK(lacks<ShapeError>([&] { model->logits(batch_of(texts), pass); }, {"[S, 2 ]", "[3, 4]"}) == "");
}

TEST_CASE("An expert in another's place gives what it gives when it is attached from the start") {
  for (const auto& model : tiny_causal_models())
    for (const auto& router :
         std::vector<RouterOptions>{GateOptions{}, GateOptions{.scope = Scope::matrix, .top_k = 1}}) {
      auto adapters = causal_adapters(*model);
      const auto other = other_adapter(adapters[1], 2);
      const auto logits = [&] {
        Pass pass;
        return model->logits(batch_of(texts), pass).to_host();
      };
      model->attach({adapters[0], other}, router);
      scatter(*model);
      const auto expected = logits();
      model->attach(adapters, router);
      scatter(*model);
      const auto before = logits();
      model->replace_expert("qk", other);
      CHECK(worst_error(logits(), expected) <= 1e-12);
      CHECK(worst_error(before, expected) > 1e-6);
      CHECK(model->mixer().names() == std::vector<std::string>{"all", "other"});
      CHECK(model->mixer().digests()[1] == "other's digest");
    }
}

TEST_CASE("An expert takes another's place in the same memory, so that what was captured computes with it") {
  for (const auto& model : tiny_causal_models())
    for (const Index top_k : {0, 1}) {
      const GateOptions router{.top_k = top_k};
      const auto adapters = causal_adapters(*model);
      const auto other = other_adapter(adapters[1], 2);
      const auto batch = batch_of(texts);
      Doubles found;
      const auto step = [&] {
        const NoGrad off;
        Pass pass;
        const auto logits = model->logits(batch, pass);
        if (found.defined())
          found.assign(logits);
        else
          found = logits.clone();
      };
      model->attach({adapters[0], other}, router);
      scatter(*model);
      step();
      const auto expected = doubles(found);
      model->attach(adapters, router);
      scatter(*model);
      step();
      const auto places = [&] {
        std::vector<const double*> list;
        for (std::size_t slot = 0; slot < model->layers().table.slots.size(); ++slot) {
          const auto& stack = model->mixer().experts_at(slot);
          if (!stack.experts.empty()) list.insert(list.end(), {stack.A.data(), stack.Q.data()});
        }
        return list;
      };
      const auto before = places();
      captured_over<Device>(step, [&] { model->replace_expert("qk", other); });
      CHECK(places() == before);
      CHECK(worst_error(found, expected) <= 1e-12);
    }
}

TEST_CASE("An expert of a lower rank and fewer layers fits into another's place") {
  for (const auto& model : tiny_causal_models()) {
    const auto adapters = causal_adapters(*model);
    auto small = other_adapter(adapters[0], 1);
    small.slots.resize(2);
    model->attach({small}, GateOptions{});
    const auto expected = alone(*model, 0, false);
    model->attach(adapters, GateOptions{});
    model->replace_expert("all", small);
    CHECK(worst_error(alone(*model, 0), expected) <= 1e-12);
  }
}

TEST_CASE("An expert that does not fit into another's place is refused, and nothing changes") {
  const auto model = std::move(tiny_causal_models().front());
  const auto adapters = causal_adapters(*model);
  model->attach(adapters, GateOptions{});
  const auto before = alone(*model, 1);
  const auto refused = [&](const std::string& name, const LoraSet& set, const char* words) {
    return lacks<ArgumentError>([&] { model->replace_expert(name, set); }, {words});
  };
  CHECK(refused("nobody", other_adapter(adapters[0], 2), "nobody") == "");
  CHECK(refused("all", other_adapter(adapters[0], 3), "rank 3") == "");
  CHECK(refused("qk", other_adapter(adapters[0], 2), "adapts") == "");
  auto twin = other_adapter(adapters[1], 2);
  twin.name = "all";
  CHECK(refused("qk", twin, "another expert is named all") == "");
  CHECK(alone(*model, 1) == before);
  model->attach(adapters, ArrowOptions{});
  CHECK(refused("qk", other_adapter(adapters[1], 2), "arrow") == "");
}

}  // namespace request_tests
