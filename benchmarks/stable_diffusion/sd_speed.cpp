// What a Stable Diffusion of real size costs here, step by step. FOLDER is what make_folder.py wrote; with_diffusers.py
// does the same in PyTorch.

#include <cstdio>
#include <exception>
#include <string>

#include "stable_diffusion/speed.hpp"

namespace {

constexpr const char* usage =
    "usage: sd_speed draw|gates FOLDER [SIZE [STEPS [BACKEND [DTYPE [patches]]]]]\n"
    "  draw     calls of the UNet on a pair of latents, as guidance needs them, and the VAE's decoder\n"
    "  gates    training steps of token gates over three LoRAs, one gate a layer, batch 2\n"
    "  SIZE     pixels of a side: 512\n"
    "  STEPS    calls or steps: 2\n"
    "  BACKEND  cpu (the default) or cuda, where each call is also repeated in a graph\n"
    "  DTYPE    f32 (the default), or bf16 on cuda\n"
    "  patches  convolutions are products of patches even where cuDNN could make them\n";

}  // namespace

int main(int argc, char** argv) {
  const std::string what = argc > 2 ? argv[1] : "", backend = argc > 5 ? argv[5] : "cpu",
                    dtype = argc > 6 ? argv[6] : "f32", patches = argc > 7 ? argv[7] : "";
  if ((what != "draw" && what != "gates") || argc > 8 || (argc > 7 && patches != "patches") ||
      (dtype != "f32" && (dtype != "bf16" || backend == "cpu"))) {
    std::fputs(usage, stderr);
    return 2;
  }
  try {
    const sd_speed::Job job{argv[2], (argc > 3 ? std::stol(argv[3]) : 512) / 8,
                            argc > 4 ? std::stoi(argv[4]) : 2, dtype, !patches.empty()};
    const auto& speed = sd_speed::speed_on(backend);
    (what == "draw" ? speed.draw : speed.gates)(job);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "sd_speed: %s\n", error.what());
    return 1;
  }
  return 0;
}
