// The program's commands from nothing to a picture, with few steps: what is made can be used by the next.

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include <doctest/doctest.h>
#include <mole/io/gates.hpp>
#include <mole/io/json.hpp>
#include <mole/io/peft.hpp>
#include <testing.hpp>

#include "examples_common/folder.hpp"
#include "pictures/commands.hpp"
#include "pictures/study.hpp"

namespace pictures::command_tests {

namespace {

namespace fs = std::filesystem;
using common_test::contents;
using common_test::Folder;
using mole::testing::lacks;

/// A base and two experts of a few steps each, made once by the program's own commands.
struct Workshop {
  Folder folder;
  fs::path base = folder.path / "base";
  std::vector<std::string> experts;

  static const Workshop& get() {
    static const Workshop shop;
    return shop;
  }
  Workshop() {
    TrainClipOptions clip;
    clip.run = {2, 4, 1e-3, base / "clip"};
    clip.pool = 20;
    commands_on("cpu").train_clip(clip);
    TrainBaseOptions unet;
    unet.run = {2, 2, 1e-3, base};
    unet.pool = 20;
    commands_on("cpu").train_base(unet);
    for (const std::string subject : {"dog face", "robot"}) experts.push_back(make_expert(subject));
  }
  /// A LoRA of a subject and SVDiff's shifts for it; the folder. Shifts are trained for the first and serve all.
  std::string make_expert(const std::string& subject) const {
    TrainExpertOptions expert;
    expert.run = {2, 2, 1e-2, folder.path / folder_name(subject)};
    expert.base = base;
    expert.subject = subject;
    expert.rank = 2;
    expert.pictures = 8;
    commands_on("cpu").train_expert(expert);
    const auto first = folder.path / "dog-face" / "spectral_shifts.safetensors";
    if (fs::exists(first)) {
      fs::copy(first, expert.run.out, fs::copy_options::skip_existing);
    } else {
      expert.svdiff = true;
      commands_on("cpu").train_expert(expert);
    }
    return expert.run.out.string();
  }
};

ComposeOptions few_steps(const Workshop& shop) {
  ComposeOptions options;
  options.base = shop.base;
  options.judge = shop.base / "clip";
  options.out = shop.folder.path / "out";
  options.experts = shop.experts;
  options.steps = 2;
  options.effort = 0.01;
  options.prompts = 1;
  return options;
}

}  // namespace

TEST_CASE("Base and experts are stored as other libraries read them") {
  const auto& shop = Workshop::get();
  CHECK(mole::read_json(shop.base / "unet/config.json").at("_class_name") == "UNet2DConditionModel");
  CHECK(mole::read_json(shop.base / "clip/config.json").at("model_type") == "clip");
  CHECK(mole::read_json(shop.base / "scheduler/scheduler_config.json").at("beta_schedule") ==
        "squaredcos_cap_v2");
  const auto expert = mole::load_adapter(shop.experts[0]);
  CHECK(expert.entries.size() == 70);
  for (const auto& [slot, entry] : expert.entries) {
    CHECK(slot.find(".transformer_blocks.0.") != slot.npos);
    CHECK(entry.rank == 2);
  }
}

TEST_CASE("A study runs from its experts to table, gates and figures, and draws with its gates") {
  const auto& shop = Workshop::get();
  auto options = few_steps(shop);
  options.save_pictures = true;
  commands_on("cpu").compose(options);
  const auto table = contents(options.out / "table.csv");
  for (const auto& method : methods_of({"dog face", "robot"}))
    CHECK(table.find("\n" + method.name + ",") != std::string::npos);
  const auto saved = options.out / "pictures" / "mean-eq-2-NLA";
  CHECK(common::read_png(saved / "0000.png").width == side);
  CHECK(contents(saved / "metadata.jsonl").starts_with("{\"file_name\":\"0000.png\",\"text\":\"a "));
  CHECK(table.find("true pictures") != std::string::npos);
  for (const char* file : {"grid-tiles.png", "gatemap-tiles.png", "loss.csv"})
    CHECK(fs::exists(options.out / file));
  const auto gates = mole::read_gates(options.out / "gates.safetensors");
  CHECK(gates.experts == std::vector<std::string>{"dog face", "robot"});

  DrawOptions draw;
  draw.base = shop.base;
  draw.gates = options.out / "gates.safetensors";
  draw.experts = shop.experts;
  draw.steps = 2;
  draw.show_gates = true;
  draw.prompt = "dog face left of robot on yellow";
  draw.out = shop.folder.path / "drawn.png";
  commands_on("cpu").draw(draw);
  const auto image = common::read_png(draw.out);
  CHECK(image.width == 8 * side);
  CHECK(fs::exists(shop.folder.path / "drawn-gates-tiles.png"));
  // The same prompt and seed, the same file.
  const auto first = contents(draw.out);
  commands_on("cpu").draw(draw);
  CHECK(contents(draw.out) == first);
  draw.seed = 2;
  commands_on("cpu").draw(draw);
  CHECK(contents(draw.out) != first);
}

TEST_CASE("Without SVDiff's shifts there are no rows of it, and the others are made") {
  const auto& shop = Workshop::get();
  auto options = few_steps(shop);
  options.methods = {"base", "SVDiff"};
  options.out = shop.folder.path / "no-svdiff";
  const Folder bare;
  options.experts.clear();
  for (const auto& expert : shop.experts) {
    const auto copy = bare.path / fs::path(expert).filename();
    fs::copy(expert, copy);
    fs::remove(copy / "spectral_shifts.safetensors");
    options.experts.push_back(copy.string());
  }
  commands_on("cpu").compose(options);
  const auto table = contents(options.out / "table.csv");
  CHECK(table.find("SVDiff") == table.npos);
  CHECK(table.find("\nbase,") != table.npos);
}

TEST_CASE("Mix-of-Show's fusion of two LoRAs that are the same is that LoRA") {
  const auto& shop = Workshop::get();
  auto options = few_steps(shop);
  options.methods = {"base", "expert dog face", "Mix-of-Show"};
  options.out = shop.folder.path / "fused";
  options.steps = 6;
  options.save_pictures = true;
  const Folder twin;
  fs::copy(shop.experts[0], twin.path / "robot");
  options.experts = {shop.experts[0], (twin.path / "robot").string()};
  commands_on("cpu").compose(options);
  const auto picture = [&](const std::string& row) {
    return common::read_png(options.out / "pictures" / row / "0000.png").pixels;
  };
  const auto furthest = [&](const std::string& row) {
    const auto a = picture(row), b = picture("expert-dog-face");
    int most = 0;
    for (std::size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(int{a[i]} - int{b[i]}));
    return most;
  };
  CHECK(furthest("Mix-of-Show-fusion") <= 1);
  CHECK(furthest("base") > 1);
}

TEST_CASE("A table of the paper is made, kept, and made again from what was kept") {
  const auto& shop = Workshop::get();
  for (const std::string subject : {"cat face", "pizza"}) shop.make_expert(subject);
  TablesOptions options;
  options.compose = few_steps(shop);
  options.compose.experts.clear();
  options.compose.out = shop.folder.path / "tables";
  options.experts = shop.folder.path;
  options.tables = {"1"};
  options.seeds = 2;
  options.only_seed = 2;
  commands_on("cpu").tables(options);
  CHECK(!fs::exists(options.compose.out / "table1.md"));
  options.only_seed = 0;
  commands_on("cpu").tables(options);
  const auto text = contents(options.compose.out / "table1.md");
  CHECK(text.find("| hand-made masks |") != text.npos);
  CHECK(text.find("| SVDiff |") != text.npos);
  CHECK(text.find("± ") != text.npos);
  fs::remove_all(options.compose.out / "gates");
  commands_on("cpu").tables(options);
  CHECK(!fs::exists(options.compose.out / "gates"));
  CHECK(contents(options.compose.out / "table1.md") == text);
}

TEST_CASE("A study gives the same table again") {
  auto options = few_steps(Workshop::get());
  options.methods = {"base", "MoLE layer"};
  options.out = Workshop::get().folder.path / "again";
  commands_on("cpu").compose(options);
  const auto first = contents(options.out / "table.csv");
  CHECK(!first.empty());
  commands_on("cpu").compose(options);
  CHECK(contents(options.out / "table.csv") == first);
}

TEST_CASE("What is missing or belongs to another base is refused before any work") {
  const auto& shop = Workshop::get();
  auto options = few_steps(shop);
  options.base = shop.folder.path / "nowhere";
  CHECK(lacks<mole::Error>([&] { commands_on("cpu").compose(options); }, {"unet", "train-base", "--base"}) ==
        "");
  options = few_steps(shop);
  options.experts = {"dog face"};
  CHECK(lacks<mole::ArgumentError>([&] { commands_on("cpu").compose(options); }, {"two experts"}) == "");
  options.experts = {"no such expert", "dog face"};
  CHECK(lacks<mole::ArgumentError>([&] { commands_on("cpu").compose(options); },
                                   {"no such expert", "train-expert"}) == "");
  options.experts = {};
  CHECK(lacks<mole::ArgumentError>([&] { commands_on("cpu").compose(options); }, {"empty"}) == "");

  // A LoRA of another base: one slot of another width.
  const auto other = shop.folder.path / "cat-face";
  mole::LoraConfig config;
  config.rank = 1;
  config.alpha = 1;
  config.task_type.clear();
  const std::string slot = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q";
  mole::save_adapter(other, config,
                     std::vector<mole::HostLora<float>>{
                         {slot, 1, 40, 40, std::vector<float>(40, 0.1f), std::vector<float>(40, 0.1f)}},
                     mole::Dtype::F32);
  options.experts = {shop.experts[0], other.string()};
  CHECK(lacks<mole::FormatError>([&] { commands_on("cpu").compose(options); },
                                 {"cat face", "to_q", "another base"}) == "");
  CHECK(lacks<mole::ArgumentError>([] { commands_on("tpu"); }, {"tpu", "cpu"}) == "");
}

TEST_CASE("A prompt of unknown words or too many is refused by draw") {
  const auto& shop = Workshop::get();
  DrawOptions draw;
  draw.base = shop.base;
  draw.steps = 1;
  draw.out = shop.folder.path / "drawn.png";
  draw.prompt = "a dgo face on blue";
  CHECK(lacks<mole::ArgumentError>([&] { commands_on("cpu").draw(draw); }, {"dgo", "dog"}) == "");
  draw.prompt = "a a a a a a a a a a a a a a a a";
  CHECK(lacks<mole::ArgumentError>([&] { commands_on("cpu").draw(draw); }, {"16 words", "--truncate"}) == "");
  draw.truncate = true;
  commands_on("cpu").draw(draw);
  draw.show_gates = true;
  CHECK(lacks<mole::ArgumentError>([&] { commands_on("cpu").draw(draw); }, {"--show-gates", "--gates"}) ==
        "");
}

}  // namespace pictures::command_tests
