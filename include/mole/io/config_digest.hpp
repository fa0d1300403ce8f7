#pragma once
// What ties a file of weights to the configuration it was saved with. A save that is killed between the two
// files, or a copy of one alone, leaves a pair that belongs to no model.

#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>

#include <mole/core/error.hpp>
#include <mole/core/fingerprint.hpp>
#include <mole/io/atomic_file.hpp>
#include <mole/io/json.hpp>

namespace mole::detail {

/// The key of a safetensors file's metadata. Other programs' files have none, and drop ours when they save.
inline constexpr const char* config_digest_key = "mole.config_digest";

/// Of these fields of a configuration, by their values: neither the order nor the layout of the file counts.
inline std::string config_digest(const Json& config, std::span<const std::string_view> fields) {
  Fingerprint digest;
  for (const std::string_view field : fields) {
    const auto* const found = find_field(config, field);
    digest.add(field).add(std::string_view(found ? found->dump() : ""));
  }
  return digest.hex();
}

/// What read(path) gives for the configuration that belongs to the weights: a pair of it and its digest. Weights
/// that name no digest go with any. Where a save was killed between its two renames, the new configuration is
/// still the temporary file, whole. Throws what read() throws for `config`, and FormatError, naming both files,
/// where there is none that belongs.
template <class Read>
auto read_paired_config(const std::filesystem::path& config, const std::filesystem::path& weights,
                        const std::map<std::string, std::string>& metadata, Read read) {
  auto found = read(config);
  const auto wanted = metadata.find(config_digest_key);
  if (wanted == metadata.end() || wanted->second == found.second) return found.first;
  for (const auto& left : temporaries_of(config)) {
    try {
      found = read(left);
      if (wanted->second == found.second) return found.first;
    } catch (const Error&) {
      // Not finished, or of another save.
    }
  }
  throw FormatError(message(weights, "was saved with another", config.filename(),
                            "than lies beside it: one of the two was changed or copied alone. Save both "
                            "again, or bring back the other one"));
}

}  // namespace mole::detail
