# Dependencies: each by find_package, else downloaded at a pinned version whose SHA-256 must match, else a
# message that names the remedies. -DFETCHCONTENT_SOURCE_DIR_<NAME>=DIR takes a local copy in place of the
# download (and of the installed package); a directory that holds just the headers will do, except for
# Google Benchmark and NLopt, which are compiled.

include(FetchContent)
if(POLICY CMP0135)
  cmake_policy(SET CMP0135 NEW)
endif()

# Each: name of the package, version at least, target, a header to know the include directory by, apt
# package, address and SHA-256 of the download.
set(MOLE_DEP_eigen Eigen3 3.4 Eigen3::Eigen Eigen/Core libeigen3-dev
    https://gitlab.com/libeigen/eigen/-/archive/3.4.0/eigen-3.4.0.tar.gz
    8586084f71f9bde545ee7fa6d00288b264a2b7ac3607b974e54d13e7162c1c72)
set(MOLE_DEP_nlohmann_json nlohmann_json 3.10 nlohmann_json::nlohmann_json nlohmann/json.hpp
    nlohmann-json3-dev
    https://github.com/nlohmann/json/releases/download/v3.11.3/json.tar.xz
    d6c65aca6b1ed68e7a182f4757257b107ae403032760ed6ef121c9d55e81757d)
set(MOLE_DEP_doctest doctest 2.4 doctest::doctest doctest/doctest.h doctest-dev
    https://github.com/doctest/doctest/archive/refs/tags/v2.4.11.tar.gz
    632ed2c05a7f53fa961381497bf8069093f0d6628c5f26286161fbd32a560186)
set(MOLE_DEP_cli11 CLI11 2.1 CLI11::CLI11 CLI/CLI.hpp libcli11-dev
    https://github.com/CLIUtils/CLI11/archive/refs/tags/v2.4.1.tar.gz
    73b7ec52261ce8fe980a29df6b4ceb66243bb0b779451dbd3d014cfec9fdbb58)
set(MOLE_DEP_benchmark benchmark 1.6 benchmark::benchmark benchmark/benchmark.h libbenchmark-dev
    https://github.com/google/benchmark/archive/refs/tags/v1.8.3.tar.gz
    6bc180a57d23d4d9515519f92b0c83d61b05b5bab188961f36ac7b06b0d9e9ce)
set(MOLE_DEP_nlopt NLopt 2.7 NLopt::nlopt nlopt.h libnlopt-dev
    https://github.com/stevengj/nlopt/archive/refs/tags/v2.7.1.tar.gz
    db88232fa5cef0ff6e39943fc63ab6074208831dc0031cf1545f6ecd31ae2a1a)

