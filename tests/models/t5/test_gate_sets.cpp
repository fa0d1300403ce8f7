// Requests with sets of gates of their own in one batch of an encoder-decoder, padded: each as if it were alone.

#include <cstddef>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <models/t5/tiny_t5.hpp>
#include <mole/io/gates.hpp>

#include "io/folder.hpp"

using namespace mole;
using namespace mole::testing;

namespace t5_gate_sets {

namespace {

using D = Tensor<double, Device>;
using Pass = MolePass<double, Device>;

struct Request {
  std::vector<Index> text;
  Index set;
};
const std::vector<Request> requests{{{5, 3, 9, 1}, 1}, {{7, 1}, 0}, {{2, 4, 1}, Pass::fixed}, {{8, 8, 1}, 1}};
const std::vector<double> given{0.5, 0, 1.5};

TokenBatch<double, Device> batch_of(const std::vector<Request>& rows) {
  std::size_t length = 0;
  for (const auto& row : rows) length = std::max(length, row.text.size());
  std::vector<Index> ids;
  std::vector<double> mask;
  for (const auto& row : rows)
    for (std::size_t l = 0; l < length; ++l) {
      ids.push_back(l < row.text.size() ? row.text[l] : 0);
      mask.push_back(l < row.text.size() ? 1 : 0);
    }
  const Shape shape{static_cast<Index>(rows.size()), static_cast<Index>(length)};
  return {Tensor<Index, Device>::from(shape, ids), D::from(shape, mask)};
}

/// Logits of three decoder tokens of each request, and what is written for it.
struct Answer {
  std::vector<double> logits;
  std::vector<std::vector<Index>> tokens;
};
Answer answer(const T5<double, Device>& model, const std::vector<Request>& rows, Pass pass, Index beams) {
  const NoGrad off;
  const auto batch = batch_of(rows);
  auto writing = pass;
  const auto S = static_cast<Index>(rows.size());
  std::vector<Index> ids;
  for (Index s = 0; s < S; ++s) ids.insert(ids.end(), {0, 4, 6});
  const auto logits = model.decode(Tensor<Index, Device>::from({S, 3}, ids), model.encode(batch, pass), pass);
  return {doubles(logits), generate(model, batch, writing, {.max_new_tokens = 4, .beams = beams})};
}

}  // namespace

TEST_CASE("Requests of an encoder-decoder are weighed by their own sets of gates, as if each were alone") {
  auto model = tiny_t5<double>(2);
  const auto adapters = tiny_adapters(model);
  const io_test::Folder folder;
  std::vector<RouterOptions> routers{XLoraOptions{.top_k = 1}};
  for (const auto& policies : all_policies())
    if (policies.pooling != Pooling::flatten) routers.push_back(policies);
  routers.push_back(GateOptions{.top_k = 1});
  for (const auto& router : routers) {
    CAPTURE(message(router_name(router), to_string(placement_of(router).scope),
                    to_string(placement_of(router).pooling)));
    std::vector<GatesFile> files;
    for (std::uint64_t k = 0; k < 2; ++k) {
      model.attach(adapters, router);
      std::uint64_t stream = 20 * k;
      for (const auto& parameter : model.mixer().parameters())
        parameter.assign(noise<double>(parameter.shape(), ++stream));
      save_gates(folder / "gates", model.mixer());
      files.push_back(read_gates(folder / "gates"));
    }
    attach_gates(model, adapters, files[0]);
    add_gates(model, "one", files[1]);
    Pass pass;
    std::vector<double> weights;
    for (const auto& request : requests) {
      pass.sets.push_back(request.set);
      weights.insert(weights.end(), given.begin(), given.end());
    }
    pass.weights = D::from({static_cast<Index>(requests.size()), 3}, weights);
    const auto all = answer(model, requests, pass, 2);
    std::vector<double> expected;
    for (std::size_t i = 0; i < requests.size(); ++i) {
      attach_gates(model, adapters, files[requests[i].set == 1 ? 1 : 0]);
      Pass own;
      if (requests[i].set == Pass::fixed) own.weights = D::from({1, 3}, given);
      const auto one = answer(model, {requests[i]}, own, 2);
      expected.insert(expected.end(), one.logits.begin(), one.logits.end());
      CHECK(all.tokens[i] == one.tokens[0]);
    }
    CHECK(worst_error(all.logits, expected) <= 1e-12);
  }
}

}  // namespace t5_gate_sets
