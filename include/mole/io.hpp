#pragma once
// All file formats: safetensors, GGUF, model folders of Hugging Face, PEFT adapters, gates, runs. Needs nlohmann_json.
// Tokenizers are in mole/text, which needs ICU.

#include <mole/io/checkpoint.hpp>
#include <mole/io/csv.hpp>
#include <mole/io/gate_csv.hpp>
#include <mole/io/gates.hpp>
#include <mole/io/gguf.hpp>
#include <mole/io/gguf_blocks.hpp>
#include <mole/io/lora_set.hpp>
#include <mole/io/peft.hpp>
#include <mole/io/run_checkpoint.hpp>
#include <mole/io/safetensors.hpp>
#include <mole/io/save_lora_set.hpp>
#include <mole/models/causal/generation_config.hpp>
#include <mole/models/causal/load.hpp>
#include <mole/models/llama/checkpoint.hpp>
#include <mole/models/llama/gguf.hpp>
#include <mole/models/opt/checkpoint.hpp>
#include <mole/models/t5/checkpoint.hpp>
