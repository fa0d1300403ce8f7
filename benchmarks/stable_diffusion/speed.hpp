#pragma once
// What sd_speed measures, on any backend; one file a backend compiles it.

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <string>
#include <type_traits>
#include <vector>

#include <sys/resource.h>

#include <mole/io.hpp>
#include <mole/models/diffusion/lora_file.hpp>
#include <mole/models/diffusion/pipeline.hpp>
#include <mole/mole.hpp>

namespace sd_speed {

using mole::Index;

/// What is measured: `side` pixels of a latent, so many calls or steps, each of them once more in a graph where the
/// backend has graphs.
struct Job {
  std::filesystem::path folder;
  Index side;
  int steps;
  std::string dtype;
  bool patches;  ///< convolutions as products of patches, where cuDNN would make them
};

struct Speed {
  void (*draw)(const Job&);
  void (*gates)(const Job&);
};

/// That of the backend called "cpu" or "cuda". Throws mole::ArgumentError as mole_add_backends has it.
const Speed& speed_on(const std::string& backend);

/// Says what has passed since it was made or last said something.
template <class B>
class Clock {
 public:
  void say(const std::string& what) {
    B::synchronize();
    const auto now = std::chrono::steady_clock::now();
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    const double processor = seconds(usage.ru_utime) + seconds(usage.ru_stime);
    std::printf("%-34s %9.4f s", what.c_str(), std::chrono::duration<double>(now - wall_).count());
    if constexpr (std::is_same_v<B, mole::Cpu>)
      std::printf(", processor %8.2f s, peak so far %6.2f GiB\n", processor - processor_,
                  static_cast<double>(usage.ru_maxrss) / (1 << 20));
    else
      std::printf(", peak so far on the device %6.2f GiB\n",
                  static_cast<double>(mole::buffer_stats<B>().peak) / (1 << 30));
    std::fflush(stdout);
    wall_ = std::chrono::steady_clock::now();
    processor_ = processor;
  }

 private:
  static double seconds(const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  }

  std::chrono::steady_clock::time_point wall_ = std::chrono::steady_clock::now();
  double processor_ = 0;
};

/// Runs `step`, which reads nothing back, so many times; then as often in a graph, if the backend has graphs.
template <class B, class F>
void repeat(const std::string& what, int times, Clock<B>& clock, F step) {
  for (int i = 0; i < times; ++i) {
    step();
    clock.say(what + " " + std::to_string(i + 1));
  }
  if constexpr (mole::has_graphs<B>) {
    typename mole::GraphOf<B>::type graph(step);
    clock.say("the graph is made");
    for (int i = 0; i < times; ++i) {
      graph.replay();
      clock.say(what + " " + std::to_string(i + 1) + ", in a graph");
    }
  }
}

/// Calls of the UNet on a pair of latents, as guidance needs them, and the VAE's decoder.
template <class T, class B>
void draw(const Job& job) {
  using Values = mole::Tensor<T, B>;
  Clock<B> clock;
  const auto model = mole::load_stable_diffusion<T, B>(job.folder / "sd");
  clock.say("load");
  const mole::NoGrad off;
  const auto latents = Values::randn({2, job.side, job.side, 4}, {1, 0}),
             text = Values::randn({2, 77, 768}, {1, 1});
  const auto times = mole::Tensor<Index, B>::from({1}, {801});
  repeat<B>("UNet, call", job.steps, clock, [&] {
    mole::MolePass<T, B> pass;
    model.unet(latents, times, text, pass);
  });
  const auto decoded = Values::randn({1, job.side, job.side, 4}, {1, 2});
  repeat<B>("VAE, decode", 1, clock, [&] { model.vae.image01(decoded); });
}

/// Training steps of token gates over three LoRAs, one gate a layer, batch 2; and where it is quick enough to repeat,
/// those of the bare model: forward, and back to the latents.
template <class T, class B>
void train_gates(const Job& job) {
  using Values = mole::Tensor<T, B>;
  Clock<B> clock;
  auto unet = mole::load_unet<T, B>(job.folder / "sd" / "unet");
  const mole::ClipText<T, B> text_encoder(
      mole::read_clip_text_config(job.folder / "sd" / "text_encoder" / "config.json"));
  clock.say("load");
  const auto latents = Values::randn({2, job.side, job.side, 4}, {1, 0}),
             target = Values::randn({2, job.side, job.side, 4}, {1, 1}),
             text = Values::randn({2, 77, 768}, {1, 2});
  const auto times = mole::Tensor<Index, B>::from({2}, {801, 301});
  if constexpr (mole::has_graphs<B>) {
    auto x = latents.clone();
    x.set_requires_grad();
    repeat<B>("bare model, forth and back", job.steps, clock, [&] {
      mole::MolePass<T, B> pass;
      x.zero_grad();
      mole::backward(mole::mse(unet(x, times, text, pass), target));
    });
  }
  std::vector<mole::LoraSet> experts;
  for (const char* name : {"lora-1", "lora-2", "lora-3"})
    experts.push_back(mole::load_diffusion_lora(job.folder / (std::string(name) + ".safetensors"),
                                                unet.layers().table, text_encoder.layers().table)
                          .unet);
  unet.attach(experts, mole::GateOptions{.scope = mole::Scope::layer, .pooling = mole::Pooling::token});
  clock.say("attach, " + std::to_string(unet.mixer().gates().size()) + " gates");
  mole::AdamW<T, B> optimizer(unet.mixer().parameters(), {.weight_decay = 0});
  if constexpr (mole::has_graphs<B>) optimizer.prepare(0.01);
  Values seen;
  repeat<B>("gate step", job.steps, clock, [&] {
    mole::MolePass<T, B> pass;
    const auto loss = mole::mse(unet(latents, times, text, pass), target);
    const auto total = mole::total_loss(loss, unet.balance(pass), 0.01);
    optimizer.zero_grad();
    mole::backward(total);
    if constexpr (mole::has_graphs<B>)
      optimizer.apply();
    else
      optimizer.step(0.01);
    seen = loss;
  });
  std::printf("loss %.4f\n", static_cast<double>(seen.item()));
}

/// Lets cuDNN convolve or not, on a backend that has it.
template <class B>
void choose_convolution(const Job& job) {
  if constexpr (requires { B::use_cudnn() = true; }) B::use_cudnn() = !job.patches;
}

template <class B>
void draw_as(const Job& job) {
  choose_convolution<B>(job);
  if constexpr (!std::is_same_v<B, mole::Cpu>)
    if (job.dtype == "bf16") return draw<mole::bf16, B>(job);
  draw<float, B>(job);
}
template <class B>
void gates_as(const Job& job) {
  choose_convolution<B>(job);
  if constexpr (!std::is_same_v<B, mole::Cpu>)
    if (job.dtype == "bf16") return train_gates<mole::bf16, B>(job);
  train_gates<float, B>(job);
}

template <class B>
const Speed* speed_of() {
  static constexpr Speed speed{draw_as<B>, gates_as<B>};
  return &speed;
}

}  // namespace sd_speed
