// Stable Diffusion against diffusers, transformers and peft: everything in tests/data/golden/vl/sd1 and sd2.

#include <filesystem>
#include <string>

#include <doctest/doctest.h>
#include <golden_check/vision/mixture.hpp>
#include <mole/backends/cpu.hpp>

TEST_CASE_TEMPLATE("Pipelines, their LoRAs, their mixture and its loss equal the goldens", T, float, double) {
  const std::filesystem::path goldens = MOLE_TEST_DATA "/golden/vl";
  for (const std::string name : {"sd1", "sd2"}) {
    CAPTURE(name);
    golden::Report report(golden::Verbosity::failures);
    golden::Golden golden((goldens / name / "expected.safetensors").string(), name, report);
    golden::check_pipeline<T, mole::Cpu>(golden, goldens / name, report);
    CHECK(report.failed() == 0);
    CHECK(report.passed() > (name == "sd1" ? 150 : 35));
  }
}
