#include "mole/pictures/experts.hpp"

#include <iostream>

#include <mole/core/error.hpp>

namespace program {

namespace {

/// Throws unless the model has each of the adapter's layers, in its shape. LoRA files are checked when they are read;
/// PEFT folders know no model.
void check_fits(const mole::LoraSet& set, const mole::SlotCatalogue& slots) {
  for (const auto& name : set.slots) {
    const auto found = slots.find(name);
    MOLE_CHECK_FORMAT(found != slots.end(), "expert", set.name, "adapts", name,
                      "which this model does not have; it was trained for another base");
    const auto factors = set.factors(name);
    MOLE_CHECK_FORMAT(factors.d_in == found->second.d_in && factors.d_out == found->second.d_out, "expert",
                      set.name, "expects", name, "to be", factors.d_out, "x", factors.d_in,
                      "but this model's is", found->second.d_out, "x", found->second.d_in,
                      "; it was trained for another base");
  }
}

}  // namespace

std::vector<mole::DiffusionLora> load_picture_experts(const std::vector<ExpertPath>& paths,
                                                      const PictureFiles& files, bool for_gates) {
  std::vector<mole::DiffusionLora> experts;
  for (const auto& path : paths) {
    MOLE_CHECK_AS(mole::Error, std::filesystem::exists(path.folder), "expert",
                  path.name + ": there is no file or folder", path.folder,
                  "- give a LoRA's .safetensors file, or its folder");
    auto lora = mole::load_diffusion_lora(path.folder, files.unet_slots, files.text_slots, path.name);
    for (const auto& warning : lora.warnings) std::cerr << "warning: " << warning << "\n";
    check_fits(lora.unet, files.unet_slots);
    check_fits(lora.text, files.text_slots);
    MOLE_CHECK_FORMAT(!for_gates || !lora.unet.slots.empty(), "expert", path.name,
                      "adapts the text encoder alone; gates mix experts of the UNet");
    experts.push_back(std::move(lora));
  }
  return experts;
}

}  // namespace program
