// `mole compose --prompts`, and `mole draw --gates`, on a tiny Stable Diffusion and a tiny CLIP.

#include <string>
#include <vector>

#include <mole/io/gates.hpp>

#include "common/image.hpp"
#include "mole_program/refusal.hpp"
#include "mole_program/studio.hpp"

using namespace program_test;

namespace {

/// The gates of a short run, made once.
std::string picture_gates() {
  static const auto result = composing_studio().run(compose_pictures("shared"), "/nonexistent");
  CAPTURE(result.err);
  REQUIRE(result.code == 0);
  return "shared/gates.safetensors";
}

}  // namespace

TEST_CASE("Composing leaves gates, loss, table, and a sheet of methods by prompts") {
  const auto gates_file = picture_gates();
  const auto folder = fs::path(composing_studio() / "shared");
  const auto table = contents(folder / "table.csv");
  check_in_order(table, {"method,prompt 1,prompt 2,prompt 3,average\n", "base,", "expert a,", "expert b,",
                         "sum (eq. 1),", "mean (eq. 2; NLA),", "MoLE layer"});
  CHECK(holds(contents(folder / "loss.csv"), "step,"));
  CHECK(holds(contents(folder / "loss.csv"), "balance"));
  const auto sheet = common::read_png(folder / "grid-tiles.png");
  CHECK(sheet.width == 3 * 194);
  CHECK(sheet.height == 6 * 194);
  CHECK(fs::exists(folder / "gatemap-tiles.png"));
  CHECK(fs::exists(folder / "pictures/base-3.png"));
  const auto gates = mole::read_gates(folder / "gates.safetensors");
  CHECK(gates.experts == std::vector<std::string>{"a", "b"});
  CHECK(gates.notes.at("base") == "../sd");
  bool moved = false;
  for (const auto& name : gates.stored->names())
    for (const double value : gates.stored->read<double>(name)) moved = moved || (value != 0 && value != 1);
  CHECK(moved);
}

TEST_CASE("Saved gates draw the pictures that composing drew, and find base and experts by themselves") {
  const auto gates = picture_gates();
  const auto& shop = composing_studio();
  const auto result = shop.run({"draw", "--gates", gates, "--prompt", "a cat and the hat", "--steps", "3",
                                "--seed", "1", "--out", "again.png", "--show-gates"});
  CAPTURE(result.err);
  REQUIRE(result.code == 0);
  bool found = false;
  for (const auto& entry : fs::directory_iterator(shop / "shared/pictures"))
    if (entry.path().filename().string().starts_with("MoLE") && entry.path().stem().string().ends_with("-1"))
      found = contents(entry.path()) == contents(shop / "again.png");
  CHECK(found);
  check_in_order(result.out, {"again.png", "top left", "bottom right", "%"});
  CHECK(fs::exists(shop / "again-gates-tiles.png"));
  // An expert that is left out changes the picture.
  REQUIRE(shop.run({"draw", "--gates", gates, "--prompt", "a cat and the hat", "--steps", "3", "--seed", "1",
                    "--mask", "a", "--out", "masked.png"})
              .code == 0);
  CHECK(contents(shop / "masked.png") != contents(shop / "again.png"));
}

TEST_CASE("The same seed gives the same gates on any number of threads, and training moves them") {
  const auto& shop = composing_studio();
  const auto plain = Arguments{"--only-mole", "--sheet", "1"};
  REQUIRE(shop.run(compose_pictures("one") + plain).code == 0);
  REQUIRE(shop.run(compose_pictures("two") + plain + Arguments{"--threads", "2"}).code == 0);
  REQUIRE(shop.run(compose_pictures("other") + plain + Arguments{"--seed", "2"}).code == 0);
  CHECK(contents(shop / "one/gates.safetensors") == contents(shop / "two/gates.safetensors"));
  CHECK(contents(shop / "one/gates.safetensors") != contents(shop / "other/gates.safetensors"));
}

