// The numbers program from the outside: what it prints and writes.

#include "numbers/program.hpp"

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <random>
#include <sstream>
#include <string>
#include <tuple>
#include <vector>

using namespace program_test;

TEST_CASE("Help of the program and of each subcommand names the main options") {
  const std::vector<std::string> run{"--steps", "--batch",      "--lr",    "--seed",
                                     "--out",   "--checkpoint", "--resume"};
  check_help(
      Workshop::get(),
      {{{}, {"compose", "translate", "train-base", "train-expert", "evaluate", "--threads"}},
       {{"train-base"}, run},
       {{"train-expert"}, {"--task", "--base", "--rank", "--alpha", "--checkpoint"}},
       {{"compose"}, {"--experts", "--tasks", "--scope", "--pooling", "--length", "--input", "--top-k"}},
       {{"compose"}, {"--input-scale", "standardised", "common"}},
       {{"compose"},
        {"--router", "arrow", "xlora", "--temperature", "X-LoRA (--router xlora)", "--xlora-depth",
         "--xlora-width", "--xlora-scalings", "--xlora-renormalize", "--xlora-weight", "--xlora-first-pass"}},
       {{"compose"},
        {"--alpha", "--validation", "--diagnose", "--methods", "--merge-density", "--merge-rank",
         "--merge-tuned"}},
       {{"tables"}, {"--seeds", "--largest", "--expert-steps", "fig8", "routers", "first look"}},
       {{"translate"}, {"--gates", "--mask", "--experts", "--beams", "prompt"}},
       {{"evaluate"}, {"--base", "--experts", "--tasks", "--test"}},
       {{"compose"}, run}});
}

TEST_CASE("OpenMP's threads sleep soon where they wait, unless the user has said how they shall wait") {
  // OpenMP prints its settings, as the program begins and as it begins anew.
  const auto settings = [](const char* policy) {
    const char* const kept = std::getenv("OMP_WAIT_POLICY");
    const std::string before = kept ? kept : "";
    policy ? ::setenv("OMP_WAIT_POLICY", policy, 1) : ::unsetenv("OMP_WAIT_POLICY");
    ::setenv("OMP_DISPLAY_ENV", "verbose", 1);
    const auto run = Workshop::get().run({"--help"});
    ::unsetenv("OMP_DISPLAY_ENV");
    kept ? ::setenv("OMP_WAIT_POLICY", before.c_str(), 1) : ::unsetenv("OMP_WAIT_POLICY");
    CHECK(run.code == 0);
    CHECK(holds(run.out, "compose"));
    return run.err;
  };
  const auto sleeps = [](const std::string& text) {
    return holds(text, "GOMP_SPINCOUNT = '3000'") || holds(text, "KMP_BLOCKTIME='1'");
  };
  CHECK(sleeps(settings(nullptr)));
  CHECK_FALSE(sleeps(settings("active")));
}

TEST_CASE("compose writes gates, a table with a row a method, and pictures") {
  const auto& shop = Workshop::get();
  const auto result = shop.run(compose("out"));
  CHECK(result.code == 0);
  CHECK(result.err == "");
  const auto table = contents(shop / "out/table.csv");
  CHECK(table.starts_with("method,en>fr,fr>en,average\nbase,"));
  check_in_order(table, {"\nbase,", "\nexpert en>fr,", "\nexpert fr>en,", "\nsum (eq. 1),", "\nmean (eq. 2),",
                         "\nMoLE block,"});
  CHECK(std::count(table.begin(), table.end(), '\n') == 7);
  CHECK(contents(shop / "out/gates.csv").starts_with("task,scope,expert,gate\nen>fr,encoder.block.0,en>fr,"));
  const auto load = contents(shop / "out/load.csv");
  CHECK(load.starts_with("panel,expert,load,variation\nen>fr,en>fr,"));
  CHECK(holds(load, "\nall tasks,fr>en,"));
  CHECK(std::count(load.begin(), load.end(), '\n') == 7);
  CHECK(contents(shop / "out/entropy.csv").starts_with("step,encoder.block.0,decoder.block.0\n1,0.693"));
  const auto loss = contents(shop / "out/loss.csv");
  CHECK(loss.starts_with("step,total,task,balance"));
  CHECK(std::count(loss.begin(), loss.end(), '\n') == 7);
  CHECK(fs::file_size(shop / "out/gates.safetensors") > 100);
  if (std::system("gnuplot --version >/dev/null 2>&1") == 0)
    for (const char* picture : {"gates", "load", "entropy", "loss"}) {
      CHECK(contents(shop / ("out/" + std::string(picture) + ".png")).starts_with("\x89PNG"));
      CHECK(holds(result.out, std::string(picture) + ".png"));
    }
}

