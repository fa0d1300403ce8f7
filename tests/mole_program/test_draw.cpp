// `mole draw` and `mole inspect` on a tiny Stable Diffusion. tests/data/draw holds pictures that diffusers drew of it.

#include <cstdlib>
#include <limits>
#include <map>
#include <string>
#include <vector>

#include "common/image.hpp"
#include "mole_program/studio.hpp"

using namespace program_test;

namespace {

/// The largest difference between two pictures' bytes; -1 where their sizes differ.
int largest_difference(const common::Image& a, const common::Image& b) {
  if (a.width != b.width || a.height != b.height) return -1;
  int largest = 0;
  for (std::size_t i = 0; i < a.pixels.size(); ++i)
    largest = std::max(largest, std::abs(a.pixels[i] - b.pixels[i]));
  return largest;
}

}  // namespace

TEST_CASE("Pictures are those of diffusers, from the same noise, with and without LoRAs") {
  const auto& studio = Studio::get();
  const auto expected = fs::path(MOLE_TEST_DATA) / "draw";
  struct Row {
    std::string name;
    Arguments arguments;
  };
  // As tests/data/check_draw_with_diffusers.py has them.
  for (const auto& row : std::vector<Row>{
           {"plain", {"--prompt", "a cat and the hat", "--steps", "8"}},
           {"negative",
            {"--prompt", "A CAT, 42 hats!", "--negative", "the world", "--guidance", "3", "--steps", "5",
             "--size", "24x16"}},
           {"unguided", {"--prompt", "hello", "--guidance", "1", "--steps", "4"}},
           {"kohya", {"--prompt", "a cat", "--steps", "6", "--experts", kohya, "--weights", "1"}},
           {"two",
            {"--prompt", "a cat and the hat", "--steps", "6", "--size", "16x24", "--experts",
             kohya + ",b=" + diffusers, "--weights", "0.5,0.7"}}}) {
    CAPTURE(row.name);
    const auto out = row.name + ".png";
    const auto result =
        studio.run(Arguments{"draw", "--base", "sd", "--noise",
                             (expected / (row.name + ".safetensors")).string(), "--out", out} +
                   row.arguments);
    CAPTURE(result.err);
    REQUIRE(result.code == 0);
    const auto difference =
        largest_difference(common::read_png(studio / out), common::read_png(expected / (row.name + ".png")));
    CHECK(difference >= 0);
    CHECK(difference <= 1);
  }
}

TEST_CASE("A picture is a function of its seed and number, and pictures of a run are numbered") {
  const auto& studio = Studio::get();
  REQUIRE(studio.run(draw("one.png")).code == 0);
  REQUIRE(studio.run(draw("many.png") + Arguments{"--count", "2"}).code == 0);
  REQUIRE(studio.run(draw("other.png") + Arguments{"--seed", "1"}).code == 0);
  CHECK(contents(studio / "one.png") == contents(studio / "many-1.png"));
  CHECK(contents(studio / "one.png") != contents(studio / "many-2.png"));
  CHECK(contents(studio / "one.png") != contents(studio / "other.png"));
  // DDPM draws noise at each step, by the seed too.
  const auto ddpm = Arguments{"--sampler", "ddpm"};
  REQUIRE(studio.run(draw("ddpm.png") + ddpm).code == 0);
  REQUIRE(studio.run(draw("again.png") + ddpm + Arguments{"--threads", "2"}).code == 0);
  CHECK(contents(studio / "ddpm.png") == contents(studio / "again.png"));
  CHECK(contents(studio / "ddpm.png") != contents(studio / "one.png"));
}

TEST_CASE("Experts without weights have 1/N each, and the prompt decides on the picture") {
  const auto& studio = Studio::get();
  const auto two = Arguments{"--experts", "a=" + kohya + ",b=" + diffusers};
  const auto result = studio.run(draw("mean.png") + two);
  CHECK(result.code == 0);
  CHECK(holds(result.out, "a cat: mean.png"));
  REQUIRE(studio.run(draw("half.png") + two + Arguments{"--weights", "0.5,0.5"}).code == 0);
  REQUIRE(studio.run(draw("whole.png") + two + Arguments{"--weights", "1,1"}).code == 0);
  REQUIRE(studio.run(draw("hat.png", "the hat") + two).code == 0);
  CHECK(contents(studio / "mean.png") == contents(studio / "half.png"));
  CHECK(contents(studio / "mean.png") != contents(studio / "whole.png"));
  CHECK(contents(studio / "mean.png") != contents(studio / "hat.png"));
}

