#pragma once
// An adapter of a file as the expert that a model attaches.

#include <memory>
#include <utility>

#include <mole/io/peft.hpp>
#include <mole/nn/lora.hpp>

namespace mole {

/// The adapter as a model sees it. Its factors stay in the mapped file until they are asked for. factors() throws
/// FormatError where the file's bytes are no longer those that the adapter's digest is of.
inline LoraSet lora_set(Adapter adapter) {
  const auto kept = std::make_shared<const Adapter>(std::move(adapter));
  LoraSet set{kept->name, kept->digest, {}, {}};
  for (const auto& [slot, entry] : kept->entries) set.slots.push_back(slot);
  set.factors = [kept](const std::string& slot) {
    const auto found = kept->entries.find(slot);
    MOLE_CHECK_ARG(found != kept->entries.end(), "adapter", kept->name, "does not adapt", slot);
    const LoraEntry& entry = found->second;
    LoraFactors factors{entry.rank,
                        entry.d_in(),
                        entry.d_out(),
                        entry.scale,
                        entry.template read_a<double>(),
                        entry.template read_b<double>()};
    // After they were read, so that no byte can have changed before and been read.
    entry.check_unchanged();
    return factors;
  };
  return set;
}

}  // namespace mole
