// What holds for every decoder-only model: padding, the prompt's gates, the cache, the loss.

#include <doctest/doctest.h>

#include <mole/mole.hpp>

#include <models/causal/tiny_causal.hpp>

using namespace mole;
using namespace mole::testing;

namespace {

using Batch = CausalBatch<double, Device>;
using Pass = MolePass<double, Device>;

/// The same two texts, one shorter, padded on the right or on the left; the last tokens are the answer.
Batch right_batch() {
  return {ids_of({{3, 9, 4, 1, 7, 5}, {8, 2, 6, 11, 0, 0}}),
          mask_of({{1, 1, 1, 1, 1, 1}, {1, 1, 1, 1, 0, 0}}),
          mask_of({{1, 1, 1, 0, 0, 0}, {1, 1, 0, 0, 0, 0}}),
          ids_of({{-100, -100, -100, 1, 7, 5}, {-100, -100, 6, 11, -100, -100}})};
}
Batch left_batch() {
  return {ids_of({{3, 9, 4, 1, 7, 5}, {0, 0, 8, 2, 6, 11}}),
          mask_of({{1, 1, 1, 1, 1, 1}, {0, 0, 1, 1, 1, 1}}),
          mask_of({{1, 1, 1, 0, 0, 0}, {0, 0, 1, 1, 0, 0}}),
          ids_of({{-100, -100, -100, 1, 7, 5}, {-100, -100, -100, -100, 6, 11}})};
}

/// The logits of the real tokens, row by row.
std::vector<double> real_rows(const Tensor<double, Device>& logits, const Tensor<double, Device>& mask) {
  const auto all = logits.to_host(), real = mask.to_host();
  const auto V = static_cast<std::size_t>(logits.size(-1));
  std::vector<double> kept;
  for (std::size_t i = 0; i < real.size(); ++i)
    if (real[i] != 0)
      kept.insert(kept.end(), all.begin() + static_cast<std::ptrdiff_t>(i * V),
                  all.begin() + static_cast<std::ptrdiff_t>((i + 1) * V));
  return kept;
}

std::vector<GateOptions> prompt_policies() {
  return {{.scope = Scope::block},
          {.scope = Scope::network},
          {.scope = Scope::layer, .top_k = 1},
          {.scope = Scope::matrix, .input = GateInput::hidden}};
}

}  // namespace

TEST_CASE("Padding on the left or on the right gives the same logits, gates and loss") {
  for (const auto& model : tiny_causal_models()) {
    CAPTURE(model->config().model_type);
    for (const bool mixed : {false, true}) {
      if (mixed) {
        model->attach(causal_adapters(*model), GateOptions{.scope = Scope::block});
        scatter(*model);
      }
      const auto right = right_batch(), left = left_batch();
      Pass a, b, c, d;
      const auto x = model->logits(right, a), y = model->logits(left, b);
      CHECK(worst_error(real_rows(x, right.mask), real_rows(y, left.mask)) < 1e-12);
      CHECK(model->loss(right, c).item() == doctest::Approx(model->loss(left, d).item()).epsilon(1e-12));
      if (!mixed) continue;
      const auto records = model->mixer().records(a), others = model->mixer().records(b);
      REQUIRE(records.size() == 2);
      for (std::size_t i = 0; i < records.size(); ++i)
        CHECK(worst_error(records[i].value.weights, doubles(others[i].value.weights)) < 1e-12);
    }
  }
}

TEST_CASE("The answer changes neither the gates nor the logits before it") {
  for (const auto& model : tiny_causal_models())
    for (const auto& policy : prompt_policies()) {
      model->attach(causal_adapters(*model), policy);
      scatter(*model);
      auto batch = right_batch();
      Pass a, b;
      const auto x = model->logits(batch, a).to_host();
      batch.ids = ids_of({{3, 9, 4, 12, 13, 14}, {8, 2, 15, 10, 0, 0}});
      const auto y = model->logits(batch, b).to_host();
      const auto records = model->mixer().records(a), others = model->mixer().records(b);
      REQUIRE(!records.empty());
      for (std::size_t i = 0; i < records.size(); ++i)
        CHECK(worst_error(records[i].value.weights, doubles(others[i].value.weights)) == 0);
      for (std::size_t i = 0; i < 3 * 17; ++i) CHECK(x[i] == y[i]);
      CHECK(x != y);
    }
}