TEST_CASE("Gates of whole pictures and the router that is not trained compose, too") {
  const auto& shop = composing_studio();
  const auto short_run = Arguments{"--only-mole", "--test", "test.jsonl"};
  const auto whole = shop.run(compose_pictures("whole", "2") + short_run +
                              Arguments{"--scope", "block", "--pooling", "mean"});
  CAPTURE(whole.err);
  CHECK(whole.code == 0);
  CHECK(holds(whole.out, "prompt 1: a cat\n"));
  const auto drawn = shop.run({"draw", "--gates", "whole/gates.safetensors", "--prompt", "a cat", "--steps",
                               "2", "--show-gates", "--out", "w.png"});
  CHECK(drawn.code == 0);
  CHECK(holds(drawn.out, "gates are of whole pictures"));
  const auto arrow = shop.run(compose_pictures("arrow", "2") + short_run + Arguments{"--router", "arrow"});
  CAPTURE(arrow.err);
  CHECK(arrow.code == 0);
}

TEST_CASE("Own pictures are one more loss, which moves the gates elsewhere and stands in loss.csv") {
  const auto& shop = composing_studio();
  const auto plain = Arguments{"--only-mole", "--test", "test.jsonl"};
  const auto run = [&](const std::string& out, const Arguments& more) {
    const auto result = shop.run(compose_pictures(out) + plain + more);
    CAPTURE(result.err);
    REQUIRE(result.code == 0);
    return result;
  };
  run("own-none", {});
  const auto result = run("own-some", {"--pictures", "cats,hats"});
  CHECK(holds(result.out, "and 2 of the 5 in 2 folders"));
  run("own-light", {"--pictures", "cats,hats", "--pictures-weight", "0.001"});
  const auto header = contents(fs::path(shop / "own-some/loss.csv"));
  check_in_order(header, {"clip", "diffusion", "balance"});
  CHECK(!holds(contents(fs::path(shop / "own-none/loss.csv")), "diffusion"));
  const auto gates = [&](const std::string& out) { return contents(shop / (out + "/gates.safetensors")); };
  CHECK(gates("own-some") != gates("own-none"));
  CHECK(gates("own-some") != gates("own-light"));
}

TEST_CASE("Gates with a standardised input are measured, trained, saved and draw what composing drew") {
  const auto& shop = composing_studio();
  for (const std::string scale : {"standardised", "common"}) {
    const auto out = "scaled-" + scale;
    const auto result = shop.run(compose_pictures(out) +
                                 Arguments{"--input-scale", scale, "--only-mole", "--test", "test.jsonl"});
    CAPTURE(result.err);
    REQUIRE(result.code == 0);
    const auto gates = out + "/gates.safetensors";
    CHECK(contents(shop / gates) != contents(fs::path(composing_studio() / picture_gates())));
    const auto stored = mole::read_gates(shop / gates);
    bool measured = false;
    for (const auto& name : stored.stored->names())
      if (holds(name, "mean"))
        for (const double value : stored.stored->read<double>(name)) measured = measured || value != 0;
    CHECK(measured);
    REQUIRE(shop.run({"draw", "--gates", gates, "--prompt", "a cat", "--steps", "3", "--seed", "1", "--out",
                      out + ".png"})
                .code == 0);
    bool found = false;
    for (const auto& entry : fs::directory_iterator(shop / (out + "/pictures")))
      found = found || contents(entry.path()) == contents(shop / (out + ".png"));
    CHECK(found);
  }
}

TEST_CASE("Composing pictures that was stopped and resumed ends in the same gates, bit for bit") {
  const auto& shop = composing_studio();
  const auto run = [](const std::string& out) {
    return compose_pictures(out, "80") + Arguments{"--only-mole", "--test",    "test.jsonl",
                                                   "--pictures",  "cats,hats", "--input-scale",
                                                   "standardised"};
  };
  REQUIRE(shop.run(run("whole-run")).code == 0);
  const auto broken = run("broken-run") + Arguments{"--checkpoint", "pictures.state"};
  const auto stopped = shop.interrupt(broken, [&] { return fs::exists(shop / "pictures.state"); });
  CAPTURE(stopped.err);
  CHECK(stopped.code == 130);
  CHECK(holds(stopped.err, "--resume"));
  CHECK(!fs::exists(shop / "broken-run/gates.safetensors"));
  const auto resumed = shop.run(broken + Arguments{"--resume"});
  CAPTURE(resumed.err);
  REQUIRE(resumed.code == 0);
  for (const std::string file : {"/gates.safetensors", "/loss.csv"}) {
    const bool same = contents(shop / ("broken-run" + file)) == contents(shop / ("whole-run" + file));
    CHECK(same);
  }
}

