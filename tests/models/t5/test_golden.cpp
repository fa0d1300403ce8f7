// Whole checkpoints against Transformers and PEFT: everything in tests/data/golden/hf/t5_*.

#include <filesystem>
#include <string>

#include <doctest/doctest.h>
#include <golden_check/t5.hpp>

TEST_CASE_TEMPLATE("T5 models, their adapters and their mixture equal the goldens", T, float, double) {
  const std::filesystem::path folder = MOLE_TEST_DATA "/golden/hf";
  for (const std::string name : {"t5_flan", "t5_v1"}) {
    CAPTURE(name);
    golden::Report report(golden::Verbosity::failures);
    golden::Golden golden((folder / name / "expected.safetensors").string(), name, report);
    golden::check_t5<T>(golden, folder / name);
    CHECK(report.failed() == 0);
    CHECK(report.passed() > 100);
  }
}