TEST_CASE("Token by token with a cache, the logits are those of the whole text") {
  for (const auto& model : tiny_causal_models())
    for (const int way : {0, 1, 2, 3, 4}) {
      CAPTURE(model->config().model_type);
      CAPTURE(way);
      if (way == 1) model->attach(causal_adapters(*model), GateOptions{.scope = Scope::block});
      if (way == 2)
        model->attach(causal_adapters(*model), GateOptions{.scope = Scope::layer, .pooling = Pooling::token});
      if (way == 1 || way == 2) scatter(*model);
      if (way == 3) model->attach(causal_adapters(*model), XLoraOptions{});
      if (way == 4) model->attach(causal_adapters(*model), XLoraOptions{.pooling = Pooling::mean});
      auto whole = left_batch();
      whole.prompt = mask_of({{1, 1, 1, 0, 0, 0}, {0, 0, 1, 0, 0, 0}});
      Pass pass, decoding;
      const NoGrad off;
      const auto expected = model->logits(whole, pass);
      CausalCache<double, Device> cache;
      for (Index t = 3; t <= 6; ++t) {
        const Index from = t == 3 ? 0 : t - 1;
        const auto found = model->next_logits(
            Tensor<Index, Device>::from({2, t - from},
                                        [&] {
                                          const auto ids = whole.ids.to_host();
                                          std::vector<Index> part;
                                          for (Index s = 0; s < 2; ++s)
                                            for (Index l = from; l < t; ++l)
                                              part.push_back(ids[static_cast<std::size_t>(s * 6 + l)]);
                                          return part;
                                        }()),
            slice(whole.mask, 1, 0, t), decoding, cache);
        CHECK(worst_error(found, doubles(reshape(slice(expected, 1, t - 1, t), {2, 17}))) < 1e-12);
      }
      CHECK(cache.length() == 6);
      model->detach();
    }
}

TEST_CASE("The loss by chunks of labelled tokens is the cross entropy of all logits, with its gradients") {
  for (const auto& model : tiny_causal_models()) {
    model->attach(causal_adapters(*model), GateOptions{.scope = Scope::block});
    scatter(*model);
    const auto batch = right_batch();
    std::vector<std::vector<double>> gradients[2];
    double losses[2];
    for (const int way : {0, 1}) {
      for (auto& parameter : model->mixer().parameters()) parameter.zero_grad();
      Pass pass;
      const auto loss = way == 0 ? model->loss(batch, pass, {.chunk_numbers = 40})
                                 : cross_entropy(model->logits(batch, pass), next_labels(batch.labels, 17));
      losses[way] = loss.item();
      backward(loss);
      for (const auto& parameter : model->mixer().parameters())
        gradients[way].push_back(doubles(parameter.grad()));
    }
    CHECK(losses[0] == doctest::Approx(losses[1]).epsilon(1e-13));
    for (std::size_t i = 0; i < gradients[0].size(); ++i) {
      CHECK(worst_error(gradients[0][i], gradients[1][i]) < 1e-13);
      CHECK(std::any_of(gradients[0][i].begin(), gradients[0][i].end(), [](double g) { return g != 0; }));
    }
  }
}

TEST_CASE("A base that trains has gradients for its head and for all its blocks") {
  for (const auto& model : tiny_causal_models()) {
    auto parameters = model->trainable_parameters();
    Pass pass;
    backward(model->loss(right_batch(), pass));
    for (const auto& parameter : parameters) CHECK(parameter.grad().defined());
  }
}

