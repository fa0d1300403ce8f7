// Stopping and resuming: the same bits as an unbroken run.

#include "mole_program/program.hpp"

#include <string>

using namespace program_test;

TEST_CASE("A compose run that was stopped and resumed ends in the same gates, bit for bit") {
  const auto& shop = Workshop::get();
  const Arguments quick{"--only-mole"};
  REQUIRE(shop.run(compose("whole", "60") + quick, "/nonexistent").code == 0);
  const auto run = compose("broken", "60") + quick + Arguments{"--checkpoint", "run.state"};
  const auto stopped = shop.interrupt(run, [&] { return fs::exists(shop / "run.state"); });
  CHECK(stopped.code == 130);
  CHECK(holds(stopped.err, "--resume"));
  CHECK(!fs::exists(shop / "broken/gates.safetensors"));
  const auto resumed = shop.run(run + Arguments{"--resume"}, "/nonexistent");
  CAPTURE(resumed.err);
  REQUIRE(resumed.code == 0);
  // The notes name other folders; the tensors are the same.
  CHECK(contents(shop / "broken/gates.safetensors") == contents(shop / "whole/gates.safetensors"));
  CHECK(contents(shop / "broken/loss.csv") == contents(shop / "whole/loss.csv"));
}

TEST_CASE("A run with other examples, options or experts is not resumed") {
  const auto& shop = Workshop::get();
  const auto run = compose("fixed", "3") + Arguments{"--only-mole", "--checkpoint", "fixed.state"};
  REQUIRE(shop.run(run, "/nonexistent").code == 0);
  for (const auto& other :
       {with(run, "--scope", "layer"), with(run, "--lr", "0.01"), with(run, "--seed", "2"),
        with(run, "--experts", "hello,copy"), with(run, "--train", "test.jsonl"),
        with(run, "--template", "chatml"), with(run, "--input-scale", "unit"), with(run, "--alpha", "0.5"),
        run + Arguments{"--batches", "alike"}}) {
    const auto result = shop.run(other + Arguments{"--resume"}, "/nonexistent");
    CAPTURE(result.err);
    CHECK(result.code == 1);
    CHECK(holds(result.err, "another run"));
  }
}

TEST_CASE("An expert's training resumes to the same adapter") {
  const auto& shop = Workshop::get();
  const auto train = [](const std::string& out) {
    return Arguments{"train-expert", "--base", "base",    "--train", "few.jsonl", "--rank", "2",
                     "--steps",      "60",     "--batch", "4",       "--out",     out};
  };
  REQUIRE(shop.run(train("expert-whole")).code == 0);
  const auto run = train("expert-broken") + Arguments{"--checkpoint", "expert.state"};
  const auto stopped = shop.interrupt(run, [&] { return fs::exists(shop / "expert.state"); });
  CHECK(stopped.code == 130);
  REQUIRE(shop.run(run + Arguments{"--resume"}).code == 0);
  CHECK(contents(shop / "expert-broken/adapter_model.safetensors") ==
        contents(shop / "expert-whole/adapter_model.safetensors"));
}
