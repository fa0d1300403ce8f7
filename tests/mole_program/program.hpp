#pragma once
// Running the built program `mole` in a folder of its own, with tiny models, examples and two experts.

#include <string>
#include <vector>

#include "examples_common/runner.hpp"
#include "mole_program/tiny_models.hpp"

namespace program_test {

/// Examples of two tasks, eleven each.
inline std::string examples_text() {
  std::string text;
  for (int i = 0; i < 11; ++i) {
    const auto n = std::to_string(i * 7);
    text += "{\"task\": \"copy\", \"prompt\": \"Say " + n + "\", \"answer\": \"" + n + "\"}\n";
    text += "{\"task\": \"hello\", \"prompt\": \"Greet number " + n + " please\", \"answer\": \"hello " + n +
            "\"}\n";
  }
  return text;
}

/// A folder with models, examples, two experts, and all that the runs in it write. Made once for all tests.
class Workshop : public Runner {
 public:
  static Workshop& get() {
    static Workshop shop;
    return shop;
  }

 private:
  Workshop() : Runner(MOLE_PROGRAM, "mole-lm-test") {
    write_llama(*this / "base");
    write_llama(*this / "wide", 24);
    write(*this / "few.jsonl", examples_text());
    write(*this / "test.jsonl",
          "{\"task\": \"copy\", \"prompt\": \"Say 5\", \"answer\": \"5\"}\n"
          "{\"task\": \"hello\", \"prompt\": \"Greet number 5 please\", \"answer\": \"hello 5\"}\n");
    for (const std::string task : {"copy", "hello"})
      REQUIRE(run({"train-expert", "--base", "base", "--train", "few.jsonl", "--task", task, "--rank", "2",
                   "--steps", "12", "--batch", "4", "--lr", "0.02", "--out", task})
                  .code == 0);
    REQUIRE(run({"train-expert", "--base", "wide", "--train", "few.jsonl", "--rank", "2", "--steps", "1",
                 "--out", "alien"})
                .code == 0);
  }
};

/// Whether a run had nothing to remark. Progress bars do not count: a busy machine shows them.
inline bool has_no_remarks(const Result& result) {
  return !holds(result.err, "mole: ") && !holds(result.err, "warning: ") && !holds(result.err, "note: ");
}

/// `compose` on the workshop's base, experts and examples.
inline Arguments compose(const std::string& out, const std::string& steps = "4") {
  return {"compose",    "--base",  "base", "--experts", "copy,hello", "--train", "few.jsonl", "--test",
          "test.jsonl", "--steps", steps,  "--batch",   "4",          "--out",   out};
}

/// The loss of each step of a run, from its loss.csv.
inline std::vector<double> losses(const std::string& path) {
  const auto csv = contents(path);
  std::vector<double> values;
  for (auto at = csv.find('\n'); at + 1 < csv.size(); at = csv.find('\n', at + 1))
    values.push_back(std::stod(csv.substr(csv.find(',', at) + 1)));
  return values;
}

/// The gates of a short run on them, made once.
inline std::string trained_gates() {
  const auto& shop = Workshop::get();
  static const int code = shop.run(compose("shared") + Arguments{"--only-mole"}, "/nonexistent").code;
  REQUIRE(code == 0);
  return "shared/gates.safetensors";
}

}  // namespace program_test