TEST_CASE("Blocks that are run again give the same loss and gradients, the balance loss's among them") {
  for (const auto& model : tiny_causal_models()) {
    auto policies = prompt_policies();
    policies.push_back({.scope = Scope::matrix, .pooling = Pooling::token});
    policies.push_back({.scope = Scope::block, .pooling = Pooling::token});
    for (std::size_t i = 0; i <= policies.size() + 1; ++i) {
      CAPTURE(model->config().model_type);
      CAPTURE(i);
      if (i < policies.size()) {
        model->attach(causal_adapters(*model), policies[i]);
        scatter(*model);
      } else if (i == policies.size()) {
        model->attach(causal_adapters(*model), XLoraOptions{});
      } else {
        model->detach();
        Generator generator{3};
        model->layers().table.add_lora(2, 4, generator);
        for (auto& slot : model->layers().table.slots)
          slot.lora.up.assign(Tensor<double, Device>::randn(slot.lora.up.shape(), generator.next(), 0.3));
      }
      const bool mixed = model->layers().mixer.has_value();
      const auto parameters = mixed ? model->mixer().parameters() : model->layers().table.lora_parameters();
      double losses[3];
      std::vector<std::vector<double>> gradients[3];
      for (const int way : {0, 1, 2}) {
        model->checkpoint_blocks(way > 0);
        model->offload_blocks(way == 2);
        for (const auto& parameter : parameters) parameter.zero_grad();
        Pass pass;
        if (way == 2) pass.offload = std::make_shared<Offload<double, Device>>(0);  // of all sizes
        auto loss = model->loss(right_batch(), pass);
        if (mixed) loss = add(loss, scale(model->balance(pass), 0.3));
        losses[way] = loss.item();
        backward(loss);
        for (const auto& parameter : parameters)
          gradients[way].push_back(parameter.grad().defined() ? doubles(parameter.grad())
                                                              : std::vector<double>());
      }
      CHECK(losses[0] == losses[1]);
      for (std::size_t k = 0; k < parameters.size(); ++k)
        CHECK(worst_error(gradients[1][k], gradients[0][k]) < 1e-12);
      // Where the inputs wait changes nothing at all.
      CHECK(losses[1] == losses[2]);
      CHECK(gradients[1] == gradients[2]);
    }
  }
}

TEST_CASE("A base that trains has the same gradients where its blocks are run again") {
  for (const auto& model : tiny_causal_models()) {
    auto parameters = model->trainable_parameters();
    std::vector<std::vector<double>> gradients[2];
    for (const int way : {0, 1}) {
      model->checkpoint_blocks(way == 1);
      for (const auto& parameter : parameters) parameter.zero_grad();
      Pass pass;
      backward(model->loss(right_batch(), pass));
      for (const auto& parameter : parameters) gradients[way].push_back(doubles(parameter.grad()));
    }
    for (std::size_t k = 0; k < parameters.size(); ++k)
      CHECK(worst_error(gradients[1][k], gradients[0][k]) < 1e-12);
  }
}

TEST_CASE("What does not fit is refused with a remedy") {
  const auto model = filled<Llama<double, Device>>(tiny_llama_config());
  auto batch = right_batch();
  Pass pass;
  batch.prompt = {};
  CHECK_NOTHROW(model->logits(batch, pass));
  model->attach(causal_adapters(*model), GateOptions{});
  CHECK(lacks<ArgumentError>([&] { model->logits(batch, pass); }, {"read the prompt", "prompt mask"}) == "");
  batch = right_batch();
  batch.prompt = mask_of({{1, 1}, {1, 1}});
  CHECK(lacks<ShapeError>([&] { model->logits(batch, pass); }, {"[2, 6]", "prompt mask", "[2, 2]"}) == "");
  batch = right_batch();
  batch.labels = Tensor<Index, Device>::from({2, 6}, std::vector<Index>(12, -100));
  CHECK(lacks<ArgumentError>([&] { model->loss(batch, pass); }, {"no token has a label"}) == "");
  batch.labels = Tensor<Index, Device>::from({2, 6}, std::vector<Index>(12, 17));
  CHECK(lacks<ShapeError>([&] { model->loss(batch, pass); }, {"labels", "17"}) == "");
  const auto longer = Tensor<Index, Device>::from({1, 33}, std::vector<Index>(33, 1));
  CHECK(lacks<ArgumentError>([&] { model->logits(Batch::prompts({longer, {}}), pass); }, {"33", "32"}) == "");
  auto config = tiny_llama_config();
  config.num_key_value_heads = 3;
  CHECK(lacks<ArgumentError>([&] { Llama<double, Device> bad(config); }, {"4", "3"}) == "");
}
