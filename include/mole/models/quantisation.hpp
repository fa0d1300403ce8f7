#pragma once
// What a config.json says of quantised weights.

#include <string>

#include <mole/core/error.hpp>
#include <mole/core/quote.hpp>

namespace mole::detail {

/// Refuses quantised weights by the method that made them, unless it is bitsandbytes, whose are read.
template <class Json>
void check_quantisation(const Json& json, const std::string& source) {
  const auto found = json.find("quantization_config");
  if (found == json.end() || found->is_null()) return;
  std::string method = "unknown";
  if (found->is_object() && found->contains("quant_method") && found->at("quant_method").is_string())
    method = found->at("quant_method").template get<std::string>();
  MOLE_CHECK_FORMAT(method == "bitsandbytes", source, "the weights are quantised by", quote(method),
                    ", which is not read: download the model's own weights (F32, F16 or BF16), those of "
                    "bitsandbytes, or a GGUF file");
}

}  // namespace mole::detail
