// Bad input to the numbers program: a clear error that names the thing, and nothing written.

#include "numbers/program.hpp"

using namespace program_test;

namespace {

/// Fills the first values behind a safetensors file's header with BF16 NaN.
std::string with_nan(std::string bytes) {
  std::size_t header = 0;
  for (int i = 7; i >= 0; --i) header = header << 8 | static_cast<unsigned char>(bytes[std::size_t(i)]);
  for (std::size_t i = 0; i < 64; i += 2) {
    bytes[8 + header + i] = '\xc0';
    bytes[9 + header + i] = '\x7f';
  }
  return bytes;
}

}  // namespace

TEST_CASE("Bad input to compose is named, and nothing is written") {
  const auto& shop = Workshop::get();
  fs::copy(shop / "base", shop / "cut");
  const auto weights = contents(shop / "base/model.safetensors");
  write(shop / "cut/model.safetensors", weights.substr(0, weights.size() / 2));
  fs::copy(shop / "base", shop / "nan");
  write(shop / "nan/model.safetensors", with_nan(weights));
  write(shop / "file", "in the way");
  fs::create_directories(shop / "folder");

  struct Row {
    const char* what;
    Arguments arguments;
    std::vector<std::string> named;
  };
  const std::string out = "refused";
  const auto good = compose(out), arrow = with(good, "--router", "arrow"),
             xlora = with(good, "--router", "xlora");
  const std::vector<Row> rows{
      {"unknown language", with(good, "--tasks", "en>tlh"), {"en>tlh", "tlh"}},
      {"task without >", with(good, "--tasks", "english"), {"english", "SOURCE>TARGET"}},
      {"task twice", with(good, "--tasks", "en>fr,en>fr"), {"en>fr", "twice"}},
      {"no tasks", with(good, "--tasks", ""), {"task"}},
      {"no experts", with(good, "--experts", ","), {"list of experts is empty"}},
      {"expert missing", with(good, "--experts", "en-fr,nowhere"), {"nowhere", "train-expert"}},
      {"expert twice", with(good, "--experts", "en-fr,en-fr"), {"en>fr", "two experts"}},
      {"expert of another base", with(good, "--experts", "en-fr,alien"), {"alien", "16", "24"}},
      {"folder without an adapter", with(good, "--experts", "en-fr,folder"), {"folder", "adapter_config"}},
      {"no base", with(good, "--base", "nowhere"), {"nowhere"}},
      {"truncated base", with(good, "--base", "cut"), {"cut/model.safetensors"}},
      {"NaN in the base", with(good, "--base", "nan"), {"warning", "NaN", "step 1", "nan/model.safetensors"}},
      {"output is a file", with(good, "--out", "file"), {"file", "choose a folder"}},
      {"output below a file", with(good, "--out", "file/out"), {"file/out", "choose a folder"}},
      {"output in /proc", with(good, "--out", "/proc/mole"), {"/proc/mole", "choose a folder"}},
      {"unknown backend", with(good, "--backend", "abacus"), {"abacus", "cpu or cuda"}},
      {"scope", with(good, "--scope", "universe"), {"universe", "network"}},
      {"pooling", with(good, "--pooling", "max"), {"max", "flatten"}},
      {"input", with(good, "--input", "tea"), {"tea", "hidden"}},
      {"input scale", with(good, "--input-scale", "sd"), {"sd", "standardised or common"}},
      {"input scale of arrow", arrow + Arguments{"--input-scale", "common"}, {"--input-scale", "is arrow"}},
      {"flatten without length", with(good, "--pooling", "flatten"), {"--length"}},
      {"flatten too short", with(with(good, "--pooling", "flatten"), "--length", "9"), {"--length", "9"}},
      {"length without flatten", with(good, "--length", "64"), {"--length", "flatten"}},
      {"top-k", with(good, "--top-k", "3"), {"top-k", "3"}},
      {"negative top-k", with(good, "--top-k", "-1"), {"top-k", "-1"}},
      {"no steps", with(good, "--steps", "0"), {"--steps"}},
      {"no rate", with(good, "--lr", "0"), {"--lr"}},
      {"rate not a number", with(good, "--lr", "fast"), {"--lr", "fast"}},
      {"too many tests", with(good, "--test", "1001"), {"--test", "1001"}},
      {"unknown option", with(good, "--speed", "9"), {"--speed"}},
      {"resume nothing", good + Arguments{"--resume"}, {"--checkpoint"}},
      {"no checkpoint", good + Arguments{"--resume", "--checkpoint", "nothing"}, {"nothing"}},
      {"checkpoint is a folder", with(good, "--checkpoint", "folder"), {"folder", "--checkpoint"}},
      {"checkpoint in /proc", with(good, "--checkpoint", "/proc/mole/run"), {"/proc/mole"}},
      {"depth of another router", with(good, "--xlora-depth", "2"), {"--xlora-depth", "xlora", "is mole"}},
      {"weight for arrow", arrow + Arguments{"--xlora-weight", "2"}, {"--xlora-weight", "is arrow"}},
      {"scope for arrow", arrow + Arguments{"--scope", "block"}, {"--scope", "mole or hidden or xlora"}},
      {"pooling for arrow", arrow + Arguments{"--pooling", "mean"}, {"--pooling", "is arrow"}},
      {"input for xlora", xlora + Arguments{"--input", "experts"}, {"--input", "is xlora"}},
      {"input for hidden", with(good, "--router", "hidden") + Arguments{"--input", "experts"}, {"--input"}},
      {"length for xlora", xlora + Arguments{"--length", "9"}, {"--length", "mole or hidden"}},
      {"flatten for xlora", xlora + Arguments{"--pooling", "flatten"}, {"flatten", "token", "mean"}},
      {"top-k of arrow", arrow + Arguments{"--top-k", "3"}, {"top-k", "3"}},
      {"temperature of arrow", arrow + Arguments{"--temperature", "0"}, {"--temperature"}},
      {"endless temperature", arrow + Arguments{"--temperature", "inf"}, {"--temperature", "inf"}},
      {"no depth", xlora + Arguments{"--xlora-depth", "0"}, {"--xlora-depth", "0"}},
      {"width of nothing", xlora + Arguments{"--xlora-width", "8"}, {"--xlora-width", "--xlora-depth"}},
      {"scalings", xlora + Arguments{"--xlora-scalings", "some"}, {"some", "softmax or raw"}},
      {"renormalise how",
       xlora + Arguments{"--xlora-renormalize", "twice"},
       {"twice", "none, sum or softmax"}},
      {"renormalise what",
       xlora + Arguments{"--xlora-renormalize", "sum"},
       {"--xlora-renormalize", "--top-k"}},
      {"raw over their sum",
       xlora + Arguments{"--xlora-scalings", "raw", "--top-k", "1", "--xlora-renormalize", "sum"},
       {"without a softmax"}},
      {"raw and balanced",
       xlora + Arguments{"--xlora-scalings", "raw", "--alpha", "0.1"},
       {"--alpha", "balance"}},
      {"weight that is no number", xlora + Arguments{"--xlora-weight", "nan"}, {"--xlora-weight", "finite"}},
      {"no command", {}, {"subcommand"}}};
  for (const auto& row : rows) {
    CAPTURE(row.what);
    const auto result = shop.run(row.arguments, "/nonexistent");
    CHECK(result.code != 0);
    CHECK(result.code < 126);
    for (const auto& part : row.named) {
      CAPTURE(part);
      CAPTURE(result.err);
      CHECK(holds(result.err, part));
    }
    CHECK((!fs::exists(shop / out) || fs::is_empty(shop / out)));
  }
  CHECK(contents(shop / "file") == "in the way");
  CHECK(fs::is_empty(shop / "folder"));
}

