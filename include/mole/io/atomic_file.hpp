#pragma once
// Files that are replaced whole or not at all: a temporary file beside the target, fsync, rename.

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

#include <mole/core/error.hpp>

namespace mole {

/// A file being written beside `path`; nothing at `path` changes before commit(). Left uncommitted, as after
/// an exception, the temporary file is removed. Everything throws Error with the path and the system's
/// reason.
class AtomicFile {
 public:
  /// Opens the temporary file in the target's folder, which must exist. A symbolic link is followed, so that
  /// its target is replaced; an existing file keeps its permissions and must be writable.
  explicit AtomicFile(const std::filesystem::path& path) : path_(path) {
    std::error_code ignored;
    if (std::filesystem::is_symlink(path_, ignored)) {
      const auto target = std::filesystem::weakly_canonical(path_, ignored);
      if (!target.empty()) path_ = target;
    }
    folder_ = path_.has_parent_path() ? path_.parent_path() : std::filesystem::path(".");
    struct stat old {};
    const bool exists = ::stat(path_.c_str(), &old) == 0;
    MOLE_CHECK_AS(Error, !path_.filename().empty() && (!exists || S_ISREG(old.st_mode)), path_,
                  "cannot be written: it is not a regular file");
    if (exists && ::access(path_.c_str(), W_OK) != 0) fail("cannot be replaced");
    open();
    if (exists && ::fchmod(file_, old.st_mode & 07777) != 0) {
      const int reason = errno;
      discard();
      errno = reason;
      fail("cannot be given the permissions of the file it replaces");
    }
  }
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile() { discard(); }

  /// Appends.
  void write(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const ssize_t count = ::write(file_, bytes.data(), bytes.size());
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) fail("cannot be written");
      bytes = bytes.subspan(static_cast<std::size_t>(count));
    }
  }
  /// Appends text.
  void write(std::string_view text) { write(std::as_bytes(std::span(text.data(), text.size()))); }

  /// Brings all to the disk and closes; what can fail has then been tried. commit() does it where it was not.
  void finish() {
    if (file_ < 0) return;
    if (::fsync(file_) != 0) fail("cannot be brought to the disk");
    if (::close(std::exchange(file_, -1)) != 0) fail("cannot be closed");
  }

  /// Puts the file in its place.
  void commit() {
    finish();
    if (::rename(temporary_.c_str(), path_.c_str()) != 0) fail("cannot be put in place");
    temporary_.clear();
    // The rename is durable once the folder is; some file systems cannot sync a folder and need not.
    const int folder = ::open(folder_.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECTORY);
    if (folder >= 0) {
      ::fsync(folder);
      ::close(folder);
    }
  }

 private:
  void open() {
    // Not mkstemp: its file has mode 0600, where users expect their umask.
    static std::atomic<unsigned> counter{0};
    for (int attempt = 0; attempt < 1000; ++attempt) {
      const std::string name =
          ".mole-" + std::to_string(::getpid()) + "-" + std::to_string(counter++) + ".tmp";
      temporary_ = folder_ / name;
      file_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
      if (file_ >= 0) return;
      if (errno != EEXIST) break;
    }
    temporary_.clear();
    fail("cannot be written; does its folder exist, and may you write there?");
  }

  void discard() noexcept {
    if (file_ >= 0) ::close(std::exchange(file_, -1));
    if (!temporary_.empty()) ::unlink(temporary_.c_str());
    temporary_.clear();
  }

  [[noreturn]] void fail(const char* what) const {
    const int reason = errno;
    throw Error(message(path_, what, std::string("(") + std::strerror(reason) + ")"));
  }

  std::filesystem::path path_, folder_, temporary_;
  int file_ = -1;
};

/// Replaces the file at `path` by `bytes`, or leaves it as it was and throws Error.
inline void write_atomically(const std::filesystem::path& path, std::span<const std::byte> bytes) {
  AtomicFile file(path);
  file.write(bytes);
  file.commit();
}

/// Replaces the file at `path` by text.
inline void write_atomically(const std::filesystem::path& path, std::string_view text) {
  write_atomically(path, std::as_bytes(std::span(text.data(), text.size())));
}

/// Replaces the file at `path` by what `writer(AtomicFile&)` writes; whatever it throws leaves the file as it
/// was.
template <class Writer>
requires std::is_invocable_v<Writer&, AtomicFile&>
void write_atomically(const std::filesystem::path& path, Writer&& writer) {
  AtomicFile file(path);
  writer(file);
  file.commit();
}

}  // namespace mole