TEST_CASE("A folder whose weights are a variant alone is read by itself") {
  const auto& studio = Studio::get();
  write_pictures(studio / "half", "fp16");
  REQUIRE(studio.run(draw("plain-weights.png")).code == 0);
  REQUIRE(studio.run(with(draw("variant.png"), "--base", "half")).code == 0);
  CHECK(contents(studio / "plain-weights.png") == contents(studio / "variant.png"));
}

TEST_CASE("Each refusal of draw names the thing and the remedy") {
  const auto& studio = Studio::get();
  const auto copy = [&](const std::string& name) {
    fs::remove_all(studio / name);
    fs::copy(studio / "sd", studio / name, fs::copy_options::recursive);
    return std::string(studio / name);
  };
  for (const std::string part : {"unet", "vae", "text_encoder", "tokenizer", "scheduler"})
    fs::remove_all(fs::path(copy("no-" + part)) / part);
  fs::remove(fs::path(copy("no-index")) / "model_index.json");
  fs::rename(fs::path(copy("pickle")) / "unet/diffusion_pytorch_model.safetensors",
             studio / "pickle/unet/diffusion_pytorch_model.bin");
  const auto set = [](const fs::path& file, const char* key, const mole::Json& value) {
    auto json = mole::read_json(file);
    json[key] = value;
    mole::write_json(file, json);
  };
  set(fs::path(copy("xl")) / "model_index.json", "_class_name", "StableDiffusionXLPipeline");
  set(fs::path(copy("inpaint")) / "unet/config.json", "in_channels", 9);
  set(fs::path(copy("wide")) / "text_encoder/config.json", "hidden_size", 32);
  fs::create_directories(studio / "empty");
  write(studio / "text.safetensors", "no tensors");
  const auto plain = draw("refused.png");
  const auto gate_words =
      "a cat and the hat and a cat and the hat and a cat and the hat and a cat and the hat";
  struct Row {
    Arguments arguments;
    std::vector<std::string> parts;
  };
  for (const auto& row : std::vector<Row>{
           {with(plain, "--base", "nowhere"), {"is not there", "diffusers"}},
           {with(plain, "--base", "empty"), {"model_index.json", "from_single_file"}},
           {with(plain, "--base", "no-index"), {"model_index.json"}},
           {with(plain, "--base", "no-unet"), {"has no unet/", "download"}},
           {with(plain, "--base", "no-vae"), {"has no vae/", "save_pretrained"}},
           {with(plain, "--base", "no-text_encoder"), {"has no text_encoder/"}},
           {with(plain, "--base", "no-tokenizer"), {"has no tokenizer/"}},
           {with(plain, "--base", "no-scheduler"), {"has no scheduler/"}},
           {with(plain, "--base", "pickle"), {"only safetensors are read", "safe_serialization"}},
           {with(plain, "--base", "xl"), {"StableDiffusionXLPipeline", "not supported"}},
           {with(plain, "--base", "inpaint"), {"in_channels is 9", "inpainting"}},
           {with(plain, "--base", "wide"), {"text_encoder"}},
           {with(plain, "--size", "17"), {"17 is no multiple of 2", "16 and 18"}},
           {with(plain, "--size", "big"), {"WIDTHxHEIGHT"}},
           {with(plain, "--steps", "2000"), {"1000"}},
           {with(plain, "--sampler", "euler"), {"choose ddim or ddpm"}},
           {with(plain, "--prompt", gate_words), {"--prompt", "reads 20", "--truncate"}},
           {with(plain, "--negative", gate_words), {"--negative", "--truncate"}},
           {with(plain, "--out", "picture.jpg"), {"ends in .png"}},
           {with(plain, "--experts", "nowhere.safetensors"), {"nowhere", "no file or folder"}},
           {with(plain, "--experts", "text.safetensors"), {"text.safetensors"}},
           {with(plain, "--experts", kohya + "," + kohya), {"two are called kohya"}},
           {plain + Arguments{"--experts", kohya, "--weights", "1,2"}, {"2 weights", "1 experts"}},
           {plain + Arguments{"--experts", kohya, "--weights", "much"}, {"--weights much", "numbers"}},
           {with(plain, "--gates", "nowhere"), {"nowhere"}},
           {plain + Arguments{"--show-gates"}, {"--gates FILE"}},
           {with(plain, "--noise", kohya), {"no tensor latents"}},
           {with(plain, "--backend", "tpu"), {"choose cpu or cuda"}}}) {
    const auto result = studio.run(row.arguments);
    CAPTURE(result.err);
    CHECK(result.code == 1);
    CHECK(result.err.starts_with("mole: "));
    for (const auto& part : row.parts) {
      CAPTURE(part);
      CHECK(holds(result.err, part));
    }
    CHECK(!fs::exists(studio / "refused.png"));
  }
  CHECK(studio.run(with(plain, "--prompt", gate_words) + Arguments{"--truncate"}).code == 0);
}

