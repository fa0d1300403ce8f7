// sd_speed WHAT FOLDER [SIZE [STEPS]]: what a Stable Diffusion of real size costs here, step by step. FOLDER is what
// make_folder.py wrote; with_diffusers.py does the same in PyTorch.
//
//   sd_speed draw FOLDER    calls of the UNet on a pair of latents, as guidance needs them, and the VAE's decoder
//   sd_speed gates FOLDER   training steps of token gates over three LoRAs, one gate a layer, batch 2

#include <chrono>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <string>
#include <vector>

#include <sys/resource.h>

#include <mole/io.hpp>
#include <mole/models/diffusion/lora_file.hpp>
#include <mole/models/diffusion/pipeline.hpp>
#include <mole/mole.hpp>

namespace {

using mole::Cpu;
using mole::Index;
using Values = mole::Tensor<float, Cpu>;
using Tokens = mole::Tensor<Index, Cpu>;

double seconds(const timeval& time) {
  return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
}

/// Says what has passed since it was made or last said something.
class Clock {
 public:
  void say(const std::string& what) {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    const auto now = std::chrono::steady_clock::now();
    const double processor = seconds(usage.ru_utime) + seconds(usage.ru_stime);
    std::printf("%-28s %8.2f s, processor %8.2f s, peak so far %6.2f GiB\n", what.c_str(),
                std::chrono::duration<double>(now - wall_).count(), processor - processor_,
                static_cast<double>(usage.ru_maxrss) / (1 << 20));
    std::fflush(stdout);
    wall_ = now;
    processor_ = processor;
  }

 private:
  std::chrono::steady_clock::time_point wall_ = std::chrono::steady_clock::now();
  double processor_ = 0;
};

void draw(const std::filesystem::path& folder, Index side, int steps, Clock& clock) {
  const auto model = mole::load_stable_diffusion<float, Cpu>(folder / "sd");
  clock.say("load");
  const mole::NoGrad off;
  const auto latents = Values::randn({2, side, side, 4}, {1, 0}), text = Values::randn({2, 77, 768}, {1, 1});
  for (int step = 0; step < steps; ++step) {
    mole::MolePass<float, Cpu> pass;
    model.unet(latents, Tokens::from({1}, {801}), text, pass);
    clock.say("UNet, call " + std::to_string(step + 1));
  }
  model.vae.image01(Values::randn({1, side, side, 4}, {1, 2}));
  clock.say("VAE, decode");
}

void train_gates(const std::filesystem::path& folder, Index side, int steps, Clock& clock) {
  auto unet = mole::load_unet<float, Cpu>(folder / "sd" / "unet");
  const mole::ClipText<float, Cpu> text_encoder(
      mole::read_clip_text_config(folder / "sd" / "text_encoder" / "config.json"));
  clock.say("load");
  std::vector<mole::LoraSet> experts;
  for (const char* name : {"lora-1", "lora-2", "lora-3"})
    experts.push_back(mole::load_diffusion_lora(folder / (std::string(name) + ".safetensors"),
                                                unet.layers().table, text_encoder.layers().table)
                          .unet);
  unet.attach(experts, mole::GateOptions{.scope = mole::Scope::layer, .pooling = mole::Pooling::token});
  clock.say("attach, " + std::to_string(unet.mixer().gates().size()) + " gates");
  mole::AdamW<float, Cpu> optimizer(unet.mixer().parameters(), {.weight_decay = 0});
  const auto latents = Values::randn({2, side, side, 4}, {1, 0}),
             target = Values::randn({2, side, side, 4}, {1, 1}), text = Values::randn({2, 77, 768}, {1, 2});
  for (int step = 0; step < steps; ++step) {
    mole::MolePass<float, Cpu> pass;
    const auto loss = mole::mse(unet(latents, Tokens::from({2}, {801, 301}), text, pass), target);
    const auto total = mole::total_loss(loss, unet.balance(pass), 0.01f);
    optimizer.zero_grad();
    mole::backward(total);
    optimizer.step(0.01);
    clock.say("gate step " + std::to_string(step + 1) + ", loss " + std::to_string(loss.item()));
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string what = argc > 2 ? argv[1] : "";
  if (what != "draw" && what != "gates") {
    std::fprintf(stderr, "usage: %s draw|gates FOLDER [SIZE [STEPS]]\n", argv[0]);
    return 2;
  }
  try {
    const Index side = (argc > 3 ? std::stol(argv[3]) : 512) / 8;
    const int steps = argc > 4 ? std::stoi(argv[4]) : 2;
    Clock clock;
    (what == "draw" ? draw : train_gates)(argv[2], side, steps, clock);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "sd_speed: %s\n", error.what());
    return 1;
  }
  return 0;
}