TEST_CASE("Composing pictures is not resumed with other options, prompts, pictures or experts") {
  const auto& shop = composing_studio();
  const auto run =
      compose_pictures("fixed", "2") +
      Arguments{"--only-mole", "--test", "test.jsonl", "--pictures", "cats", "--checkpoint", "fixed.state"};
  REQUIRE(shop.run(run).code == 0);
  for (const auto& other :
       {with(run, "--lr", "0.01"), with(run, "--seed", "2"), with(run, "--sampler-steps", "4"),
        with(run, "--size", "24"), with(run, "--prompts", "test.jsonl"), with(run, "--pictures", "hats"),
        with(run, "--pictures-weight", "2"), with(run, "--input-scale", "common"),
        with(run, "--experts", "b=" + kohya + ",a=" + diffusers)}) {
    const auto result = shop.run(other + Arguments{"--resume"});
    CAPTURE(result.err);
    CHECK(result.code == 1);
    CHECK(holds(result.err, "another run"));
  }
}

TEST_CASE("What a terminal would obey in a prompt is spelled out") {
  const auto& shop = composing_studio();
  write(shop / "escape.jsonl", "{\"prompt\": \"a \\u001b[31mcat\"}\n");
  const auto shown =
      shop.run(with(compose_pictures("escape", "1"), "--prompts", "escape.jsonl") + Arguments{"--only-mole"});
  CAPTURE(shown.err);
  CHECK(shown.code == 0);
  CHECK(shown.out.find('\x1b') == std::string::npos);
  CHECK(holds(shown.out, "prompt 1: a \\x1b[31mcat"));
}

TEST_CASE("A dry run says what would be loaded, and writes nothing") {
  const auto result = composing_studio().run(compose_pictures("dry") + Arguments{"--dry-run"});
  CHECK(result.code == 0);
  check_in_order(result.out, {"parameters", "layers of the UNet", "3 to train on", "16 x 16", "of weights"});
  CHECK(!fs::exists(composing_studio() / "dry"));
}

