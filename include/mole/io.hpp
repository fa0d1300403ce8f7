#pragma once
// All file formats: safetensors, Hugging Face's T5, PEFT adapters, gates. Needs nlohmann_json.

#include <mole/io/attach.hpp>
#include <mole/io/gates_file.hpp>
#include <mole/io/peft.hpp>
#include <mole/io/router_file.hpp>
#include <mole/io/safetensors.hpp>
#include <mole/io/save_lora_set.hpp>
#include <mole/io/xlora_file.hpp>
#include <mole/models/t5/checkpoint.hpp>
