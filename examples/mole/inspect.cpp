// `mole inspect`: what lies at a path.

#include <algorithm>
#include <array>
#include <filesystem>
#include <iostream>
#include <map>
#include <optional>
#include <set>
#include <string_view>
#include <utility>
#include <variant>

#include <mole/core/error.hpp>
#include <mole/core/quote.hpp>
#include <mole/io/gates.hpp>
#include <mole/io/gguf.hpp>
#include <mole/io/json.hpp>
#include <mole/io/peft.hpp>
#include <mole/models/diffusion/lora_names.hpp>
#include <mole/models/load_parameters.hpp>
#include <mole/nn/lora.hpp>

#include "common/progress.hpp"
#include "common/table.hpp"
#include "mole/commands.hpp"
#include "mole/experts.hpp"
#include "mole/inspecting.hpp"
#include "mole/language_model.hpp"
#include "mole/model_files.hpp"
#include "mole/pictures/commands.hpp"
#include "mole/pictures/files.hpp"

namespace program {

namespace {

namespace fs = std::filesystem;
using mole::detail::LoraRole;

/// The first faults; a file of another model than its configuration's may have hundreds.
void print_faults(const std::vector<std::string>& faults) {
  constexpr std::size_t most = 12;
  for (std::size_t i = 0; i < std::min(most, faults.size()); ++i) line("wrong", faults[i]);
  if (faults.size() > most)
    line("wrong", std::to_string(faults.size() - most) + (faults.size() < mole::most_faults
                                                              ? " more such tensors"
                                                              : " more such tensors, or still more"));
}

/// The tensors of a model whose numbers are not all finite. Reads them all.
std::vector<std::string> number_faults(const ModelFiles& files) {
  std::vector<std::string> faults;
  common::Progress bar("read", static_cast<Index>(files.tensors.size()));
  Index done = 0;
  const auto see = [&](const std::string& name, const auto& read) {
    try {
      if (const std::vector<float> values = read(name); !mole::detail::all_finite<float>(values))
        faults.push_back("tensor " + mole::quote(name) + " holds NaN or infinite values");
    } catch (const mole::Error& error) {
      faults.emplace_back(error.what());
    }
    bar.update(++done);
  };
  if (files.path.extension() == ".gguf") {
    const mole::GgufFile file(files.path);
    for (const auto& [name, tensor] : file.tensors())
      if (mole::gguf_format(tensor.type))
        see(name, [&](const std::string& one) { return file.read<float>(one); });
    return faults;
  }
  const mole::Checkpoint weights(files.path);
  for (const auto& name : weights.names())
    if (!weights.file_of(name).unread().contains(name) && mole::is_floating(weights.at(name).dtype))
      see(name, [&](const std::string& one) { return weights.read<float>(one); });
  return faults;
}

void inspect_model(const ModelFiles& files) {
  const auto& path = files.path;
  std::cout << path.string() << ": "
            << (files.facts.encoder_decoder ? "an encoder-decoder" : "a decoder-only") << " language model\n";
  line("type", files.facts.type);
  line("parameters", std::to_string(files.parameters()));
  line("stored in", size_text(files.bytes()));
  line("in memory as float", size_text(files.bytes_in_memory(false)));
  if (files.bytes_in_memory(true) < files.bytes_in_memory(false))
    line("with --quantised", size_text(files.bytes_in_memory(true)));
  line("blocks", std::to_string(files.layers));
  line("width", std::to_string(files.width));
  for (const auto& [name, value] : files.settings) line(name, value);
  line("vocabulary", std::to_string(files.facts.vocabulary));
  if (files.facts.context > 0) line("longest text", std::to_string(files.facts.context) + " tokens");
  std::string ends;
  for (const Index token : files.facts.ends) ends += (ends.empty() ? "" : ", ") + std::to_string(token);
  line("end of text", ends);
  line("digest", files.digest);
  try {
    print_faults(models_on("cpu").faults(path));
    print_faults(number_faults(files));
  } catch (const mole::Error& error) {
    line("wrong", error.what());
  }
  try {
    const auto tokenizer = tokenizer_of(path, files.facts);
    line("tokenizer", std::to_string(tokenizer->size()) + " tokens" +
                          (tokenizer->find("<|im_start|>") >= 0 ? "; knows chatml (--template chatml)" : ""));
    if (tokenizer->size() > files.facts.vocabulary)
      line("wrong", "the tokenizer has more tokens than the model");
  } catch (const mole::Error& error) {
    line("wrong", error.what());
  }
  print_tensors(files.tensors);
}

/// A model's file, or one of something else.
void inspect_gguf(const fs::path& path) {
  std::optional<ModelFiles> files;
  std::string fault;
  try {
    files = read_model_files(path);
  } catch (const mole::FormatError& error) {
    fault = error.what();
  }
  if (files) return inspect_model(*files);
  const mole::GgufFile file(path);
  std::cout << path.string() << ": a GGUF file\n";
  line("wrong", fault);
  print_tensors(gguf_tensors(file));
}

void inspect_adapter(const fs::path& path) {
  const auto adapter = mole::load_adapter(path);
  std::cout << path.string() << ": a PEFT LoRA adapter\n";
  line("name", adapter.name);
  line("digest", adapter.digest);
  line("base", adapter.config.base_model_name_or_path.empty()
                   ? "not said"
                   : mole::quote(adapter.config.base_model_name_or_path));
  line("task", adapter.config.task_type);
  line("layers", std::to_string(adapter.entries.size()));
  Index numbers = 0;
  for (const auto& [slot, entry] : adapter.entries) numbers += entry.a.shape.size() + entry.b.shape.size();
  line("parameters", std::to_string(numbers));
  for (const auto& warning : adapter.warnings) line("wrong", warning);
  // Layers that differ by their numbers alone are one line.
  std::map<std::vector<std::string>, Index> rows;
  for (const auto& [slot, entry] : adapter.entries)
    ++rows[{mole::quote(pattern_of(slot)), std::to_string(entry.rank), mole::message(entry.scale),
            std::to_string(entry.d_in()), std::to_string(entry.d_out()),
            std::string(mole::dtype_name(entry.a.dtype))}];
  std::vector<std::vector<std::string>> cells{{"layer", "rank", "scale", "in", "out", "type", "count"}};
  for (const auto& [row, count] : rows) {
    cells.push_back(row);
    cells.back().push_back(std::to_string(count));
  }
  std::cout << "\n" << common::aligned_text(cells);
}

void inspect_gates(const fs::path& path) {
  const auto gates = mole::read_gates(path);
  std::cout << path.string() << ": gates of the router " << mole::router_name(gates.options) << "\n";
  for (const auto& [key, value] : gates.stored->metadata())
    if (key == "scope" || key == "pooling" || key == "input" || key == "input_scale" || key == "top_k")
      line(key, value);
  line("gates", std::to_string(gates.gates.size()));
  for (std::size_t i = 0; i < gates.experts.size(); ++i)
    line(i == 0 ? "experts" : "", mole::quote(gates.experts[i]) + "  digest " + gates.digests[i]);
  const auto form = template_of(gates);
  line("template", form.name + (form.system.empty() ? "" : ", system text " + mole::quote(form.system)));
  if (const auto base = gates.notes.find("base"); base != gates.notes.end())
    line("base", mole::quote(base_of(gates, {}).string()));
  try {
    mole::check_gates_match(gates, load_experts(experts_of(gates, {})));
    line("experts' files", "are there, with these digests");
  } catch (const mole::Error& error) {
    line("wrong", error.what());
  }
  std::vector<StoredTensor> tensors;
  for (const auto& name : gates.stored->names()) {
    const auto& view = gates.stored->at(name);
    tensors.push_back({name, std::string(mole::dtype_name(view.dtype)), view.shape, view.bytes});
  }
  print_tensors(tensors);
}

/// Whether a tensor is one of a LoRA's, or of what stands in files of the same kind and is none, such as a LoHa.
bool is_of_lora(const std::string& name) {
  return std::ranges::any_of(std::array{"lora_", "lora.", "hada_", "lokr_"},
                             [&](const char* part) { return name.find(part) != name.npos; });
}

/// The module and the role that a tensor's name gives, in any spelling; nothing for another tensor.
std::optional<std::pair<std::string, LoraRole>> factor_of(const std::string& name) {
  for (const auto& [suffix, role] : {std::pair(std::string_view(".lora_down.weight"), LoraRole::down),
                                     std::pair(std::string_view(".lora_up.weight"), LoraRole::up)})
    if (name.ends_with(suffix)) return std::pair(name.substr(0, name.size() - suffix.size()), role);
  return mole::detail::layer_and_role(name, mole::detail::LoraPart::unet);
}

/// The faults of a file of a LoRA, by its tensors' names and numbers.
std::vector<std::string> lora_faults(const mole::SafetensorsFile& file) {
  std::vector<std::string> faults;
  std::map<std::string, std::set<LoraRole>> modules;
  for (const auto& name : file.names()) {
    try {
      // What PEFT names so may be of a language model, whose layers can be called as parts of others' formats are.
      if (!name.starts_with("base_model.")) mole::detail::refuse_foreign_lora("", name);
    } catch (const mole::FormatError& error) {
      faults.emplace_back(error.what());
    }
    if (const auto factor = factor_of(name)) modules[factor->first].insert(factor->second);
    if (file.unread().contains(name) || !mole::is_floating(file.at(name).dtype)) continue;
    const auto values = file.read<float>(name);
    if (!mole::detail::all_finite<float>(values))
      faults.push_back("tensor " + mole::quote(name) + " holds NaN or infinite values");
  }
  for (const auto& [module, roles] : modules)
    if (roles.contains(LoraRole::down) != roles.contains(LoraRole::up))
      faults.push_back("module " + mole::quote(module) +
                       (roles.contains(LoraRole::down) ? " has a down factor but no up factor"
                                                       : " has an up factor but no down factor"));
  return faults;
}

void inspect_tensors(const fs::path& path) {
  const mole::SafetensorsFile file(path);
  const auto format = file.metadata().find("format");
  if (format != file.metadata().end() && format->second == "mole-gates") {
    inspect_gates(path);
    return;
  }
  std::vector<StoredTensor> tensors;
  bool lora = false;
  for (const auto& name : file.names()) {
    lora = lora || is_of_lora(name);
    if (const auto unread = file.unread().find(name); unread != file.unread().end()) {
      tensors.push_back(
          {name, std::string(unread->second.dtype), unread->second.shape, unread->second.bytes});
      continue;
    }
    const auto& view = file.at(name);
    tensors.push_back({name, std::string(mole::dtype_name(view.dtype)), view.shape, view.bytes});
  }
  std::cout << path.string() << ": " << (lora ? "the tensors of a LoRA" : "a safetensors file") << "\n";
  const bool of_peft =
      std::ranges::any_of(file.names(), [](const auto& name) { return name.starts_with("base_model."); });
  if (of_peft && !fs::exists(path.parent_path() / "adapter_config.json"))
    line("wrong",
         "there is no adapter_config.json beside it, which says the scale: PEFT's adapters are folders");
  if (lora) print_faults(lora_faults(file));
  for (const auto& [key, value] : file.metadata()) line(mole::quote(key), mole::quote(value));
  print_tensors(tensors);
}

/// The one .safetensors file of a folder; empty where there are several or none.
fs::path only_tensors(const fs::path& folder) {
  fs::path found;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() != ".safetensors") continue;
    if (!found.empty()) return {};
    found = entry.path();
  }
  return found;
}

}  // namespace