TEST_CASE("Bad input to the training commands is named, and nothing is written") {
  const auto& shop = Workshop::get();
  const Arguments base{"train-base", "--width",   "16",           "--layers", "1",
                       "--heads",    "2",         "--head-width", "8",        "--feed-forward",
                       "16",         "--numbers", "20",           "--steps",  "4",
                       "--batch",    "4",         "--out",        "untrained"};
  const Arguments expert{"train-expert", "--task", "en>fr",   "--base", "base",  "--rank",   "2",
                         "--steps",      "4",      "--batch", "4",      "--out", "untrained"};
  struct Row {
    Arguments arguments;
    std::vector<std::string> named;
  };
  const std::vector<Row> rows{{with(base, "--lr", "1e30"), {"loss", "at step", "--lr"}},
                              {with(expert, "--lr", "1e30"), {"en>fr", "at step", "--lr"}},
                              {with(base, "--numbers", "9001"), {"--numbers", "9001"}},
                              {with(expert, "--task", "en>xx"), {"en>xx"}},
                              {with(expert, "--rank", "0"), {"--rank"}},
                              {with(expert, "--base", "cut-off"), {"cut-off"}},
                              {with(expert, "--out", "/proc/mole"), {"/proc/mole"}}};
  for (const auto& row : rows) {
    const auto result = shop.run(row.arguments);
    CAPTURE(result.err);
    CHECK(result.code != 0);
    CHECK(result.code < 126);
    for (const auto& part : row.named) {
      CAPTURE(part);
      CHECK(holds(result.err, part));
    }
    CHECK((!fs::exists(shop / "untrained") || fs::is_empty(shop / "untrained")));
  }
}

