// Gates of a rank over so many experts that what they read is not made.

#include <cstddef>
#include <string>
#include <type_traits>
#include <vector>

#include <doctest/doctest.h>
#include <models/t5/tiny_t5.hpp>
#include <mole/loss/total.hpp>

using namespace mole;
using namespace mole::testing;

namespace gate_products {

namespace {

using D = Tensor<double, Device>;

/// Forty experts of rank 2 for layers that are six or seven wide.
std::vector<LoraSet> many(const T5<double, Device>& model) {
  std::vector<LoraSet> sets;
  for (std::uint64_t i = 0; i < 40; ++i)
    sets.push_back(adapter_for(model, "expert " + std::to_string(i), 2, 60 * i));
  return sets;
}

struct Outcome {
  double loss = 0;
  std::vector<double> log_tau, embedding;
  std::vector<D> U, V, F;
};

/// The loss of a batch, and its gradients.
Outcome outcome(T5<double, Device>& model, const T5Batch<double, Device>& batch) {
  D embedding;
  model.visit([&](const std::string& name, const Shape&, D& tensor) {
    if (name == "shared.weight") embedding = tensor;
  });
  embedding.set_requires_grad().zero_grad();
  MolePass<double, Device> pass;
  const auto domain = model.loss(batch, pass);
  const auto loss = total_loss(domain, model.balance(pass), 0.3);
  for (const auto& parameter : model.mixer().parameters()) parameter.zero_grad();
  backward(loss);
  Outcome found;
  found.loss = doubles(loss)[0];
  found.embedding = doubles(embedding.grad());
  for (const auto& placed : model.mixer().gates()) {
    found.log_tau.push_back(doubles(placed.gate.log_tau.grad())[0]);
    if (placed.gate.U.defined()) {
      found.U.push_back(placed.gate.U.grad());
      found.V.push_back(placed.gate.V.grad());
    } else {
      found.F.push_back(placed.gate.weight.grad());
    }
  }
  return found;
}

/// Whether the first gate reads a batch of two without what the experts make of it.
bool by_products(const T5<double, Device>& model) {
  return detail::narrow_pays(model.mixer().gates().front(), 2);
}

}  // namespace

TEST_CASE("A gate of a rank over many experts has the loss and gradients of the whole gate") {
  const auto batch = tiny_batch<double>();
  for (const Scope scope : {Scope::matrix, Scope::block, Scope::network})
    for (const Index top_k : {0, 2}) {
      CAPTURE(static_cast<int>(scope));
      CAPTURE(top_k);
      auto model = tiny_t5<double>(2);
      const auto experts = many(model);
      model.attach(experts, GateOptions{.scope = scope, .top_k = top_k, .gate_rank = 2});
      REQUIRE(by_products(model));
      std::vector<D> U, V;
      std::uint64_t stream = 0;
      for (const auto& placed : model.mixer().gates()) {
        placed.gate.V.assign(noise<double>(placed.gate.V.shape(), ++stream));
        U.push_back(placed.gate.U.detach().clone());
        V.push_back(placed.gate.V.detach().clone());
      }
      const auto found = outcome(model, batch);
      model.attach(experts, GateOptions{.scope = scope, .top_k = top_k});
      REQUIRE(!by_products(model));
      for (std::size_t i = 0; i < U.size(); ++i)
        model.mixer().gates()[i].gate.weight.assign(matmul(U[i], V[i]));
      const auto expected = outcome(model, batch);
      CHECK(std::abs(found.loss - expected.loss) <= 1e-12);
      CHECK(worst_error(found.log_tau, expected.log_tau) <= 1e-11);
      CHECK(worst_error(found.embedding, expected.embedding) <= 1e-11);
      for (std::size_t i = 0; i < U.size(); ++i) {
        // F = U V.
        CHECK(worst_error(found.U[i], doubles(matmul(expected.F[i], transpose(V[i])))) <= 1e-11);
        CHECK(worst_error(found.V[i], doubles(matmul(transpose(U[i]), expected.F[i]))) <= 1e-11);
      }
    }
}

TEST_CASE("Gates over experts that are much alike read what these make, as roundings would count too much") {
  auto model = tiny_t5<double>(1);
  std::vector<LoraSet> alike;
  for (int i = 0; i < 40; ++i) alike.push_back(adapter_for(model, "expert " + std::to_string(i), 2, 60));
  model.attach(alike, GateOptions{.scope = Scope::matrix, .gate_rank = 2});
  CHECK(!by_products(model));
}

TEST_CASE("Where an expert is replaced, gates read the new one") {
  auto model = tiny_t5<double>(1);
  auto experts = many(model);
  const auto other = adapter_for(model, "other", 2, 9000);
  const auto batch = tiny_batch<double>();
  const GateOptions options{.gate_rank = 2};
  const auto scatter = [&] {
    std::uint64_t stream = 0;
    for (const auto& placed : model.mixer().gates())
      placed.gate.V.assign(noise<double>(placed.gate.V.shape(), ++stream));
  };
  model.attach(experts, options);
  scatter();
  REQUIRE(by_products(model));
  model.replace_expert("expert 3", other);
  const auto found = outcome(model, batch);
  experts[3] = other;
  model.attach(experts, options);
  scatter();
  CHECK(std::abs(found.loss - outcome(model, batch).loss) <= 1e-12);
}

TEST_CASE("A sequence alone has the gates that it has in a batch") {
  auto model = tiny_t5<double>(1);
  model.attach(many(model), GateOptions{.top_k = 2, .gate_rank = 2});
  std::uint64_t stream = 0;
  for (const auto& placed : model.mixer().gates())
    placed.gate.V.assign(noise<double>(placed.gate.V.shape(), ++stream));
  const auto gates_of = [&](Index first, Index last) {
    const auto all = tiny_batch<double>();
    const auto part = [&](const auto& tensor) {
      auto values = tensor.to_host();
      const Index n = tensor.size(1);
      values.erase(values.begin() + last * n, values.end());
      values.erase(values.begin(), values.begin() + first * n);
      return std::remove_cvref_t<decltype(tensor)>::from({last - first, n}, values);
    };
    const T5Batch<double, Device> batch{part(all.input_ids), part(all.input_mask), part(all.labels)};
    MolePass<double, Device> pass;
    const NoGrad off;
    model.loss(batch, pass);
    std::vector<D> values;
    for (const auto& gate : pass.gates) values.push_back(gate->dense);
    return values;
  };
  const auto together = gates_of(0, 2), first = gates_of(0, 1), second = gates_of(1, 2);
  for (std::size_t i = 0; i < together.size(); ++i) {
    CHECK(worst_error(slice(together[i], 0, 0, 1), doubles(first[i])) <= 1e-13);
    CHECK(worst_error(slice(together[i], 0, 1, 2), doubles(second[i])) <= 1e-13);
  }
}

}  // namespace gate_products
