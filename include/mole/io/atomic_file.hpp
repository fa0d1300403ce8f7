#pragma once
// Files that are replaced whole or not at all: a temporary file beside the target, fsync, rename.

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <filesystem>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <type_traits>
#include <utility>
#include <vector>

#include <mole/core/error.hpp>
#include <mole/core/fingerprint.hpp>
#include <mole/io/mapped_file.hpp>

namespace mole {

namespace detail {

// What call() returns, tried again where a signal came between.
template <class Call>
auto uninterrupted(Call call) {
  auto result = call();
  while (result < 0 && errno == EINTR) result = call();
  return result;
}

// How the names of temporary files for a later name begin; they end in .tmp.
inline std::string temporary_start(const std::filesystem::path& target) {
  return ".mole-" + Fingerprint().add(target.filename().string()).hex() + "-";
}

/// The temporary files for a path, of saves that are under way or were killed.
inline std::vector<std::filesystem::path> temporaries_of(const std::filesystem::path& path) {
  const auto folder = path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
  const std::string start = temporary_start(path);
  std::vector<std::filesystem::path> found;
  std::error_code ignored;
  for (auto& entry : entries_of(folder, ignored)) {
    const std::string name = entry.filename().string();
    if (name.starts_with(start) && name.ends_with(".tmp")) found.push_back(std::move(entry));
  }
  return found;
}

/// A new file of a name that nothing else has, locked as long as it is open, so that it can be told from what a
/// killed process left. It is removed at the end unless it was renamed.
class TemporaryFile {
 public:
  /// Beside `target`; what killed processes left for it is removed. No link is followed. `failed(what)` throws,
  /// errno being the reason.
  template <class Failed>
  TemporaryFile(const std::filesystem::path& target, Failed failed) {
    for (const auto& left : temporaries_of(target)) remove_stray(left);
    const std::string start = temporary_start(target);
    static std::atomic<unsigned> counter{0};
    for (int attempt = 0; attempt < 1000; ++attempt) {
      path_ = target.parent_path() /
              (start + std::to_string(::getpid()) + "-" + std::to_string(counter++) + ".tmp");
      // Not mkstemp: its file has mode 0600, where users expect their umask.
      file_ = uninterrupted(
          [&] { return ::open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0666); });
      if (file_ < 0 && errno == EEXIST) continue;
      if (file_ < 0) break;
      if (is_ours()) return;
      discard();
    }
    path_.clear();
    failed("cannot be written; does its folder exist, and may you write there?");
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  ~TemporaryFile() { discard(); }

  int file() const { return file_; }
  const std::filesystem::path& path() const { return path_; }

  /// Whether the rename succeeded; the lock is given up then.
  bool rename(const std::filesystem::path& target) {
    if (::rename(path_.c_str(), target.c_str()) != 0) return false;
    path_.clear();
    discard();
    return true;
  }

 private:
  // Between its making and its lock another process may have taken it for left and removed it. A file system
  // without locks has no such process.
  bool is_ours() const {
    if (uninterrupted([&] { return ::flock(file_, LOCK_EX | LOCK_NB); }) != 0 && errno == EWOULDBLOCK)
      return false;
    struct stat status {};
    return ::fstat(file_, &status) != 0 || status.st_nlink > 0;
  }

  static void remove_stray(const std::filesystem::path& path) noexcept {
    const int file = ::open(path.c_str(), O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (file < 0) return;
    struct stat status {};
    if (::flock(file, LOCK_EX | LOCK_NB) == 0 && ::fstat(file, &status) == 0 && S_ISREG(status.st_mode))
      ::unlink(path.c_str());
    ::close(file);
  }

  void discard() noexcept {
    if (!path_.empty()) ::unlink(path_.c_str());
    path_.clear();
    if (file_ >= 0) ::close(std::exchange(file_, -1));
  }

  std::filesystem::path path_;
  int file_ = -1;
};

}  // namespace detail

/// A file being written beside `path`; nothing at `path` changes before commit(). Left uncommitted, as after
/// an exception, the temporary file is removed; what a killed process left is removed by the next save to the
/// same path. Everything throws Error with the path and the system's reason.
class AtomicFile {
 public:
  /// Opens the temporary file in the target's folder, which must exist. A symbolic link is followed, so that
  /// its target is replaced; an existing file keeps its permissions and must be writable.
  explicit AtomicFile(const std::filesystem::path& path)
      : path_(resolved(path)),
        folder_(path_.has_parent_path() ? path_.parent_path() : std::filesystem::path(".")),
        old_mode_(mode_of_old()),
        temporary_(path_, [this](const char* what) { fail(what); }) {
    if (old_mode_ != 0 && ::fchmod(temporary_.file(), old_mode_ & 07777) != 0)
      fail("cannot be given the permissions of the file it replaces");
  }
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;
  ~AtomicFile() { forget_old(); }

