#pragma once
// All file formats: safetensors, model folders of Hugging Face, PEFT adapters, LoRAs of Stable Diffusion,
// gates, runs. Needs nlohmann_json.

#include <mole/io/checkpoint.hpp>
#include <mole/io/config_fields.hpp>
#include <mole/io/csv.hpp>
#include <mole/io/gate_csv.hpp>
#include <mole/io/gates.hpp>
#include <mole/io/lora_set.hpp>
#include <mole/io/peft.hpp>
#include <mole/io/run_checkpoint.hpp>
#include <mole/io/safetensors.hpp>
#include <mole/io/save_lora_set.hpp>
#include <mole/models/clip/checkpoint.hpp>
#include <mole/models/clip/config_file.hpp>
#include <mole/models/diffusion/lora_file.hpp>
#include <mole/models/diffusion/lora_names.hpp>
#include <mole/models/diffusion/pipeline.hpp>
#include <mole/models/diffusion/schedule_file.hpp>
#include <mole/models/load_parameters.hpp>
#include <mole/models/t5/checkpoint.hpp>
#include <mole/models/unet/checkpoint.hpp>
#include <mole/models/unet/config_file.hpp>
#include <mole/models/vae/checkpoint.hpp>
