#pragma once
// A folder that keeps experts in canonical form, so that a model pages them in (ExpertPages) from mapped files.
//
// There is one file an adapter and type of numbers, named by the adapter's digest: of safetensors' format, with
//   SLOT.A     A' [rank, d_in] of each slot
//   SLOT.Q     Q^T [rank, d_out]
// and in the metadata format, version, the adapter's digest, and under sums a checksum of each slot's numbers. A file
// that is missing, broken, of another version or of another adapter is made again from the adapter, and is replaced
// whole or not at all. The folder may be removed at any time when no process uses it, and processes may share it.

#include <algorithm>
#include <atomic>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include <mole/core/fingerprint.hpp>
#include <mole/experts/expert_factors.hpp>
#include <mole/io/json.hpp>
#include <mole/io/safetensors.hpp>

namespace mole {

/// The version of the files that open_experts() makes and reads.
inline constexpr int expert_file_version = 1;

namespace detail {

template <HostNumber T>
constexpr Dtype dtype_stored_as() {
  if constexpr (std::same_as<T, double>) return Dtype::F64;
  if constexpr (std::same_as<T, float>) return Dtype::F32;
  if constexpr (std::same_as<T, half>) return Dtype::F16;
  return Dtype::BF16;
}

/// Of the numbers of a slot. Eight bytes at a time: it is made of each page that is read.
inline std::string page_sum(const TensorView& A, const TensorView& Q) {
  std::uint64_t state = Fingerprint{}.state;
  for (const TensorView* view : {&A, &Q}) {
    const auto bytes = static_cast<std::size_t>(view->bytes);
    for (std::size_t first = 0; first < bytes; first += 8) {
      std::uint64_t word = 0;
      std::memcpy(&word, view->data + first, std::min<std::size_t>(8, bytes - first));
      state = (state ^ word) * 0x100000001b3U;
      state ^= state >> 32;
    }
  }
  return Fingerprint{}.add(state).hex();
}

/// One expert's file, open.
template <HostNumber T>
struct ExpertFile {
  struct Entry {
    TensorView A, Q;
    std::string sum;
  };
  SafetensorsFile file;
  std::map<std::string, Entry> entries;  ///< by slot

  /// Throws FormatError unless it is the file of that adapter, whole but for its numbers, which check() is for.
  ExpertFile(const std::filesystem::path& path, const LoraSet& set) : file(path) {
    const std::string source = message(path) + ":";
    const auto text = [&](const std::string& key) {
      const auto found = file.metadata().find(key);
      return found == file.metadata().end() ? std::string() : found->second;
    };
    MOLE_CHECK_FORMAT(text("format") == "mole-expert", source, "is no file of an expert");
    MOLE_CHECK_FORMAT(text("version") == std::to_string(expert_file_version), source, "is of version",
                      text("version"));
    MOLE_CHECK_FORMAT(text("digest") == set.digest, source, "is of another adapter");
    const Json sums = parse_json(text("sums"), source);
    MOLE_CHECK_FORMAT(
        sums.is_object() && sums.size() == set.slots.size() && file.names().size() == 2 * set.slots.size(),
        source, "is of other layers than the adapter");
    for (const auto& slot : set.slots) {
      const auto* const sum = find_field(sums, slot);
      MOLE_CHECK_FORMAT(sum && sum->is_string(), source, "lacks the sum of", slot);
      const Entry entry{file.at(slot + ".A"), file.at(slot + ".Q"), text_of(*sum)};
      MOLE_CHECK_FORMAT(entry.A.dtype == dtype_stored_as<T>() && entry.Q.dtype == entry.A.dtype &&
                            entry.A.shape.rank() == 2 && entry.Q.shape.rank() == 2 &&
                            entry.A.shape[0] == entry.Q.shape[0] && entry.A.shape[0] > 0,
                        source, "has", slot, "in another form");
      entries.emplace(slot, entry);
    }
  }

  const Entry& at(const std::string& slot) const { return entries.at(slot); }
  /// Whether the numbers of a slot are those that were written.
  static bool is_whole(const Entry& entry) { return page_sum(entry.A, entry.Q) == entry.sum; }
};

/// Makes an expert's file. Throws what reading the adapter throws; NumericError for factors that are not finite, or are
/// not once scaled; Error where the file cannot be written.
template <HostNumber T>
void write_expert(const std::filesystem::path& path, const LoraSet& set) {
  constexpr Dtype dtype = dtype_stored_as<T>();
  SafetensorsWriter writer;
  auto sums = json_object();
  for (const auto& slot : set.slots) {
    const auto expert = canonical_in<T>(set.name, slot, set.factors(slot));
    const auto r = static_cast<std::size_t>(expert.rank), d_out = static_cast<std::size_t>(expert.d_out);
    // Rounded as a bank that is whole in memory rounds them.
    std::vector<T> A, Q(r * d_out);
    for (const double value : expert.A) A.push_back(static_cast<T>(value));
    for (std::size_t o = 0; o < d_out; ++o)
      for (std::size_t k = 0; k < r; ++k) Q[k * d_out + o] = static_cast<T>(expert.Q[o * r + k]);
    writer.add(slot + ".A", dtype, {expert.rank, expert.d_in}, A);
    writer.add(slot + ".Q", dtype, {expert.rank, expert.d_out}, Q);
    const auto view = [](const std::vector<T>& values) {
      return TensorView{dtype,
                        {},
                        reinterpret_cast<const std::byte*>(values.data()),
                        static_cast<Index>(values.size() * sizeof(T))};
    };
    set_field(sums, slot, json_value(page_sum(view(A), view(Q))));
  }
  writer.metadata("format", "mole-expert");
  writer.metadata("version", std::to_string(expert_file_version));
  writer.metadata("digest", set.digest);
  writer.metadata("sums", json_text(sums));
  writer.write(path);
}

/// An expert whose factors are in its file.
template <HostNumber T>
class StoredExpert final : public ExpertFactors<T> {
 public:
  using Counter = std::shared_ptr<std::atomic<std::size_t>>;