TEST_CASE("A checkpoint of other options or a damaged one is refused and left as it was") {
  const auto& shop = Workshop::get();
  const auto command = compose("kept") + Arguments{"--only-mole", "--checkpoint", "kept-run"};
  REQUIRE(shop.run(command, "/nonexistent").code == 0);
  const auto gates = contents(shop / "kept/gates.safetensors"), saved = contents(shop / "kept-run");
  const Arguments resume{"--resume"};
  for (const auto& row : {std::pair<std::string, std::string>{"--seed", "2"},
                          {"--steps", "7"},
                          {"--scope", "network"},
                          {"--experts", "fr-en,en-fr"},
                          {"--tasks", "en>fr"},
                          {"--alpha", "0.5"}}) {
    const auto& option = row.first;
    const auto& value = row.second;
    CAPTURE(option);
    const auto result = shop.run(with(command, option, value) + resume, "/nonexistent");
    CHECK(result.code == 1);
    CHECK(holds(result.err, "kept-run"));
    CHECK(holds(result.err, "another run"));
    CHECK(holds(result.err, option.substr(2, option == "--experts" || option == "--tasks" ? 0 : 9)));
  }
  // A folder that was not there before is not left behind.
  CHECK(shop.run(with(with(command, "--seed", "2"), "--out", "unmade/deep") + resume, "/nonexistent").code ==
        1);
  CHECK(!std::filesystem::exists(shop / "unmade"));
  for (const auto& damaged :
       {saved.substr(0, saved.size() / 2), std::string("not a checkpoint"), std::string(), gates}) {
    write(shop / "kept-run", damaged);
    const auto result = shop.run(command + resume, "/nonexistent");
    CHECK(result.code == 1);
    CHECK(holds(result.err, "kept-run"));
    CHECK(contents(shop / "kept-run") == damaged);
  }
  CHECK(contents(shop / "kept/gates.safetensors") == gates);
  write(shop / "kept-run", saved);
  CHECK(shop.run(command + resume, "/nonexistent").code == 0);
  CHECK(contents(shop / "kept/gates.safetensors") == gates);
}

TEST_CASE("Translate names what does not fit the gates") {
  const auto& shop = Workshop::get();
  REQUIRE(shop.run(with(with(compose("fits"), "--pooling", "flatten"), "--length", "64") +
                       Arguments{"--only-mole"},
                   "/nonexistent")
              .code == 0);
  fs::create_directories(shop / "other");
  REQUIRE(shop.run({"train-expert", "--task", "en>fr", "--base", "base", "--rank", "2", "--steps", "2",
                    "--batch", "4", "--seed", "9", "--out", "other/en-fr"})
              .code == 0);
  for (const std::string router : {"arrow", "xlora"})
    REQUIRE(shop.run(with(compose("fits-" + router, "2"), "--router", router) + Arguments{"--only-mole"},
                     "/nonexistent")
                .code == 0);
  auto oracle = contents(shop / "fits-arrow/gates.safetensors");
  oracle.replace(oracle.find("\"arrow\""), 7, "\"fates\"");
  write(shop / "oracle", oracle);
  const auto classifier = contents(shop / "fits-xlora/gates.safetensors");
  write(shop / "cut-classifier", classifier.substr(0, classifier.size() - 4));
  write(shop / "cut-gates", contents(shop / "fits/gates.safetensors").substr(0, 60));
  const Arguments use{
      "translate", "--base", "base", "--experts", "en-fr,fr-en", "--gates", "fits/gates.safetensors"};
  const std::string prompt = "en>fr two";
  struct Row {
    Arguments arguments;
    std::vector<std::string> named;
  };
  const std::vector<Row> rows{
      {use + Arguments{prompt, "--mask", "en>fr,fr>en"}, {"all experts are masked"}},
      {use + Arguments{prompt, "--mask", "en>de"}, {"en>de", "en>fr", "fr>en"}},
      {with(use, "--experts", "fr-en,en-fr") + Arguments{prompt}, {"fits/gates.safetensors", "order"}},
      {with(use, "--experts", "other/en-fr,fr-en") + Arguments{prompt}, {"another adapter", "en>fr"}},
      {with(use, "--gates", "cut-gates") + Arguments{prompt}, {"cut-gates"}},
      {with(use, "--gates", "none") + Arguments{prompt}, {"none"}},
      {with(use, "--gates", "base/model.safetensors") + Arguments{prompt}, {"no gates file"}},
      {use + Arguments{"two hundred"}, {"two", "SOURCE>TARGET"}},
      {use + Arguments{"en>fr"}, {"en>fr", "text after the task"}},
      {use + Arguments{"en>fr " + std::string(80, 'x')}, {"87 tokens", "64"}},
      {with(use, "--gates", "oracle") + Arguments{prompt},
       {"oracle", "'router'", "fates", "mole, arrow, xlora"}},
      {with(use, "--gates", "cut-classifier") + Arguments{prompt}, {"cut-classifier"}},
      {with(with(use, "--gates", "fits-arrow/gates.safetensors"), "--experts", "fr-en,en-fr") +
           Arguments{prompt},
       {"fits-arrow/gates.safetensors", "order"}},
      {with(with(use, "--gates", "fits-xlora/gates.safetensors"), "--experts", "other/en-fr,fr-en") +
           Arguments{prompt},
       {"fits-xlora/gates.safetensors", "another adapter", "en>fr"}},
      {with(with(use, "--gates", "fits-arrow/gates.safetensors"), "--mask", "en>fr,fr>en") +
           Arguments{prompt},
       {"all experts are masked"}},
      {use, {"prompt"}}};
  for (const auto& row : rows) {
    const auto result = shop.run(row.arguments);
    CAPTURE(result.err);
    CHECK(result.code != 0);
    CHECK(result.code < 126);
    CHECK(result.out == "");
    for (const auto& part : row.named) {
      CAPTURE(part);
      CHECK(holds(result.err, part));
    }
  }
}