TEST_CASE("--diagnose tells the gates' loss beside their own experts', and how many texts go elsewhere") {
  const auto& shop = Workshop::get();
  const auto looked = [&](const std::string& experts, const std::string& tasks) {
    const auto result =
        shop.run(with(with(compose("diagnosed", "2"), "--experts", experts), "--tasks", tasks) +
                     Arguments{"--only-mole", "--diagnose"},
                 "/nonexistent");
    REQUIRE(result.code == 0);
    return result.out;
  };
  /// The cells of each line that begins so.
  const auto lines = [](const std::string& text, const std::string& name) {
    std::vector<std::string> found;
    for (auto at = text.find("\n" + name); at != std::string::npos; at = text.find("\n" + name, at + 1)) {
      auto line = text.substr(at + 1 + name.size(), text.find('\n', at + 1) - at - 1 - name.size());
      found.push_back(line.substr(std::min(line.find_first_not_of(' '), line.size())));
    }
    return found;
  };
  // One expert alone has the weight 1, so that the model is that expert merged.
  const auto one = looked("en-fr", "en>fr");
  check_in_order(one, {"\ntraining examples", "\nloss, gates", "\nheld out", "\nloss, gates"});
  CHECK(lines(one, "loss, gates").size() == 2);
  CHECK(lines(one, "loss, gates") == lines(one, "loss, the task's own expert"));
  CHECK(lines(one, "% to another, encoder.block.0") == std::vector<std::string>(2, "0.0      0.0"));
  // A task that is not an expert's: all that is told is the gates' loss.
  const auto none = looked("en-fr", "fr>en");
  CHECK(lines(none, "loss, the task's own expert") == std::vector<std::string>(2, "-        -"));
  CHECK(lines(none, "% to another, encoder.block.0") == std::vector<std::string>(2, "-        -"));
}

TEST_CASE("Without gnuplot compose still succeeds and says how to draw") {
  const auto& shop = Workshop::get();
  const auto result = shop.run(compose("bare") + Arguments{"--only-mole"}, "/nonexistent");
  CHECK(result.code == 0);
  CHECK(fs::exists(shop / "bare/gates.csv"));
  CHECK(!fs::exists(shop / "bare/gates.png"));
  CHECK(holds(result.out, "gnuplot"));
}

TEST_CASE("Every scope, pooling and input runs, and its gates translate") {
  const auto& shop = Workshop::get();
  for (const std::string scope : {"matrix", "layer", "block", "network"})
    for (const std::string pooling : {"flatten", "mean", "token"})
      for (const std::string input : {"experts", "hidden"}) {
        CAPTURE(scope);
        CAPTURE(pooling);
        CAPTURE(input);
        auto arguments = compose("policy", "2") +
                         Arguments{"--only-mole", "--scope", scope, "--pooling", pooling, "--input", input};
        if (pooling == "flatten") arguments = with(arguments, "--length", "64");
        const auto trained = shop.run(arguments, "/nonexistent");
        CHECK(trained.code == 0);
        CHECK(trained.err == "");
        const auto used = shop.run({"translate", "--base", "base", "--experts", "en-fr,fr-en", "--gates",
                                    "policy/gates.safetensors", "en>fr two"});
        CHECK(used.code == 0);
        CHECK(used.err == "");
        CHECK(holds(used.out, "en>fr"));
      }
}

