// Lesson 10: two LoRAs, two halves of a picture, one gate.
//
// A frozen UNet paints 32 x 32 pixels. One LoRA knows a dog, another a cat. Added up they spoil each other. A token
// gate gives every pixel weights of its own: here we set them by hand, left the dog and right the cat. `pictures
// compose` trains such gates.

#include <mole/io.hpp>
#include <mole/mole.hpp>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>

using B = mole::Cpu;
using Tensor = mole::Tensor<float, B>;
using mole::Index;

int main() {
  const std::filesystem::path assets = MOLE_PICTURES_ASSETS;
  const auto clip = mole::load_clip<float, B>(assets / "base/clip");
  auto unet = mole::load_unet<float, B>(assets / "base/unet");
  const mole::NoiseSchedule schedule(
      mole::read_schedule_config(assets / "base/scheduler/scheduler_config.json"));

  // "a dog face left of a cat face on blue", one token a word; 0 begins the text, 1 ends and pads it.
  const auto ids =
      mole::Tensor<Index, B>::from({1, 16}, {0, 2, 70, 86, 129, 145, 2, 49, 86, 146, 32, 1, 1, 1, 1, 1});
  mole::MolePass<float, B> reading;
  const auto text = clip.text.states(ids, reading);  // [1, 16, 80]

  // The experts, with one gate a layer that has a row for each pixel, and one for each word.
  std::vector<mole::LoraSet> experts;
  for (const char* name : {"dog-face", "cat-face"})
    experts.push_back(mole::lora_set(mole::load_adapter(assets / "experts" / name)));
  unet.attach(experts, {.scope = mole::Scope::layer, .pooling = mole::Pooling::token});

  // Gates by hand: expert 0 for the left half of the picture and the first six words, expert 1 for the rest.
  const auto by_hand = [&](const mole::GateValue<float, B>& gate, bool words) {
    const Index tokens = gate.weights.size(1);
    const Index width = tokens == 256 ? 16 : 8;  // two levels of the UNet have attention
    std::vector<float> weights;
    for (Index i = 0; i < tokens; ++i) {
      const bool first = words ? i < 6 : i % width < width / 2;
      weights.insert(weights.end(), {first ? 1.f : 0.f, first ? 0.f : 1.f});
    }
    const auto value = Tensor::from({1, tokens, 2}, weights);
    return mole::GateValue<float, B>{value, value};
  };
  mole::MolePass<float, B> mask, look;
  unet(Tensor::zeros({1, 32, 32, 3}), mole::Tensor<Index, B>::from({1}, {999}), text, look);
  for (std::size_t i = 0; i < look.gates.size(); ++i)
    mask.gates.push_back(by_hand(*look.gates[i], unet.mixer().gates()[i].tokens == "memory"));

  const auto picture = mole::sample(
      unet, schedule, Tensor::randn({1, 32, 32, 3}, {9, 0}), text, text, {.steps = 20, .guidance = 1},
      [&](std::size_t, mole::MolePass<float, B>& pass) { pass.gates = mask.gates; }, [](const auto&) {});

  // A PPM file, which most viewers read.
  std::ofstream file("lesson_10.ppm", std::ios::binary);
  file << "P6 32 32 255\n";
  for (const float value : picture.to_host())
    file.put(static_cast<char>(static_cast<unsigned char>(std::clamp((value + 1) * 127.5f, 0.f, 255.f))));
  std::printf("lesson_10.ppm: a dog on the left, a cat on the right\n");
}
