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

/// Those on the CPU, and those on an NVIDIA GPU: null in a build without CUDA.
const Checks* cpu_checks();
const Checks* cuda_checks();

}  // namespace golden