TEST_CASE(
    "gates and X-LoRA's classifier train on a standardised input, translate, and resume only as they were") {
  const auto& shop = Workshop::get();
  for (const std::string router : {"mole", "hidden", "xlora"})
    for (const std::string scale : {"standardised", "common"}) {
      CAPTURE(router);
      CAPTURE(scale);
      const auto train = [&](const std::string& how, const Arguments& more) {
        return shop.run(compose("scaled", "2") +
                            Arguments{"--only-mole", "--router", router, "--input-scale", how, "--checkpoint",
                                      "scaled-run"} +
                            more,
                        "/nonexistent");
      };
      const auto trained = train(scale, {});
      CHECK(trained.code == 0);
      CHECK(trained.err == "");
      CHECK(holds(contents(shop / "scaled/gates.safetensors"), "\"input_scale\":\"" + scale + "\""));
      const auto gates = contents(shop / "scaled/gates.safetensors");
      CHECK(train(scale, {"--resume"}).code == 0);
      CHECK(contents(shop / "scaled/gates.safetensors") == gates);
      const auto other = train("unit", {"--resume"});
      CHECK(other.code == 1);
      CHECK(holds(other.err, "another run"));
      const auto used = shop.run({"translate", "--base", "base", "--experts", "en-fr,fr-en", "--gates",
                                  "scaled/gates.safetensors", "en>fr two"});
      CHECK(used.code == 0);
      CHECK(used.err == "");
      CHECK(holds(used.out, "en>fr"));
    }
}

TEST_CASE("--mask leaves a masked expert nothing") {
  const auto& shop = Workshop::get();
  REQUIRE(shop.run(compose("masks") + Arguments{"--only-mole"}, "/nonexistent").code == 0);
  const Arguments use{
      "translate", "--base", "base", "--experts", "en-fr,fr-en", "--gates", "masks/gates.safetensors",
      "en>fr two"};
  CHECK(!holds(shop.run(use).out, "100%"));
  const auto masked = shop.run(use + Arguments{"--mask", "fr>en"});
  CHECK(masked.code == 0);
  CHECK(holds(masked.out, "encoder.block.0  en>fr 100%  fr>en   0%\n"));
  CHECK(holds(masked.out, "decoder.block.0  en>fr 100%  fr>en   0%\n"));
  CHECK(shop.run(use + Arguments{"--beams", "2"}).code == 0);
}

TEST_CASE("Evaluate prints a base and experts merged into it") {
  const auto& shop = Workshop::get();
  const auto result =
      shop.run({"evaluate", "--base", "base", "--experts", "en-fr", "--tasks", "en>fr", "--test", "3"});
  CHECK(result.code == 0);
  CHECK(holds(result.out, "base + en-fr"));
}

TEST_CASE("Every router's gates.safetensors translates, with its gates in a table, masked, and drawn") {
  const auto& shop = Workshop::get();
  struct Row {
    const char* what;
    Arguments options;
    std::string gate;  ///< one line's scope
  };
  const std::vector<Row> rows{
      {"hidden", {"--router", "hidden"}, "encoder.block.0 "},
      {"arrow", {"--router", "arrow"}, "encoder.block.0.layer.0.SelfAttention.q "},
      {"arrow-1", {"--router", "arrow", "--top-k", "1", "--temperature", "2"}, "decoder.block.0"},
      {"xlora", {"--router", "xlora"}, "encoder.block.0 "},
      {"xlora-token",
       {"--router", "xlora", "--scope", "matrix", "--pooling", "token", "--xlora-depth", "2", "--xlora-width",
        "5", "--xlora-first-pass", "0.5"},
       "encoder.block.0.layer.0.SelfAttention.q "},
      {"xlora-k",
       {"--router", "xlora", "--scope", "network", "--top-k", "1", "--xlora-renormalize", "softmax",
        "--xlora-weight", "1.5"},
       "network "},
      {"xlora-raw", {"--router", "xlora", "--scope", "network", "--xlora-scalings", "raw"}, "network "}};
  for (const auto& row : rows) {
    CAPTURE(row.what);
    const auto out = std::string("router-") + row.what;
    const auto trained = shop.run(compose(out, "2") + row.options + Arguments{"--only-mole"}, "/nonexistent");
    CAPTURE(trained.err);
    CHECK(trained.code == 0);
    CHECK(trained.err == "");
    CHECK(holds(trained.out, out + "/gates.safetensors"));
    CHECK(fs::exists(shop / (out + "/gates.csv")));
    const Arguments use{"translate", "en>fr two",   "--base",  "base",
                        "--experts", "en-fr,fr-en", "--gates", out + "/gates.safetensors"};
    const auto used = shop.run(use + Arguments{"--out", out + "/two"}, "/nonexistent");
    CAPTURE(used.err);
    CHECK(used.code == 0);
    CHECK(holds(used.out, "\n" + row.gate));
    CHECK(contents(shop / (out + "/two/token_gates.csv")).starts_with("scope,stream,sequence,token,text,"));
    const auto masked = shop.run(use + Arguments{"--mask", "fr>en"});
    CHECK(masked.code == 0);
    CHECK(holds(masked.out, "fr>en   0%"));
    CHECK(shop.run(use + Arguments{"--mask", "en>fr,fr>en"}).code == 1);
    CHECK(shop.run(use + Arguments{"--mask", "en>de"}).code == 1);
  }
  CHECK(contents(shop / "router-xlora-raw/loss.csv").starts_with("step,total,task,total smoothed"));
  const auto wrong = shop.run(with(compose("router-wrong"), "--router", "random"));
  CHECK(wrong.code == 1);
  CHECK(holds(wrong.err, "choose mole, hidden, arrow or xlora"));
}

