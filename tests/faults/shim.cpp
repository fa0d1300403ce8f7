// Preloaded into faults.cpp: while armed, counts the calls that change files, and lets one of them go wrong.

#include <dlfcn.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdarg>
#include <cstddef>

namespace {

// How a call goes wrong: 0 not at all, 1 the process is killed (a write: half done), 2 a short write, else by errno.
int call_to_fail = 0, mode = 0, calls = 0;
bool armed = false;

template <class F>
F next(const char* name) {
  return reinterpret_cast<F>(::dlsym(RTLD_NEXT, name));
}

/// Whether this is the call; kills where that is asked for.
bool hit(bool can_be_half = false) {
  if (!armed || ++calls != call_to_fail) return false;
  if (mode == 1 && !can_be_half) ::raise(SIGKILL);
  if (mode == 2) return can_be_half;
  if (mode != 1) errno = mode;
  return true;
}

}  // namespace

extern "C" {

void mole_faults_arm(int call, int how) {
  call_to_fail = call;
  mode = how;
  calls = 0;
  armed = true;
}
int mole_faults_disarm() {
  armed = false;
  return calls;
}

int open(const char* path, int flags, ...) {
  static const auto real = next<int (*)(const char*, int, ...)>("open");
  va_list arguments;
  va_start(arguments, flags);
  const int permissions = (flags & O_CREAT) != 0 ? va_arg(arguments, int) : 0;
  va_end(arguments);
  return hit() ? -1 : real(path, flags, permissions);
}
int open64(const char* path, int flags, ...) {
  static const auto real = next<int (*)(const char*, int, ...)>("open64");
  va_list arguments;
  va_start(arguments, flags);
  const int permissions = (flags & O_CREAT) != 0 ? va_arg(arguments, int) : 0;
  va_end(arguments);
  return hit() ? -1 : real(path, flags, permissions);
}
ssize_t write(int file, const void* data, size_t size) {
  static const auto real = next<ssize_t (*)(int, const void*, size_t)>("write");
  if (!hit(true)) return real(file, data, size);
  if (mode == 1) {
    (void)real(file, data, size / 2);
    ::raise(SIGKILL);
  }
  return mode == 2 ? real(file, data, size > 1 ? size / 2 : size) : -1;
}
// What is written is not brought to the disk: no test turns the power off.
int fsync(int) { return hit() ? -1 : 0; }
int close(int file) {
  static const auto real = next<int (*)(int)>("close");
  if (!hit()) return real(file);
  const int reason = errno;
  real(file);
  errno = reason;
  return -1;
}
int rename(const char* from, const char* to) {
  static const auto real = next<int (*)(const char*, const char*)>("rename");
  return hit() ? -1 : real(from, to);
}
int link(const char* from, const char* to) {
  static const auto real = next<int (*)(const char*, const char*)>("link");
  return hit() ? -1 : real(from, to);
}
int unlink(const char* path) {
  static const auto real = next<int (*)(const char*)>("unlink");
  return hit() ? -1 : real(path);
}
int fchmod(int file, mode_t permissions) {
  static const auto real = next<int (*)(int, mode_t)>("fchmod");
  return hit() ? -1 : real(file, permissions);
}
int flock(int file, int operation) {
  static const auto real = next<int (*)(int, int)>("flock");
  return hit() ? -1 : real(file, operation);
}
int fstat(int file, struct stat* status) {
  static const auto real = next<int (*)(int, struct stat*)>("fstat");
  return hit() ? -1 : real(file, status);
}
int access(const char* path, int how) {
  static const auto real = next<int (*)(const char*, int)>("access");
  return hit() ? -1 : real(path, how);
}
int mkdir(const char* path, mode_t permissions) {
  static const auto real = next<int (*)(const char*, mode_t)>("mkdir");
  return hit() ? -1 : real(path, permissions);
}

}  // extern "C"
