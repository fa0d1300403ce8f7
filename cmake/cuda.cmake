# The CUDA Toolkit for mole::cuda. Installed beside moleConfig.cmake.

# mole_require_cuda(): enables the language CUDA for Ampere and Hopper, or stops with the remedies. A macro: a
# language is enabled for the directory of the caller.
macro(mole_require_cuda)
  if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
    set(CMAKE_CUDA_ARCHITECTURES 80 90a)  # 90a: Hopper's own instructions, see backends/cuda/hopper
  endif()
  if(NOT DEFINED CMAKE_CUDA_RUNTIME_LIBRARY)
    set(CMAKE_CUDA_RUNTIME_LIBRARY Shared)  # as CUDA::cudart is
  endif()
  if(NOT CMAKE_CUDA_COMPILER AND NOT DEFINED ENV{CUDACXX})
    find_program(MOLE_NVCC nvcc PATHS "$ENV{CUDA_PATH}" /usr/local/cuda PATH_SUFFIXES bin)
    if(NOT MOLE_NVCC)
      message(FATAL_ERROR "mole: MOLE_CUDA is ON but nvcc was not found. Install NVIDIA's CUDA Toolkit 12.4 "
                          "or newer, name its compiler (-DCMAKE_CUDA_COMPILER=/path/to/nvcc), or build for the "
                          "CPU alone (-DMOLE_CUDA=OFF).")
    endif()
    set(CMAKE_CUDA_COMPILER "${MOLE_NVCC}")
  endif()
  if(NOT CMAKE_CUDA_HOST_COMPILER AND NOT DEFINED ENV{CUDAHOSTCXX})
    set(CMAKE_CUDA_HOST_COMPILER "${CMAKE_CXX_COMPILER}")
  endif()
  enable_language(CUDA)
  if(NOT CMAKE_CUDA_COMPILER_ID STREQUAL "NVIDIA" OR CMAKE_CUDA_COMPILER_VERSION VERSION_LESS 12.4)
    message(FATAL_ERROR "mole: needs nvcc 12.4 or newer, found ${CMAKE_CUDA_COMPILER} of version "
                        "${CMAKE_CUDA_COMPILER_VERSION}. Name another one "
                        "(-DCMAKE_CUDA_COMPILER=/path/to/nvcc).")
  endif()
  find_package(CUDAToolkit REQUIRED)
  message(STATUS "mole: CUDA ${CMAKE_CUDA_COMPILER_VERSION} for sm ${CMAKE_CUDA_ARCHITECTURES}")
endmacro()

# mole_cuda_options(TARGET): what .cu files need to include <mole/cuda.cuh>. The host half of a .cu file must
# agree with the program's .cpp files: OpenMP on, and Eigen vectorised, which it is not where it sees nvcc.
function(mole_cuda_options target)
  # As an option: before 3.26, CMake knows no nvcc with the feature cuda_std_20.
  target_compile_options(${target} INTERFACE
                         $<$<COMPILE_LANGUAGE:CUDA>:-std=c++20;--expt-relaxed-constexpr;-Xcompiler=-fopenmp>)
  target_compile_definitions(${target} INTERFACE $<$<COMPILE_LANGUAGE:CUDA>:EIGEN_NO_CUDA>)
  # No target of a program may have Thrust run on the host: see mole_thrust_runs_on in thrust_host.cmake.
  set_property(TARGET ${target} APPEND PROPERTY COMPATIBLE_INTERFACE_STRING MOLE_THRUST_RUNS_ON)
  set_property(TARGET ${target} PROPERTY INTERFACE_MOLE_THRUST_RUNS_ON cuda)
endfunction()

# mole_use_cudnn(TARGET): convolutions by cuDNN, where it is installed and wanted. Without it cuBLAS multiplies patches.
function(mole_use_cudnn target)
  if(DEFINED MOLE_CUDNN AND NOT MOLE_CUDNN)
    return()
  endif()
  find_path(MOLE_CUDNN_INCLUDE cudnn.h HINTS ${CUDAToolkit_INCLUDE_DIRS})
  find_library(MOLE_CUDNN_LIBRARY cudnn HINTS ${CUDAToolkit_LIBRARY_DIR} PATH_SUFFIXES lib lib64)
  if(NOT MOLE_CUDNN_INCLUDE OR NOT MOLE_CUDNN_LIBRARY)
    message(STATUS "mole: no cuDNN was found: convolutions are products of patches by cuBLAS")
    return()
  endif()
  message(STATUS "mole: convolutions by cuDNN: ${MOLE_CUDNN_LIBRARY}")
  target_include_directories(${target} SYSTEM INTERFACE "${MOLE_CUDNN_INCLUDE}")
  target_link_libraries(${target} INTERFACE "${MOLE_CUDNN_LIBRARY}")
  target_compile_definitions(${target} INTERFACE MOLE_CUDNN)
endfunction()