TEST_CASE("X-LoRA's and Arrow's options decide what their files hold, and runs of others are not resumed") {
  const auto& shop = Workshop::get();
  const auto run = [&](const std::string& router, const Arguments& options) {
    const auto result = shop.run(with(compose("decides", "2"), "--router", router) + options +
                                     Arguments{"--only-mole", "--checkpoint", "decides-run"},
                                 "/nonexistent");
    CAPTURE(result.err);
    REQUIRE(result.code == 0);
    return contents(shop / "decides/gates.safetensors");
  };
  const auto plain = run("xlora", {});
  CHECK(holds(plain, R"("temperature":"1")"));
  CHECK(holds(plain, R"("scope":"block")"));
  for (const auto& row : std::vector<std::tuple<std::string, std::string, std::string>>{
           {"--xlora-depth", "2", R"("depth":"2")"},
           {"--xlora-scalings", "raw", R"("softmax":"false")"},
           {"--xlora-weight", "0.5", R"("weight":"0.5")"},
           {"--xlora-first-pass", "0.5", R"("first_pass":"0.5")"},
           {"--scope", "network", R"("scope":"network")"},
           {"--pooling", "token", R"("pooling":"token")"},
           {"--temperature", "0.5", R"("temperature":"0.5")"},
           {"--top-k", "1", R"("top_k":"1")"}}) {
    const auto& option = std::get<0>(row);
    const auto& value = std::get<1>(row);
    const auto& found = std::get<2>(row);
    CAPTURE(option);
    CHECK(!holds(plain, found));
    run("xlora", {});
    const auto resumed =
        shop.run(compose("decides", "2") + Arguments{"--router", "xlora", "--only-mole", "--checkpoint",
                                                     "decides-run", "--resume", option, value},
                 "/nonexistent");
    CHECK(resumed.code == 1);
    CHECK(holds(resumed.err, "another run"));
    CHECK(holds(run("xlora", {option, value}), found));
  }
  CHECK(holds(run("xlora", {"--top-k", "1", "--xlora-renormalize", "sum"}), R"("renormalize":"sum")"));
  const auto one = run("arrow", {"--top-k", "1"}), hot = run("arrow", {"--temperature", "3"});
  CHECK((holds(one, R"("temperature":"1")") && holds(one, R"("top_k":"1")")));
  CHECK((holds(hot, R"("temperature":"3")") && holds(hot, R"("top_k":"0")")));
}