# mole_require(NAME): makes the dependency's target or stops with the remedies.
function(mole_require name)
  list(GET MOLE_DEP_${name} 0 package)
  list(GET MOLE_DEP_${name} 1 at_least)
  list(GET MOLE_DEP_${name} 2 target)
  list(GET MOLE_DEP_${name} 3 header)
  list(GET MOLE_DEP_${name} 4 apt)
  list(GET MOLE_DEP_${name} 5 url)
  list(GET MOLE_DEP_${name} 6 sha256)
  string(TOUPPER "FETCHCONTENT_SOURCE_DIR_${name}" override)
  string(CONCAT remedies "Install it (apt-get install ${apt}), or unpack it somewhere and pass "
                "-D${override}=DIR.")

  if(TARGET ${target})
    return()
  endif()
  if(NOT ${override})
    find_package(${package} CONFIG QUIET)
    if(TARGET ${target} AND NOT ${package}_VERSION VERSION_LESS at_least)
      message(STATUS "mole: ${package} ${${package}_VERSION} (${${package}_DIR})")
      set_target_properties(${target} PROPERTIES IMPORTED_GLOBAL TRUE)
      return()
    elseif(TARGET ${target})
      message(FATAL_ERROR "mole: needs ${package} ${at_least} or newer, found ${${package}_VERSION} in "
                          "${${package}_DIR}. ${remedies}")
    endif()
    mole_download(${package} "${url}" "${sha256}" "${remedies}" archive)
    FetchContent_Declare(${name} URL "${archive}" URL_HASH SHA256=${sha256} SOURCE_SUBDIR none)
  else()
    FetchContent_Declare(${name} SOURCE_SUBDIR none)
    message(STATUS "mole: ${package} from ${${override}}")
  endif()

  # SOURCE_SUBDIR none: the project is only unpacked. Headers need no more, and their own CMake files would
  # add tests, options and install rules to ours.
  FetchContent_MakeAvailable(${name})
  set(source "${${name}_SOURCE_DIR}")
  if(name STREQUAL "benchmark")
    foreach(off IN ITEMS TESTING INSTALL GTEST_TESTS WERROR)
      set(BENCHMARK_ENABLE_${off} OFF CACHE BOOL "" FORCE)
    endforeach()
    add_subdirectory("${source}" "${${name}_BINARY_DIR}" EXCLUDE_FROM_ALL)
    return()
  endif()
  if(name STREQUAL "nlopt")
    foreach(off IN ITEMS PYTHON OCTAVE MATLAB GUILE SWIG TESTS FORTRAN)
      set(NLOPT_${off} OFF CACHE BOOL "" FORCE)
    endforeach()
    set(BUILD_SHARED_LIBS OFF)
    add_subdirectory("${source}" "${${name}_BINARY_DIR}" EXCLUDE_FROM_ALL)
    if(NOT TARGET NLopt::nlopt)
      add_library(NLopt::nlopt ALIAS nlopt)
    endif()
    # Its header is made in the build directory, or lies in the sources' src/api: by release.
    target_include_directories(nlopt INTERFACE "$<BUILD_INTERFACE:${${name}_BINARY_DIR}>"
                                               "$<BUILD_INTERFACE:${source}/src/api>")
    return()
  endif()
  find_path(${name}_headers "${header}" PATHS "${source}/include" "${source}" NO_DEFAULT_PATH NO_CACHE)
  if(NOT ${name}_headers)
    message(FATAL_ERROR "mole: ${package}: expected ${header} in ${source} or ${source}/include, found none. "
                        "${remedies}")
  endif()
  add_library(${target} INTERFACE IMPORTED GLOBAL)
  target_include_directories(${target} SYSTEM INTERFACE "${${name}_headers}")
  set_property(GLOBAL PROPERTY MOLE_DOWNLOADED_${name} "${${name}_headers}")
endfunction()

# Downloads into the build folder. Our own download, not FetchContent's: its failure says nothing of remedies.
function(mole_download package url sha256 remedies out)
  get_filename_component(extension "${url}" EXT)
  string(REGEX MATCH "\\.tar\\.[a-z]+$" extension "${extension}")
  set(archive "${PROJECT_BINARY_DIR}/downloads/${package}${extension}")
  set(${out} "${archive}" PARENT_SCOPE)
  if(EXISTS "${archive}")
    file(SHA256 "${archive}" found)
    if(found STREQUAL sha256)
      return()
    endif()
  endif()
  message(STATUS "mole: ${package} is not installed; downloading ${url}")
  file(DOWNLOAD "${url}" "${archive}" STATUS status INACTIVITY_TIMEOUT 30 TIMEOUT 600 TLS_VERIFY ON)
  list(GET status 0 code)
  if(NOT code EQUAL 0)
    list(GET status 1 reason)
    file(REMOVE "${archive}")
    message(FATAL_ERROR "mole: ${package} is not installed, and ${url} could not be downloaded (${reason}). "
                        "${remedies}")
  endif()
  file(SHA256 "${archive}" found)
  if(NOT found STREQUAL sha256)
    file(REMOVE "${archive}")
    message(FATAL_ERROR "mole: ${url} is not the file expected: SHA-256 ${sha256} expected, ${found} found. "
                        "${remedies}")
  endif()
endfunction()

# OpenMP is a part of the compiler; there is nothing to download.
function(mole_require_openmp)
  find_package(OpenMP COMPONENTS CXX QUIET)
  if(NOT OpenMP_CXX_FOUND)
    message(FATAL_ERROR "mole: ${CMAKE_CXX_COMPILER} does not offer OpenMP. Use g++ (apt-get install g++, "
                        "-DCMAKE_CXX_COMPILER=g++), or clang with its OpenMP (apt-get install libomp-dev).")
  endif()
  set_target_properties(OpenMP::OpenMP_CXX PROPERTIES IMPORTED_GLOBAL TRUE)
endfunction()
