// CLIP against transformers: everything in tests/data/golden/hf/clip and vl/clip.

#include <filesystem>
#include <string>

#include <doctest/doctest.h>
#include <golden_check/vision/clip.hpp>
#include <mole/backends/cpu.hpp>

TEST_CASE_TEMPLATE("CLIP's features, losses and their gradients of pixels equal the goldens", T, float,
                   double) {
  const std::filesystem::path goldens = MOLE_TEST_DATA "/golden";
  for (const std::string name : {"hf/clip", "vl/clip"}) {
    CAPTURE(name);
    golden::Report report(golden::Verbosity::failures);
    golden::Golden golden((goldens / name / "expected.safetensors").string(), name, report);
    golden::check_clip<T, mole::Cpu>(golden, goldens / name);
    CHECK(report.failed() == 0);
    CHECK(report.passed() == (name == "hf/clip" ? 5 : 21));
  }
}