  StoredExpert(std::filesystem::path path, LoraSet set, Counter made)
      : path_(std::move(path)), set_(std::move(set)), made_(std::move(made)), file_(open()) {}

  FactorShape shape(const std::string& slot) const override {
    const auto file = current();
    const auto found = file->entries.find(slot);
    if (found == file->entries.end()) return {};
    const auto& [A, Q, sum] = found->second;
    return {A.shape[0], A.shape[1], Q.shape[1]};
  }

  void read(const std::string& slot, T* A, T* Q) const override {
    auto file = current();
    const auto* entry = &file->at(slot);
    if (!file->is_whole(*entry)) {
      const Shape A_shape = entry->A.shape, Q_shape = entry->Q.shape;
      file = make_again(file);
      entry = &file->at(slot);
      MOLE_CHECK_FORMAT(entry->A.shape == A_shape && entry->Q.shape == Q_shape, "adapter", set_.name, "has",
                        slot, "in another shape than when its file was made, under the same digest");
      MOLE_CHECK_FORMAT(file->is_whole(*entry), message(path_) + ":", "the numbers of", slot,
                        "are not those that were just written; is the disk in order?");
    }
    std::memcpy(A, entry->A.data, static_cast<std::size_t>(entry->A.bytes));
    // Earlier versions made files of such adapters.
    MOLE_CHECK_AS(NumericError, all_finite<T>({A, static_cast<std::size_t>(entry->A.shape.size())}),
                  "adapter", set_.name, "at", slot,
                  "times its scale is not finite; check its factors and lora_alpha");
    std::memcpy(Q, entry->Q.data, static_cast<std::size_t>(entry->Q.bytes));
  }

 private:
  using File = std::shared_ptr<const ExpertFile<T>>;

  File current() const {
    const std::lock_guard lock(mutex_);
    return file_;
  }

  File open() const {
    try {
      if (file_exists(path_)) return std::make_shared<const ExpertFile<T>>(path_, set_);
    } catch (const FormatError&) {
      // A broken or old one is replaced.
    }
    return make();
  }

  File make() const {
    write_expert<T>(path_, set_);
    ++*made_;
    return std::make_shared<const ExpertFile<T>>(path_, set_);
  }

  /// Replaces a broken file, once, whichever threads notice it.
  File make_again(const File& broken) const {
    const std::lock_guard lock(mutex_);
    if (file_ == broken) file_ = make();
    return file_;
  }

  std::filesystem::path path_;
  LoraSet set_;
  Counter made_;
  mutable std::mutex mutex_;
  mutable File file_;
};

}  // namespace detail

/// Opens the experts of some adapters in a folder that keeps their canonical factors as numbers of type T, the model's.
/// The folder is made where there is none, and the file of an adapter where it is missing, stale or broken. The files
/// stay mapped as long as the experts are used. Throws ArgumentError for an adapter without a digest; what reading an
/// adapter throws; NumericError for one whose factors are not finite, or are not once scaled; Error where the folder or
/// a file cannot be written. A file that was not finished is not left behind.
template <HostNumber T>
PagedExperts<T> open_experts(const std::vector<LoraSet>& sets, const std::filesystem::path& folder,
                             const PagingOptions& options = {}) {
  std::error_code reason;
  std::filesystem::create_directories(folder, reason);
  MOLE_CHECK_AS(Error, !reason, folder, "cannot be made:", reason.message());
  PagedExperts<T> experts(sets, options);
  const auto made = std::make_shared<std::atomic<std::size_t>>(0);
  experts.made = made;
  experts.open = [folder, made](const LoraSet& set) -> std::shared_ptr<const ExpertFactors<T>> {
    MOLE_CHECK_ARG(!set.digest.empty(), "open_experts: adapter", set.name,
                   "has no digest to know its file by");
    const auto name = Fingerprint().add(set.digest).hex() + "." +
                      std::string(dtype_name(detail::dtype_stored_as<T>())) + ".safetensors";
    return std::make_shared<const detail::StoredExpert<T>>(folder / name, set, made);
  };
  for (const auto& set : sets) experts.factors.push_back(experts.open(set));
  return experts;
}

}  // namespace mole
