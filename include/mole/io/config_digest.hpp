#pragma once
// What ties a file of weights to the configuration it was saved with. The two are two files: a save that is
// killed between them, or a copy of one alone, leaves a pair that belongs to no model.

#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include <mole/core/error.hpp>
#include <mole/core/fingerprint.hpp>

namespace mole::detail {

/// The key of a safetensors file's metadata. Other programs' files have none, and drop ours when they save.
inline constexpr const char* config_digest_key = "mole.config_digest";

/// Of these fields of a configuration, by their values: neither the order nor the layout of the file counts.
template <class Json>
std::string config_digest(const Json& config, std::span<const std::string_view> fields) {
  Fingerprint digest;
  for (const std::string_view field : fields) {
    const auto found = config.find(std::string(field));
    digest.add(field).add(std::string_view(found == config.end() ? "" : found->dump()));
  }
  return digest.hex();
}

/// Throws FormatError, naming both files, where the weights' metadata has another digest; one that has none
/// goes with any configuration.
inline void check_config_digest(const std::map<std::string, std::string>& metadata, const std::string& digest,
                                const std::filesystem::path& weights, const std::filesystem::path& config) {
  const auto found = metadata.find(config_digest_key);
  MOLE_CHECK_FORMAT(found == metadata.end() || found->second == digest, weights, "was saved with another",
                    config.filename(),
                    "than lies beside it: one of the two was changed or copied alone, or a save was "
                    "interrupted. Save both again, or bring back the other one");
}

}  // namespace mole::detail
