#pragma once
// A file mapped into memory, read-only. Pages are read when they are touched.

#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include <mole/core/error.hpp>

namespace mole::detail {

/// Whether there is something at the path. Throws Error, with the system's reason, where that cannot be told:
/// a folder that may not be entered, a loop of links, a name that is too long.
inline bool file_exists(const std::filesystem::path& path) {
  std::error_code reason;
  const auto status = std::filesystem::status(path, reason);
  const bool told = status.type() != std::filesystem::file_type::none;
  MOLE_CHECK_AS(Error, told, path, "cannot be looked at:", reason.message());
  return status.type() != std::filesystem::file_type::not_found;
}

/// What lies in a folder, sorted; nothing, and the reason, where it cannot be listed.
inline std::vector<std::filesystem::path> entries_of(const std::filesystem::path& folder,
                                                     std::error_code& reason) {
  std::vector<std::filesystem::path> found;
  // Not std::filesystem::directory_iterator: libstdc++'s ends the process where memory runs out.
  const std::unique_ptr<DIR, int (*)(DIR*)> open(::opendir(folder.c_str()),
                                                 [](DIR* dir) { return ::closedir(dir); });
  reason = open ? std::error_code() : std::error_code(errno, std::generic_category());
  for (const dirent* entry = open ? ::readdir(open.get()) : nullptr; entry; entry = ::readdir(open.get())) {
    const std::string_view name = entry->d_name;
    if (name != "." && name != "..") found.push_back(folder / name);
  }
  std::sort(found.begin(), found.end());
  return found;
}

/// Throws FormatError for the few lines that Git keeps instead of a file that Git LFS stores.
inline void check_no_lfs_pointer(std::string_view text, const std::string& source) {
  MOLE_CHECK_FORMAT(
      !text.starts_with("version https://git-lfs.github.com/spec/"), source,
      "is a Git LFS pointer, not the file it stands for: run `git lfs pull` in its repository, or "
      "download the file itself");
}

/// Owns the mapping; moving it moves no byte. A file that another process shortens afterwards is the caller's
/// loss (SIGBUS), as with any mapping; what this library writes is replaced by rename and never shortened.
class MappedFile {
 public:
  /// Throws Error, with the system's reason, for a path that cannot be read or is no regular file.
  explicit MappedFile(const std::filesystem::path& path) {
    // O_NONBLOCK: opening a pipe must not hang before it is refused.
    const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    MOLE_CHECK_AS(Error, file >= 0, path, "cannot be opened:", std::strerror(errno));
    struct stat status {};
    const bool regular = ::fstat(file, &status) == 0 && S_ISREG(status.st_mode);
    size_ = regular ? static_cast<std::size_t>(status.st_size) : 0;
    void* data = size_ > 0 ? ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file, 0) : nullptr;
    const int reason = errno;
    ::close(file);
    MOLE_CHECK_AS(Error, regular, path, "is not a regular file");
    MOLE_CHECK_AS(Error, data != MAP_FAILED, path, "cannot be mapped:", std::strerror(reason));
    data_ = static_cast<const std::byte*>(data);
  }
  MappedFile(MappedFile&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}
  MappedFile& operator=(MappedFile&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    return *this;
  }
  ~MappedFile() {
    if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
  }

  std::span<const std::byte> bytes() const { return {data_, size_}; }

  /// Gives back the memory of pages that have been read for these bytes of the file; read again, they come from the
  /// file anew. Without it a file that was read through counts as memory in use until it is unmapped.
  void forget(std::span<const std::byte> part) const {
    const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    const auto begin = static_cast<std::size_t>(part.data() - data_) / page * page;
    const auto end = static_cast<std::size_t>(part.data() - data_) + part.size();
    if (data_ != nullptr && end > begin)
      ::madvise(const_cast<std::byte*>(data_) + begin, end - begin, MADV_DONTNEED);
  }

 private:
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace mole::detail
