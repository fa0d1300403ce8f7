// A T5 that bitsandbytes has quantised.

#include <string>
#include <vector>

#include <doctest/doctest.h>

#include <mole/backends/cpu.hpp>
#include <mole/models/t5/checkpoint.hpp>
#include <testing.hpp>

#include "io/folder.hpp"

using namespace mole;
using namespace io_test;

TEST_CASE("A T5 of transformers and bitsandbytes has its logits, packed and as numbers") {
  const std::string folder = std::string(MOLE_TEST_DATA) + "/quant/t5_nf4";
  const SafetensorsFile expected(folder + "/expected.safetensors");
  const auto ids = [&](const std::string& name) {
    return Tensor<Index, Cpu>::from(expected.at(name).shape, expected.read<Index>(name));
  };
  for (const bool keep : {false, true}) {
    CAPTURE(keep);
    std::vector<std::string> warnings;
    auto model = load_t5<float, Cpu>(folder, &warnings, {.keep_packed = keep});
    CHECK(warnings.empty());
    Index packed = 0;
    for (const auto& slot : model.layers().table.slots) packed += slot.stored.defined() ? 1 : 0;
    // transformers leaves the last layer of a feed-forward part as numbers.
    CHECK(packed == (keep ? 16 : 0));
    MolePass<float, Cpu> pass;
    const auto y = model.logits({ids("input_ids"), {}, ids("labels")}, pass);
    CHECK(testing::worst_error(y, expected.read<double>("logits")) < 1e-4);
    const Folder out;
    const auto refusal = error_of<ArgumentError>([&] { save_t5(out.path, model, Dtype::F32); });
    CHECK(refusal.empty() == !keep);
    if (keep) CHECK(mentions(refusal, {"SelfAttention.q.weight", "packed"}));
  }
}
