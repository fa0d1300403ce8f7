// Lesson 7: your own adapters: a model folder of Hugging Face and LoRAs of PEFT in, a file of gates out.
//
//   base        a folder with config.json and model.safetensors: here a small T5 that reads bytes
//   adapters    folders with adapter_config.json and adapter_model.safetensors
//   gates       one a block of the model; they read the experts' outputs and are all that trains
//
// Without arguments it takes those of the numbers program. With its own: 07_adapters BASE ADAPTER ADAPTER...

#include <cstdio>
#include <filesystem>

#include <mole/io.hpp>
#include <mole/mole.hpp>

using B = mole::Cpu;
using mole::Index;
using Floats = mole::Tensor<float, B>;
using Ids = mole::Tensor<Index, B>;
using Texts = std::vector<std::string>;

/// Each text as one row: a byte is its number + 3, the text ends in 1, and what is left over is `padding`.
Ids bytes(const Texts& texts, std::size_t length, Index padding) {
  std::vector<Index> ids(texts.size() * length, padding);
  for (std::size_t i = 0; i < texts.size(); ++i) {
    for (std::size_t j = 0; j < texts[i].size(); ++j)
      ids[i * length + j] = static_cast<unsigned char>(texts[i][j]) + 3;
    ids[i * length + texts[i].size()] = 1;
  }
  return Ids::from({static_cast<Index>(texts.size()), static_cast<Index>(length)}, ids);
}

int main(int count, char** words) {
  Texts folders(words + 1, words + count);
  const std::filesystem::path shipped = MOLE_NUMBERS_ASSETS;
  if (folders.size() < 2) folders = {shipped / "base", shipped / "experts/en-fr", shipped / "experts/fr-en"};

  auto model = mole::load_t5<float, B>(folders[0]);
  std::vector<mole::LoraSet> adapters;
  for (std::size_t i = 1; i < folders.size(); ++i) {
    adapters.push_back(mole::lora_set(mole::load_adapter(folders[i])));
    std::printf("%s adapts %zu layers\n", adapters.back().name.c_str(), adapters.back().slots.size());
  }
  model.attach(adapters, {.scope = mole::Scope::block, .temperature = 0.3});
  std::printf("%zu gates\n\n", model.mixer().gates().size());

  const Texts questions = {"en>fr two hundred six", "fr>en deux cent six", "en>fr ninety", "fr>en trente"};
  const Texts answers = {"deux cent six", "two hundred six", "quatre-vingt-dix", "thirty"};
  const auto ids = bytes(questions, 24, 0), labels = bytes(answers, 20, -100);  // -100 does not count
  std::vector<float> real;
  for (const Index id : ids.to_host()) real.push_back(id == 0 ? 0.0f : 1.0f);
  const mole::T5Batch<float, B> batch{ids, Floats::from(ids.shape(), real), labels};

  mole::AdamW<float, B> optimizer(model.mixer().parameters(), {.weight_decay = 0});
  float first = 0, last = 0;
  for (int step = 0; step <= 12; ++step) {
    mole::MolePass<float, B> pass;
    const auto task = model.loss(batch, pass), loss = mole::total_loss(task, model.balance(pass), 0.01);
    last = task.item();
    if (step == 0) first = last;
    if (step % 4 == 0) std::printf("step %2d  cross entropy of an answer's bytes %.3f\n", step, last);
    optimizer.zero_grad();
    mole::backward(loss);
    optimizer.step(0.1);
  }

  const auto file = std::filesystem::temp_directory_path() / "mole-lesson-7.safetensors";
  mole::save_gates(file, model.mixer());
  auto again = mole::load_t5<float, B>(folders[0]);
  mole::attach_gates(again, adapters, mole::read_gates(file));  // refuses other adapters
  mole::MolePass<float, B> a, b;
  const bool same = again.loss(batch, a).item() == model.loss(batch, b).item();
  std::printf("\ngates in %s: %s\n", file.c_str(), same ? "the same model when loaded" : "another model");
  std::filesystem::remove(file);
  return last < first && same ? 0 : 1;
}
