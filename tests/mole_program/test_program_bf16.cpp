// --dtype: what bf16 computes is what f32 does but for its rounding, and what is refused.

#include "mole_program/program.hpp"
#include "mole_program/refusal.hpp"
#include "mole_program/studio.hpp"

#include <cmath>
#include <cstdlib>
#include <string>
#include <vector>

#include <mole/io/safetensors.hpp>

#include "common/image.hpp"

using namespace program_test;

namespace {

constexpr bool there = MOLE_PROGRAM_BF16;

const Arguments in_bf16{"--dtype", "bf16"};

/// Runs `arguments` where the program offers bf16; where it does not, looks for the remedy. Whether it ran.
bool runs(const Runner& runner, const Arguments& arguments) {
  const auto result = runner.run(arguments, "/nonexistent");
  CAPTURE(result.err);
  if (!there) {
    CHECK(result.code == 1);
    CHECK(holds(result.err, "-DMOLE_BF16=ON"));
    return false;
  }
  CHECK(result.code == 0);
  return result.code == 0;
}

double mean_of_last(const std::vector<double>& values, std::size_t n) {
  double sum = 0;
  for (std::size_t i = values.size() - n; i < values.size(); ++i) sum += values[i];
  return sum / static_cast<double>(n);
}

}  // namespace

TEST_CASE("Gates that are trained in bf16 learn what they learn in f32") {
  const auto& shop = Workshop::get();
  const auto run = [](const std::string& out, const std::string& rate) {
    return compose(out, "60") + Arguments{"--only-mole", "--lr", rate};
  };
  if (!runs(shop, run("narrow", "0.1") + in_bf16)) return;
  REQUIRE(shop.run(run("wide", "0.1"), "/nonexistent").code == 0);
  REQUIRE(shop.run(run("still", "1e-9"), "/nonexistent").code == 0);
  const auto late_loss = [&](const std::string& out) {
    return mean_of_last(losses(shop / (out + "/loss.csv")), 30);
  };
  const double still = late_loss("still"), learnt = still - late_loss("wide");
  CHECK(learnt > 0.2);
  CHECK(still - late_loss("narrow") == doctest::Approx(learnt).epsilon(0.05));
  const mole::SafetensorsFile file(shop / "narrow/gates.safetensors");
  CHECK(file.at("model.layers.0.gate.weight").dtype == mole::Dtype::F32);
}

TEST_CASE("Gates and adapters of a run in f32 serve one in bf16, and the other way round") {
  const auto& shop = Workshop::get();
  const auto gates = trained_gates();
  const auto use = [](const std::string& file) {
    return Arguments{"generate",   "--gates",          file, "--file",
                     "test.jsonl", "--max-new-tokens", "3",  "--show-gates"};
  };
  if (!runs(shop, use(gates) + in_bf16)) return;
  REQUIRE(runs(shop, compose("both") + in_bf16));
  check_in_order(contents(shop / "both/table.csv"),
                 {"\nbase,copy,", "\nexpert hello,copy,", "\nmean (eq. 2),copy,", "\nMoLE block,hello,"});
  CHECK(shop.run(use("both/gates.safetensors")).code == 0);
  CHECK(runs(shop,
             {"bake", "--gates", gates, "--data", "few.jsonl", "--out", "baked-narrow", "--dtype", "bf16"}));
  REQUIRE(runs(shop, {"train-expert", "--base", "base", "--train", "few.jsonl", "--rank", "2", "--steps", "3",
                      "--batch", "4", "--out", "narrow-expert", "--dtype", "bf16"}));
  CHECK(shop.run(with(compose("uses", "2"), "--experts", "copy,narrow-expert") + Arguments{"--only-mole"},
                 "/nonexistent")
            .code == 0);
}

TEST_CASE("A T5 composes and answers in bf16") {
  const auto& shop = Workshop::get();
  write_t5(shop / "narrow-t5", false);
  const Arguments base{"--base", "narrow-t5", "--dtype", "bf16"};
  if (!runs(shop, Arguments{"train-expert", "--train", "few.jsonl", "--rank", "2", "--steps", "2", "--batch",
                            "4", "--out", "narrow-t5-expert"} +
                      base))
    return;
  const auto composed = with(with(compose("narrow-t5-out", "2"), "--base", "narrow-t5"), "--experts",
                             "narrow-t5-expert,again=narrow-t5-expert") +
                        in_bf16;
  REQUIRE(runs(shop, composed));
  CHECK(runs(shop, Arguments{"generate", "--gates", "narrow-t5-out/gates.safetensors", "--prompt", "Say 5",
                             "--max-new-tokens", "3", "--dtype", "bf16"}));
}

TEST_CASE(
    "A picture in bf16 is that of f32 but for its rounding, and gates are trained on pictures in bf16") {
  const auto& studio = Studio::get();
  if (!runs(studio, draw("narrow.png") + in_bf16)) return;
  REQUIRE(studio.run(draw("wide.png")).code == 0);
  const auto narrow = common::read_png(studio / "narrow.png"), wide = common::read_png(studio / "wide.png");
  REQUIRE(narrow.pixels.size() == wide.pixels.size());
  double difference = 0, contrast = 0;
  for (std::size_t i = 0; i < wide.pixels.size(); ++i) {
    difference += std::abs(narrow.pixels[i] - wide.pixels[i]);
    contrast += std::abs(wide.pixels[i] - 128);
  }
  CHECK(difference > 0);
  CHECK(difference < 0.1 * contrast);
  write_guide(studio / "narrow-clip");
  write(studio / "narrow.jsonl", "{\"prompt\": \"a cat and the hat\"}\n");
  REQUIRE(runs(studio, {"compose", "--base", "sd", "--experts", "a=" + kohya + ",b=" + diffusers, "--clip",
                        "narrow-clip", "--prompts", "narrow.jsonl", "--steps", "2", "--sampler-steps", "3",
                        "--out", "narrow-gates", "--dtype", "bf16"}));
  CHECK(studio
            .run(with(draw("from-narrow.png"), "--base", "sd") +
                 Arguments{"--gates", "narrow-gates/gates.safetensors"})
            .code == 0);
}

TEST_CASE("A run in bf16 is not resumed in f32") {
  const auto& shop = Workshop::get();
  const auto run = compose("narrow-run", "3") + Arguments{"--only-mole", "--checkpoint", "narrow.state"};
  if (!runs(shop, run + in_bf16)) return;
  const auto other = shop.run(run + Arguments{"--resume"}, "/nonexistent");
  CHECK(other.code == 1);
  CHECK(holds(other.err, "another run"));
  CHECK(runs(shop, run + in_bf16 + Arguments{"--resume"}));
}

TEST_CASE("--dtype names what there is, and what bf16 does not go with") {
  const auto& shop = Workshop::get();
  const auto plain = compose("refused");
  for (const auto& row : std::vector<Refusal>{
           {plain + Arguments{"--dtype", "f16"}, "--dtype f16: choose f32 or bf16"},
           {plain + Arguments{"--dtype", "bf16", "--quantised"}, "--quantised multiplies in f32"},
           {plain + Arguments{"--dtype", "bf16", "--fixed-shards", "2"}, "without --fixed-shards"}})
    check_refused(shop, row);
  check_help(shop, {{{}, {"--dtype", "f32, bf16"}}});
}
