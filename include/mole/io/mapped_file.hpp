#pragma once
// A file mapped into memory, read-only. Pages are read when they are touched.

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <span>
#include <utility>

#include <mole/core/error.hpp>

namespace mole::detail {

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

 private:
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace mole::detail
