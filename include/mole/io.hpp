#pragma once
// All file formats: safetensors, GGUF, model folders of Hugging Face, PEFT adapters, LoRAs of Stable Diffusion, gates,
// runs. Needs nlohmann_json. Tokenizers are in mole/text, which needs ICU.

#if __cplusplus < 202002L
#  error "mole needs C++20: compile with -std=c++20 or newer"
// A compiler goes on after an #error. It stops at a file that is not there.
#  include <mole/needs/c++20>
#endif

#include <mole/io/bitsandbytes.hpp>
#include <mole/io/checkpoint.hpp>
#include <mole/io/config_fields.hpp>
#include <mole/io/csv.hpp>
#include <mole/io/expert_store.hpp>
#include <mole/io/gate_csv.hpp>
#include <mole/io/gates.hpp>
#include <mole/io/gates_file.hpp>
#include <mole/io/gguf.hpp>
#include <mole/io/gguf_blocks.hpp>
#include <mole/io/gguf_rows.hpp>
#include <mole/io/lora_set.hpp>
#include <mole/io/peft.hpp>
#include <mole/io/run_checkpoint.hpp>
#include <mole/io/safetensors.hpp>
#include <mole/io/save_lora_set.hpp>
#include <mole/models/causal/generation_config.hpp>
#include <mole/models/causal/load.hpp>
#include <mole/models/clip/checkpoint.hpp>
#include <mole/models/clip/config_file.hpp>
#include <mole/models/diffusion/lora_file.hpp>
#include <mole/models/diffusion/lora_names.hpp>
#include <mole/models/diffusion/pipeline.hpp>
#include <mole/models/diffusion/schedule_file.hpp>
#include <mole/models/llama/checkpoint.hpp>
#include <mole/models/llama/gguf.hpp>
#include <mole/models/load_parameters.hpp>
#include <mole/models/opt/checkpoint.hpp>
#include <mole/models/quantisation.hpp>
#include <mole/models/t5/checkpoint.hpp>
#include <mole/models/unet/checkpoint.hpp>
#include <mole/models/unet/config_file.hpp>
#include <mole/models/vae/checkpoint.hpp>
