#pragma once
// The checks by backend, behind plain functions: each backend's are compiled in a file of their own.

#include <filesystem>
#include <string>

#include <golden_check/report.hpp>

namespace golden {

/// Compares with the golden at `path`, in float and in double.
struct Checks {
  void (*in_float)(const std::filesystem::path& path, const std::string& name, Report& report);
  void (*in_double)(const std::filesystem::path& path, const std::string& name, Report& report);
};

/// Those on the backend called "cpu" or "cuda". Throws mole::ArgumentError for any other name, and for a
/// backend that this build lacks, with what to do about it.
const Checks& checks_on(const std::string& backend);

}  // namespace golden