  /// Appends.
  void write(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const ssize_t count = ::write(temporary_.file(), bytes.data(), bytes.size());
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) fail("cannot be written");
      bytes = bytes.subspan(static_cast<std::size_t>(count));
    }
  }
  /// Appends text.
  void write(std::string_view text) { write(std::as_bytes(std::span(text.data(), text.size()))); }

  /// Brings all to the disk; what can fail has then been tried. commit() does it where it was not.
  void finish() {
    if (std::exchange(finished_, true)) return;
    if (detail::uninterrupted([&] { return ::fsync(temporary_.file()); }) != 0)
      fail("cannot be brought to the disk");
  }

  /// Puts the file in its place.
  void commit() {
    finish();
    if (!temporary_.rename(path_)) fail("cannot be put in place");
    // The rename is durable once the folder is; some file systems cannot sync a folder and need not.
    const int folder = ::open(folder_.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECTORY);
    if (folder >= 0) {
      ::fsync(folder);
      ::close(folder);
    }
  }

  /// Puts files that belong together in their places: all are on the disk before any is renamed, and where one cannot
  /// be, those before it are what they were. A process that is killed on the way leaves the first of them new and the
  /// rest old, each of these with its new one as a temporary file beside it: readers tell by a digest
  /// (config_digest.hpp).
  static void commit_together(std::initializer_list<AtomicFile*> files) {
    for (AtomicFile* const file : files) file->finish();
    std::size_t done = 0;
    try {
      for (AtomicFile* const file : files) {
        if (done + 1 < files.size()) file->keep_old();
        file->commit();
        ++done;
      }
    } catch (...) {
      while (done > 0) files.begin()[--done]->put_back();
      throw;
    }
  }

 private:
  static std::filesystem::path resolved(const std::filesystem::path& path) {
    std::error_code ignored;
    if (!std::filesystem::is_symlink(path, ignored)) return path;
    const auto target = std::filesystem::weakly_canonical(path, ignored);
    return target.empty() ? path : target;
  }

  // The mode of the file to replace; 0 where there is none.
  mode_t mode_of_old() const {
    struct stat old {};
    const bool exists = ::stat(path_.c_str(), &old) == 0;
    MOLE_CHECK_AS(Error, !path_.filename().empty() && (!exists || S_ISREG(old.st_mode)), path_,
                  "cannot be written: it is not a regular file");
    if (exists && ::access(path_.c_str(), W_OK) != 0) fail("cannot be replaced");
    return exists ? old.st_mode : 0;
  }

  // A second name for the old file. Some file systems have none; then it is not put back.
  void keep_old() {
    if (old_mode_ == 0) return;
    auto kept = temporary_.path();
    kept.replace_extension(".old.tmp");
    if (::link(path_.c_str(), kept.c_str()) == 0) kept_ = kept;
  }
  void put_back() noexcept {
    if (!kept_.empty() && ::rename(kept_.c_str(), path_.c_str()) == 0) kept_.clear();
    if (old_mode_ == 0) ::unlink(path_.c_str());
  }
  void forget_old() noexcept {
    if (!kept_.empty()) ::unlink(kept_.c_str());
  }

  [[noreturn]] void fail(const char* what) const {
    const int reason = errno;
    throw Error(message(path_, what, std::string("(") + std::strerror(reason) + ")"));
  }

  std::filesystem::path path_, folder_, kept_;
  mode_t old_mode_ = 0;
  detail::TemporaryFile temporary_;
  bool finished_ = false;
};

/// Throws Error, with the system's reason, unless a file can be written in the folder: it makes one that
/// nothing else has the name of, follows no link, and removes it.
inline void check_writable(const std::filesystem::path& folder) {
  const detail::TemporaryFile probe(folder / "probe", [&](const char*) {
    const int reason = errno;
    throw Error(message(folder, "cannot be written to (", std::strerror(reason), ")"));
  });
}

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
