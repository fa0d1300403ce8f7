// Decoder-only models against Transformers and PEFT: everything in tests/data/golden/lm but the tokenizers.

#include <filesystem>
#include <string>

#include <doctest/doctest.h>
#include <golden_check/causal.hpp>

namespace {

const std::filesystem::path lm = MOLE_TEST_DATA "/golden/lm";

}  // namespace

TEST_CASE("Decoder-only models, their adapters and what they write equal the goldens") {
  for (const std::string name : {"llama", "mistral", "qwen2", "qwen3", "opt_pre", "opt_post"}) {
    CAPTURE(name);
    golden::Report report(golden::Verbosity::failures);
    golden::Golden golden((lm / name / "expected.safetensors").string(), name, report);
    golden::check_causal<double, mole::Cpu>(golden, lm / name, report);
    golden.skip_unread();
    CHECK(report.failed() == 0);
    CHECK(report.passed() >= 20);
  }
}

TEST_CASE("The older goldens are met as closely as their float32 norms allow") {
  for (const std::string name : {"llama", "opt"}) {
    CAPTURE(name);
    const auto folder = std::filesystem::path(MOLE_TEST_DATA "/golden/hf") / name;
    golden::Report report(golden::Verbosity::failures);
    golden::Golden golden((folder / "expected.safetensors").string(), name, report);
    golden::check_causal<double, mole::Cpu>(golden, folder, report);
    CHECK(report.failed() == 0);
    CHECK(report.passed() >= 10);
  }
}

TEST_CASE("Embedding, head, DoRA and bias adapters are refused by name") {
  golden::Report report(golden::Verbosity::failures);
  const golden::Golden golden((lm / "llama_embeddings/expected.safetensors").string(), "llama_embeddings",
                              report);
  golden::check_refused_adapters<double, mole::Cpu>(golden, lm / "llama_embeddings");
  CHECK(report.failed() == 0);
  CHECK(report.passed() == 4);
}

TEST_CASE("A GGUF file gives the numbers of its blocks, and the model of its base") {
  golden::Report report(golden::Verbosity::failures);
  golden::check_gguf<double, mole::Cpu>(lm / "tiny.gguf", "tiny", report);
  CHECK(report.passed() == 13);
  golden::check_gguf<double, mole::Cpu>(lm / "llama.gguf", "llama", report);
  CHECK(report.failed() == 0);
  CHECK(report.passed() == 17);
}

TEST_CASE("What is done to logits before a draw equals transformers'") {
  golden::Report report(golden::Verbosity::failures);
  const golden::Golden golden((lm / "sampling.safetensors").string(), "sampling", report);
  golden::check_sampling(golden);
  CHECK(report.failed() == 0);
  CHECK(report.passed() == 7);
}
