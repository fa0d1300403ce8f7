// A T5 whose experts are not all in memory: what it computes is what it computes with all of them.

#include <algorithm>
#include <cstddef>
#include <string>
#include <thread>
#include <vector>

#include <doctest/doctest.h>
#include <models/t5/tiny_t5.hpp>
#include <mole/io/expert_store.hpp>
#include <mole/io/gates.hpp>
#include <mole/loss/total.hpp>

#include "io/folder.hpp"

using namespace mole;
using namespace mole::testing;

namespace paged_experts {

namespace {

using D = Tensor<double, Device>;

/// Eight adapters of ranks 1 to 3; two adapt the attention alone.
template <class T>
std::vector<LoraSet> adapters_of(const T5<T, Device>& model) {
  std::vector<LoraSet> sets;
  for (std::uint64_t i = 0; i < 8; ++i)
    sets.push_back(adapter_for(model, "expert " + std::to_string(i), static_cast<Index>(1 + i % 3), 60 * i,
                               [i](const auto& slot) { return i < 6 || has(slot, "Attention"); }));
  return sets;
}

/// Gives the gates the same random values whatever the experts are kept in.
template <class Model>
void scatter(Model& model) {
  std::uint64_t stream = 0;
  for (const auto& parameter : model.mixer().parameters())
    parameter.assign(noise<typename Model::Scalar>(parameter.shape(), ++stream));
}

struct Outcome {
  std::vector<double> loss;
  std::vector<std::vector<double>> gradients;
};

/// The loss of a batch and its gradients.
Outcome outcome(const T5<double, Device>& model) {
  const auto batch = tiny_batch<double>();
  MolePass<double, Device> pass;
  const auto domain = model.loss(batch, pass, 0.1);
  const auto loss = total_loss(domain, model.balance(pass), 0.3);
  for (const auto& parameter : model.mixer().parameters()) parameter.zero_grad();
  backward(loss);
  Outcome found{doubles(loss), {}};
  for (const auto& parameter : model.mixer().parameters())
    found.gradients.push_back(parameter.grad().defined() ? doubles(parameter.grad()) : std::vector<double>());
  return found;
}

double difference(const Outcome& a, const Outcome& b) {
  double worst = worst_error(a.loss, b.loss);
  REQUIRE(a.gradients.size() == b.gradients.size());
  for (std::size_t i = 0; i < a.gradients.size(); ++i)
    worst = std::max(worst, worst_error(a.gradients[i], b.gradients[i]));
  return worst;
}

std::vector<RouterOptions> routers() {
  std::vector<RouterOptions> list{XLoraOptions{.pooling = Pooling::mean, .top_k = 2},
                                  XLoraOptions{.pooling = Pooling::mean, .top_k = 1, .first_pass = 0.25}};
  for (auto policies : all_policies()) {
    policies.top_k = policies.input == GateInput::hidden ? 1 : 2;
    if (policies.pooling != Pooling::token) list.push_back(policies);
  }
  list.push_back(GateOptions{.top_k = 3, .gate_rank = 2});
  return list;
}

const std::vector<PagingOptions> pagings{{1, false}, {1, true}, {3, true}, {8, false}};

}  // namespace

TEST_CASE("Loss and gradients with experts that are paged in are those with all experts in memory") {
  auto model = tiny_t5<double>(2);
  const auto adapters = adapters_of(model);
  const io_test::Folder folder;
  for (const auto& router : routers()) {
    CAPTURE(message(router_name(router), to_string(placement_of(router).scope),
                    to_string(placement_of(router).pooling), placement_of(router).top_k));
    model.attach(adapters, router);
    scatter(model);
    const auto expected = outcome(model);
    for (const auto& paging : pagings) {
      CAPTURE(message(paging.resident, paging.prefetch));
      model.attach(open_experts<double>(adapters, folder.path, paging), router);
      scatter(model);
      CHECK(difference(outcome(model), expected) <= 1e-12);
      model.mixer().set_mask({true, false, true, true, false, true, false, true});
      const auto masked = outcome(model);
      model.attach(adapters, router);
      scatter(model);
      model.mixer().set_mask({true, false, true, true, false, true, false, true});
      CHECK(difference(masked, outcome(model)) <= 1e-12);
    }
  }
}

TEST_CASE("Whatever is in memory, and whoever reads it, the bits are the same") {
  auto model = tiny_t5<float>(2);
  const auto adapters = adapters_of(model);
  const io_test::Folder folder;
  std::vector<std::vector<float>> seen;
  for (const auto& paging : pagings) {
    model.attach(open_experts<float>(adapters, folder.path, paging), GateOptions{.top_k = 2});
    scatter(model);
    for (int again = 0; again < 2; ++again) seen.push_back(tiny_logits(model, {0, 4, 8, 0, 2, 6}).to_host());
  }
  for (const auto& logits : seen) CHECK(logits == seen.front());
  model.attach(adapters, GateOptions{.top_k = 2});
  scatter(model);
  CHECK(worst_error(tiny_logits(model, {0, 4, 8, 0, 2, 6}), doubles(seen.front())) < 1e-5);
}

TEST_CASE("Pages that are in memory are hits, others misses, and the least recently used are dropped") {
  auto model = tiny_t5<double>();
  const auto adapters = adapters_of(model);
  const io_test::Folder folder;
  const auto attach = [&](const PagingOptions& paging) {
    model.attach(open_experts<double>(adapters, folder.path, paging), GateOptions{.top_k = 2});
    scatter(model);
    tiny_logits(model, {0, 4});
    return model.mixer().pages()->stats();
  };
  const auto first = attach({8, false});
  CHECK(first.hits == 0);
  CHECK(first.misses > 0);
  CHECK(first.evicted == 0);
  tiny_logits(model, {0, 4});
  const auto second = model.mixer().pages()->stats();
  CHECK(second.misses == first.misses);
  CHECK(second.hits == first.misses);
  CHECK(second.hit_rate() == 0.5);
  CHECK(second.prefetched == 0);
  CHECK(attach({1, false}).evicted > 0);
  // Read by the thread or by the pass: each page that was asked for was one of the three.
  const auto ahead = attach({8, true});
  CHECK(ahead.hits + ahead.waits + ahead.misses == first.misses);
}

TEST_CASE("While an answer is written, the pages of its experts stay in use") {
  auto model = tiny_t5<double>(2);
  const auto adapters = adapters_of(model);
  const io_test::Folder folder;
  const auto write = [&] {
    scatter(model);
    MolePass<double, Device> pass;
    return generate(model, tiny_batch<double>().input(), pass, {.max_new_tokens = 5, .beams = 3});
  };
  model.attach(adapters, GateOptions{.top_k = 2});
  const auto expected = write();
  for (const auto& paging : pagings) {
    model.attach(open_experts<double>(adapters, folder.path, paging), GateOptions{.top_k = 2});
    CHECK(write() == expected);
  }
  CHECK(model.mixer().pages()->stats().hit_rate() > 0.5);
}

TEST_CASE("Requests with sets of gates and fixed weights page in the experts that they ask for") {
  auto model = tiny_t5<double>(2);
  const auto adapters = adapters_of(model);
  const io_test::Folder folder;
  const GateOptions options{.top_k = 2};
  model.attach(adapters, options);
  scatter(model);
  save_gates(folder / "gates", model.mixer());
  const auto file = read_gates(folder / "gates");
  MolePass<double, Device> mixed, fixed;
  fixed.weights = mixed.weights = D::from({2, 8}, {0, 0.5, 0, 0, -0.25, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0});
  mixed.sets = {mixed.fixed, 1};
  const auto answers = [&] {
    add_gates(model, "set", file);
    std::vector<std::vector<double>> found;
    for (auto pass : {mixed, fixed}) {
      const auto memory = model.encode(tiny_batch<double>().input(), pass);
      found.push_back(doubles(model.decode(Tensor<Index, Device>::from({2, 2}, {0, 4, 0, 5}), memory, pass)));
    }
    return found;
  };
  attach_gates(model, adapters, file);
  const auto expected = answers();
  for (const auto& paging : pagings) {
    attach_gates(model, open_experts<double>(adapters, folder / "experts", paging), file);
    const auto found = answers();
    for (std::size_t i = 0; i < 2; ++i) CHECK(worst_error(found[i], expected[i]) <= 1e-12);
  }
}

TEST_CASE("Fixed weights read the experts that weigh something, and no other") {
  auto model = tiny_t5<double>();
  const auto adapters = adapters_of(model);
  const io_test::Folder folder;
  model.attach(open_experts<double>(adapters, folder.path, {8, false}), GateOptions{.top_k = 1});
  const auto misses = [&](const std::vector<double>& weights) {
    MolePass<double, Device> pass;
    pass.weights = D::from({2, 8}, weights);
    model.encode(tiny_batch<double>().input(), pass);
    return model.mixer().pages()->stats().misses;
  };
  CHECK(misses(std::vector<double>(16)) == 0);
  const auto one = misses({1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0});
  CHECK(one > 0);
  CHECK(misses({0, 1, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0, 0}) == 2 * one);
}

TEST_CASE("What the gates read is measured with paged experts as with all in memory") {
  auto model = tiny_t5<double>(2);
  const auto adapters = adapters_of(model);
  const io_test::Folder folder;
  const GateOptions options{.top_k = 2, .input_scale = InputScale::standardised};
  const auto scales = [&] {
    const auto batch = tiny_batch<double>();
    model.standardise_gates({batch, batch});
    std::vector<double> all;
    for (const auto& tensor : model.mixer().tensors()) {
      const auto values = doubles(tensor);
      all.insert(all.end(), values.begin(), values.end());
    }
    return all;
  };
  model.attach(adapters, options);
  const auto expected = scales();
  model.attach(open_experts<double>(adapters, folder.path, {2, true}), options);
  CHECK(worst_error(scales(), expected) <= 1e-10);
}

TEST_CASE("A paged expert is replaced in place, and gives what it gives when it is attached from the start") {
  auto model = tiny_t5<double>(2);
  auto adapters = adapters_of(model);
  const io_test::Folder folder;
  const GateOptions options{.top_k = 2};
  const auto logits = [&] { return doubles(tiny_logits(model, {0, 4, 8, 0, 2, 6})); };
  const auto other = adapter_for(model, "other", 2, 9000);
  auto changed = adapters;
  changed[1] = other;
  model.attach(changed, options);
  scatter(model);
  const auto expected = logits();
  model.attach(open_experts<double>(adapters, folder.path, {3, true}), options);
  scatter(model);
  const auto before = logits();
  model.replace_expert("expert 1", other);
  CHECK(worst_error(logits(), expected) <= 1e-12);
  CHECK(worst_error(before, expected) > 1e-6);
  CHECK(model.mixer().names()[1] == "other");
  CHECK(model.mixer().digests()[1] == "other's digest");
  const auto refused = [&](const LoraSet& set, const char* words) {
    return lacks<ArgumentError>([&] { model.replace_expert("other", set); }, {words});
  };
  CHECK(refused(adapter_for(model, "wide", 3, 9100), "rank 3") == "");
  CHECK(refused(adapters[0], "another expert is named") == "");
  CHECK(worst_error(logits(), expected) <= 1e-12);
  // Fewer ranks and layers fit, as they do where all experts are in memory.
  const auto small =
      adapter_for(model, "small", 1, 9200, [](const auto& slot) { return ends_with(slot, ".q"); });
  model.replace_expert("other", small);
  const auto smaller = logits();
  model.attach(adapters, options);
  scatter(model);
  model.replace_expert("expert 1", small);
  CHECK(worst_error(smaller, logits()) <= 1e-12);
}

TEST_CASE("Several threads may run passes over the same pages") {
  auto model = tiny_t5<double>(2);
  const auto adapters = adapters_of(model);
  const io_test::Folder folder;
  model.attach(open_experts<double>(adapters, folder.path, {2, true}), GateOptions{.top_k = 2});
  scatter(model);
  const auto expected = tiny_logits(model, {0, 4, 8, 0, 2, 6}).to_host();
  std::vector<std::vector<double>> found(3);
  std::vector<std::thread> threads;
  for (auto& own : found)
    threads.emplace_back([&model, &own] {
      for (int i = 0; i < 5; ++i) own = tiny_logits(model, {0, 4, 8, 0, 2, 6}).to_host();
    });
  for (auto& thread : threads) thread.join();
  for (const auto& own : found) CHECK(own == expected);
}

TEST_CASE("Gates that weigh all experts, or are made of them, are refused for paged experts") {
  auto model = tiny_t5<double>();
  const auto adapters = adapters_of(model);
  const io_test::Folder folder;
  const auto refused = [&](const RouterOptions& router, const PagingOptions& paging, const char* words) {
    return lacks<ArgumentError>(
        [&] { model.attach(open_experts<double>(adapters, folder.path, paging), router); }, {words});
  };
  CHECK(refused(GateOptions{}, {}, "top-k") == "");
  CHECK(refused(GateOptions{.pooling = Pooling::token, .top_k = 1}, {}, "top-k") == "");
  CHECK(refused(ArrowOptions{.top_k = 1}, {}, "made of the experts") == "");
  CHECK(refused(GateOptions{.top_k = 1}, {0, true}, "at least one expert") == "");
  auto experts = open_experts<double>(adapters, folder.path);
  experts.factors.pop_back();
  CHECK(lacks<ArgumentError>([&] { model.attach(experts, GateOptions{.top_k = 1}); },
                             {"7 experts' factors for 8"}) == "");
  const auto wider = tiny_t5<double>(2);
  CHECK(lacks<FormatError>(
            [&] {
              model.attach(open_experts<double>(adapters_of(wider), folder / "wider"),
                           GateOptions{.top_k = 1});
            },
            {"does not have"}) == "");
}

}  // namespace paged_experts