void inspect(const fs::path& path) {
  MOLE_CHECK_AS(mole::Error, fs::exists(path), path, "is not there");
  if (path.extension() == ".gguf") return inspect_gguf(path);
  if (!fs::is_directory(path)) {
    MOLE_CHECK_AS(
        mole::Error, path.extension() == ".safetensors", path,
        "is no file that mole reads: expected a model's or adapter's folder, .gguf or .safetensors");
    return inspect_tensors(path);
  }
  if (fs::exists(path / "adapter_config.json")) return inspect_adapter(path);
  // PEFT's folders for a pipeline, a part each.
  bool parts = false;
  for (const std::string part : {"unet", "text_encoder"})
    if (fs::exists(path / part / "adapter_config.json")) {
      inspect_adapter(path / part);
      parts = true;
    }
  if (parts) return;
  if (is_picture_folder(path)) return inspect_pictures(path);
  if (fs::exists(path / "config.json")) {
    const auto config = mole::read_json(path / "config.json");
    const auto said = [&](const char* key) {
      return config.is_object() && config.contains(key) && config[key].is_string()
                 ? config[key].get<std::string>()
                 : std::string();
    };
    const auto type = said("model_type"), made = said("_class_name");
    if (made.empty() && !type.starts_with("clip")) return inspect_model(read_model_files(path));
    std::cout << path.string() << ": "
              << (made.empty() ? "a CLIP" : "a part of a diffusers folder (" + mole::quote(made) + ")")
              << "; inspect says of whole folders what is wrong with them\n";
  }
  if (const auto file = only_tensors(path); !file.empty()) return inspect_tensors(file);
  throw mole::Error(mole::message(
      path,
      "holds neither config.json, nor adapter_config.json, nor model_index.json: it is no model and no adapter"));
}

}  // namespace program