TEST_CASE(
    "compose puts any merging method into its table, and refuses what it cannot call before it trains") {
  const auto& shop = Workshop::get();
  const auto merge = [&](const std::string& out, const Arguments& options) {
    const auto result = shop.run(compose(out, "2") + options);
    CAPTURE(result.err);
    CHECK(result.code == 0);
    return contents(shop / (out + "/table.csv"));
  };
  const auto table = merge("merged", {"--methods", "svd,ties,dare_linear_svd,pems"});
  for (const std::string row : {"\nsvd,", "\nties,", "\ndare_linear_svd,", "\npems,"})
    CHECK(holds(table, row));
  const auto tuned = merge("tuned", {"--methods", "ties,ties_svd", "--merge-rank", "full", "--merge-tuned"});
  for (const std::string row : {"\n\"ties, tuned\",", "\n\"ties_svd, full rank, tuned\","})
    CHECK(holds(tuned, row));
  CHECK(holds(merge("cut", {"--methods", "svd", "--merge-rank", "1"}), "\n\"svd, rank 1\","));
  const auto search = shop.run(compose("searched", "2") + Arguments{"--methods", "lorahub"});
  CHECK(search.code == (MOLE_NUMBERS_SEARCH ? 0 : 1));
  CHECK(holds(MOLE_NUMBERS_SEARCH ? contents(shop / "searched/table.csv") : search.err,
              MOLE_NUMBERS_SEARCH ? "\nlorahub," : "NLopt"));

  REQUIRE(shop.run({"train-expert", "--task", "fr>en", "--base", "base", "--out", "thick", "--rank", "3",
                    "--steps", "1", "--batch", "2"})
              .code == 0);
  const auto unequal = with(compose("refused"), "--experts", "en-fr,thick");
  for (const auto& row : std::vector<std::pair<Arguments, std::string>>{
           {compose("refused") + Arguments{"--methods", "tie"}, "tie is unknown; choose of sum cat"},
           {compose("refused") + Arguments{"--methods", "svd,pems_negate"}, "combines 1 expert, got 2"},
           {compose("refused") + Arguments{"--methods", "pems_analogy"}, "combines 3 experts, got 2"},
           {unequal + Arguments{"--methods", "pems"}, "rank"},
           {unequal + Arguments{"--methods", "ties"}, "rank"},
           {compose("refused") + Arguments{"--methods", "svd", "--merge-rank", "none"}, "--merge-rank none"},
           {compose("refused") + Arguments{"--methods", "svd", "--merge-rank", "0"}, "--merge-rank 0"},
           {compose("refused") + Arguments{"--methods", "ties", "--merge-density", "0"},
            "--merge-density"}}) {
    const auto& arguments = row.first;
    const auto& error = row.second;
    CAPTURE(error);
    const auto refused = shop.run(arguments);
    CAPTURE(refused.err);
    CHECK(refused.code != 0);
    CHECK(holds(refused.err, error));
    CHECK_FALSE(fs::exists(shop / "refused"));
  }
}

TEST_CASE("Translate draws the gates of one text, a row a token where gates differ by token") {
  const auto& shop = Workshop::get();
  for (const std::string pooling : {"mean", "token"}) {
    CAPTURE(pooling);
    const auto out = "drawn-" + pooling;
    REQUIRE(shop.run(with(compose(out, "2"), "--pooling", pooling) + Arguments{"--only-mole"}).code == 0);
    CHECK(contents(shop / (out + "/gate_statistics.csv")).starts_with("scope,stream,expert,load,"));
    const auto result = shop.run({"translate", "en>fr two", "--base", "base", "--experts", "en-fr,fr-en",
                                  "--gates", out + "/gates.safetensors", "--out", out + "/two"});
    CAPTURE(result.err);
    CHECK(result.code == 0);
    const auto rows = contents(shop / (out + "/two/token_gates.csv"));
    CHECK(rows.starts_with("scope,stream,sequence,token,text,expert,weight\nencoder.block.0,encoder,0,"));
    CHECK(holds(rows, "encoder.block.0,encoder,0,5,(blank),en>fr,") == (pooling == "token"));
    CHECK(fs::exists(shop / (out + "/two/gates.csv")) == (pooling == "mean"));
    for (const char* name : {"/two/gates-input.csv", "/two/gates-answer.csv"})
      CHECK(fs::exists(shop / (out + name)) == (pooling == "token"));
  }
}
