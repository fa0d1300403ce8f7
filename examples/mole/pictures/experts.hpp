#pragma once
// The LoRA experts of a picture model, from whatever files their world has.

#include <vector>

#include <mole/models/diffusion/lora_file.hpp>

#include "mole/experts.hpp"
#include "mole/pictures/files.hpp"

namespace program {

/// The LoRAs at these paths for a pipeline; warnings go to stderr. Throws as mole::load_diffusion_lora(), naming the
/// expert; mole::Error for a path that is not there; mole::FormatError for a LoRA that adapts nothing of the UNet where
/// `for_gates`, or does not fit the pipeline.
std::vector<mole::DiffusionLora> load_picture_experts(const std::vector<ExpertPath>& paths,
                                                      const PictureFiles& files, bool for_gates);

}  // namespace program