TEST_CASE("Inspecting a folder of diffusers tells its parts, sizes and scheduler, and what is wrong") {
  const auto& studio = Studio::get();
  const auto whole = studio.run({"inspect", "sd"});
  CAPTURE(whole.out);
  CHECK(whole.code == 0);
  for (const std::string part : {"channels 12, 24", "PNDMScheduler", "epsilon", "20 tokens of 700, width 24",
                                 "16 x 16 pixels; sides are multiples of 2", "nothing was found",
                                 "UNet2DConditionModel", "AutoencoderKL", "CLIPTextModel", "F32"}) {
    CAPTURE(part);
    CHECK(holds(whole.out, part));
  }
  fs::copy(studio / "sd", studio / "broken", fs::copy_options::recursive);
  fs::remove_all(studio / "broken/vae");
  fs::copy_file(studio / "sd/vae/diffusion_pytorch_model.safetensors",
                studio / "broken/unet/diffusion_pytorch_model.safetensors",
                fs::copy_options::overwrite_existing);
  fs::remove(studio / "broken/tokenizer/merges.txt");
  const auto broken = studio.run({"inspect", "broken"});
  CAPTURE(broken.out);
  CHECK(broken.code == 0);
  CHECK(holds(broken.out, "is missing, which a model of this config.json has"));
  CHECK(holds(broken.out, "broken/vae"));
  CHECK(holds(broken.out, "holds no tokenizer"));
  CHECK(!holds(broken.out, "nothing was found"));
}

TEST_CASE("Inspecting LoRAs of pictures tells those that draw reads from those that it refuses") {
  const auto& studio = Studio::get();
  const auto said = [&](const std::string& path) {
    const auto result = studio.run({"inspect", path});
    CHECK(result.code == 0);
    return result.out;
  };
  const std::string sd1 = std::string(MOLE_TEST_DATA) + "/golden/vl/sd1/";
  const auto peft = said(sd1 + "lora_peft");
  CHECK(holds(peft, "lora_peft/unet: a PEFT LoRA adapter"));
  CHECK(holds(peft, "lora_peft/text_encoder: a PEFT LoRA adapter"));
  for (const std::string good : {"lora_diffusers", "lora_diffusers_old", "lora_kohya"}) {
    CAPTURE(good);
    CHECK(holds(said(sd1 + good), "the tensors of a LoRA"));
    CHECK(!holds(said(sd1 + good), "wrong"));
  }
  const auto file_of = [&](const std::map<std::string, float>& tensors) {
    mole::SafetensorsWriter writer;
    for (const auto& [name, value] : tensors)
      writer.add(name, mole::Dtype::F32, {2, 2}, std::vector<float>(4, value));
    writer.write(studio / "odd.safetensors");
    return said("odd.safetensors");
  };
  CHECK(holds(file_of({{"lora_unet_a.hada_w1_a", 1.f}}), "a LoHa"));
  CHECK(holds(file_of({{"lora_unet_a.lora_down.weight", 1.f}}), "has a down factor but no up factor"));
  CHECK(holds(file_of({{"unet.a.lora.up.weight", 1.f}}), "has an up factor but no down factor"));
  const float nan = std::numeric_limits<float>::quiet_NaN();
  CHECK(holds(file_of({{"unet.a.lora_A.weight", nan}, {"unet.a.lora_B.weight", 1.f}}),
              "holds NaN or infinite values"));
  CHECK(holds(said(std::string(MOLE_TEST_DATA) + "/golden/vl/clip/base"), "a CLIP"));
  CHECK(holds(said("sd/unet"), "a part of a diffusers folder"));
}

TEST_CASE("The help of draw names its options") {
  check_help(Studio::get(),
             {{{"draw"},
               {"--base", "--experts", "--weights", "--gates", "--prompt", "--negative", "--steps",
                "--guidance", "--sampler", "--size", "--seed", "--count", "--truncate", "--out"}}});
}
