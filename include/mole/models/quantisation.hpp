#pragma once
// What a config.json says of quantised weights.

#include <string>

#include <mole/core/error.hpp>
#include <mole/core/quote.hpp>
#include <mole/io/json.hpp>

namespace mole::detail {

/// Refuses quantised weights by the method that made them, unless it is bitsandbytes, whose are read.
inline void check_quantisation(const Json& json, const std::string& source) {
  const auto* const found = given_field(json, "quantization_config");
  if (!found) return;
  std::string method = "unknown";
  if (const auto* named = find_field(*found, "quant_method"); named && named->is_string())
    method = text_of(*named);
  MOLE_CHECK_FORMAT(method == "bitsandbytes", source, "the weights are quantised by", quote(method),
                    ", which is not read: download the model's own weights (F32, F16 or BF16), those of "
                    "bitsandbytes, or a GGUF file");
}

}  // namespace mole::detail
