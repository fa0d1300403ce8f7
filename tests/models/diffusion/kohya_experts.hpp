#pragma once
// The UNet of the golden of Stable Diffusion 1, and two experts for it.

#include <filesystem>
#include <string>
#include <vector>

#include <io/folder.hpp>
#include <mole/backends/cpu.hpp>
#include <mole/models/clip/config_file.hpp>
#include <mole/models/clip/text.hpp>
#include <mole/models/diffusion/lora_file.hpp>
#include <mole/models/unet/checkpoint.hpp>

namespace mole::kohya_experts {

inline const std::filesystem::path sd1 = io_test::golden("vl/sd1");

inline UNet<double, Cpu> load_base() { return load_unet<double, Cpu>(sd1 / "base/unet"); }

/// The kohya LoRA, which adapts convolutions too, and the same with its sign turned and half its size.
inline std::vector<LoraSet> experts(const UNet<double, Cpu>& unet) {
  const ClipText<double, Cpu> text(read_clip_text_config(sd1 / "base/text_encoder/config.json"));
  auto one = load_diffusion_lora(sd1 / "lora_kohya", unet.layers().table, text.layers().table, "one").unet;
  auto two = one;
  two.name = "two";
  two.factors = [own = one.factors](const std::string& slot) {
    auto factors = own(slot);
    factors.scale *= -0.5;
    return factors;
  };
  return {one, two};
}

}  // namespace mole::kohya_experts