TEST_CASE("Each refusal of composing pictures names the thing and the remedy") {
  const auto& shop = composing_studio();
  write(shop / "blank.jsonl", "\n");
  write(shop / "long.jsonl",
        "{\"prompt\": \"a cat and the hat and a cat and the hat and a cat and the hat and more\"}\n");
  write_picture(shop / "bare/one.png", 0);
  write_picture(shop / "missing/one.png", 0);
  write(shop / "missing/metadata.jsonl", "{\"file_name\": \"two.png\", \"text\": \"a cat\"}\n");
  write_picture(shop / "twice/one.png", 0);
  write(shop / "twice/metadata.jsonl",
        "{\"file_name\": \"one.png\", \"text\": \"a cat\"}\n"
        "{\"file_name\": \"one.png\", \"text\": \"the hat\"}\n");
  write_picture(shop / "nameless/one.png", 0);
  write(shop / "nameless/metadata.jsonl", "{\"text\": \"a cat\"}\n");
  write_picture(shop / "wordy/one.png", 0);
  write(shop / "wordy/one.txt", "a cat and the hat and a cat and the hat and a cat and the hat and more");
  // What a folder of pictures may not hold.
  const auto captioned = [&](const std::string& folder, const std::string& caption) {
    write_picture(shop / (folder + "/one.png"), 0);
    write(shop / (folder + "/one.txt"), caption);
  };
  captioned("latin", "a c\xe4t");
  captioned("chatty", std::string(200'000, 'a'));
  captioned("mixed", "a cat");
  write(shop / "mixed/two.JPG", "no PNG");
  write_picture(shop / "folder-for-caption/one.png", 0);
  fs::create_directories(shop / "folder-for-caption/one.txt");
  captioned("folder-for-picture", "a cat");
  fs::create_directories(shop / "folder-for-picture/two.png");
  write(shop / "folder-for-picture/two.txt", "a cat");
  captioned("narrow", "a cat");
  common::write_png(shop / "narrow/one.png", common::Image::filled(4096, 1, 0));
  const auto listing = [&](const std::string& folder, const std::string& name) {
    write_picture(shop / (folder + "/one.png"), 0);
    write(shop / (folder + "/metadata.jsonl"), "{\"file_name\": \"" + name + "\", \"text\": \"a cat\"}\n");
  };
  listing("outside", "../cats/0.png");
  listing("elsewhere", shop / "cats/0.png");
  listing("itself", "");
  listing("endless", std::string(5000, 'x') + ".png");
  listing("cut", "one.png\\u0000");
  const auto plain = compose_pictures("refused");
  const auto without = [&](const std::string& option) {
    auto arguments = plain;
    for (std::size_t i = 0; i < arguments.size(); ++i)
      if (arguments[i] == option) {
        arguments.erase(arguments.begin() + static_cast<std::ptrdiff_t>(i),
                        arguments.begin() + static_cast<std::ptrdiff_t>(i) + 2);
        break;
      }
    return arguments;
  };
  for (const auto& row : std::vector<Refusal>{
           {without("--clip"), "--clip FOLDER"},
           {without("--prompts"), "is a Stable Diffusion; give --prompts"},
           {with(plain, "--clip", "sd"), "no CLIP"},
           {with(plain, "--clip", "nowhere"), "CLIPModel"},
           {with(plain, "--prompts", "nowhere.jsonl"), "nowhere.jsonl"},
           {with(plain, "--prompts", "blank.jsonl"), "no examples"},
           {with(plain, "--prompts", "long.jsonl"), "--truncate"},
           {with(plain, "--experts", kohya), "nothing to combine"},
           {with(plain, "--experts", "a=" + kohya + ",b=nowhere"), "no file or folder"},
           {plain + Arguments{"--train", "prompts.jsonl"}, "--train is for language models"},
           {plain + Arguments{"--methods", "ties"}, "--methods is for language models"},
           {plain + Arguments{"--resume"}, "--resume needs --checkpoint"},
           {plain + Arguments{"--pictures-weight", "2"}, "--pictures FOLDERS"},
           {plain + Arguments{"--pictures", "nowhere"}, "is no folder"},
           {plain + Arguments{"--pictures", "clip"}, "holds no PNG files"},
           {plain + Arguments{"--pictures", "bare"}, "one.png"},
           {plain + Arguments{"--pictures", "missing"}, "two.png"},
           {plain + Arguments{"--pictures", "twice"}, "line 2"},
           {plain + Arguments{"--pictures", "nameless"}, "lacks the text file_name"},
           {plain + Arguments{"--pictures", "wordy"}, "--truncate"},
           {plain + Arguments{"--pictures", ","}, "names no folder"},
           {plain + Arguments{"--pictures", "latin"}, "save it as UTF-8"},
           {plain + Arguments{"--pictures", "chatty"}, "at most 100000 are read"},
           {plain + Arguments{"--pictures", "mixed"}, "two.JPG\" is no PNG file; convert it"},
           {plain + Arguments{"--pictures", "folder-for-caption"}, "one.txt"},
           {plain + Arguments{"--pictures", "folder-for-picture"}, "two.png"},
           {plain + Arguments{"--pictures", "narrow", "--size", "512"}, "too narrow"},
           {plain + Arguments{"--pictures", "outside"}, "does not lie in the folder"},
           {plain + Arguments{"--pictures", "elsewhere"}, "does not lie in the folder"},
           {plain + Arguments{"--pictures", "itself"}, "line 1: names"},
           {plain + Arguments{"--pictures", "endless"}, "which is not there"},
           {plain + Arguments{"--pictures", "cut"}, "which is not there"},
           {plain + Arguments{"--router", "xlora"}, "last hidden state"},
           {plain + Arguments{"--pooling", "flatten", "--length", "64"}, "flatten"}})
    check_refused(shop, row);
}

TEST_CASE("Gates are refused with other experts, and with another base there is a warning") {
  const auto gates = picture_gates();
  const auto& shop = composing_studio();
  const auto draw_with = [&](const Arguments& more) {
    return shop.run(
        Arguments{"draw", "--gates", gates, "--prompt", "a cat", "--steps", "2", "--out", "other.png"} +
        more);
  };
  const auto swapped = draw_with({"--experts", "b=" + kohya + ",a=" + diffusers});
  CHECK(swapped.code == 1);
  CHECK(holds(swapped.err, "another adapter"));
  CHECK(draw_with({"--mask", "c"}).code == 1);
  CHECK(draw_with({"--weights", "1,1"}).code == 1);
}
