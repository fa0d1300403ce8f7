# Includes go one way: core <- autodiff <- ops <- nn, optim, loss <- experts <- compose, train <- io <- models.
# dist stands beside optim and includes autodiff and core alone; a .cuh of it may include the CUDA backend. Backends
# include core alone, only the top headers include a backend, and a .hpp needs no CUDA. Checks every header below
# INCLUDE/mole, and first itself on samples in WORK that break one rule each.
cmake_minimum_required(VERSION 3.22)

set(level_core 0)
set(level_autodiff 1)
set(level_ops 2)
foreach(folder IN ITEMS nn loss optim dist)
  set(level_${folder} 3)
endforeach()
set(level_experts 4)
set(level_compose 5)
set(level_train 5)
set(level_io 6)
set(level_models 7)
# Above the models: they must not need ICU.
set(level_text 8)
set(device_headers "(^|/)(cuda|cublas)[^/]*$|^(cuda|thrust|cub)/|\\.cuh$")

# folder_of("mole/ops/x.hpp" out) -> ops; mole/fwd.hpp counts as core; mole.hpp and cuda.cuh are "top".
function(folder_of path out)
  set(folder top)
  if(path STREQUAL "mole/fwd.hpp")
    set(folder core)
  elseif(path MATCHES "^mole/([a-z_]+)/")
    set(folder "${CMAKE_MATCH_1}")
  endif()
  set(${out} "${folder}" PARENT_SCOPE)
endfunction()

# Why `from` (a path such as mole/ops/x.hpp) must not hold this include; empty if it may.
function(why_not from quote included out)
  set(reason "")
  folder_of("${from}" here)
  folder_of("${included}" there)
  if(from MATCHES "\\.hpp$" AND included MATCHES "${device_headers}")
    set(reason "a .hpp must compile without CUDA, Thrust, CUB and cuBLAS")
  elseif(NOT included MATCHES "^mole/")
    if(quote STREQUAL "\"")
      set(reason "our own headers are included as <mole/...>")
    endif()
  elseif(here STREQUAL "top")
    # Top headers include anything.
  elseif(there STREQUAL "top")
    set(reason "only users include the top headers")
  elseif(here STREQUAL "backends")
    if(NOT there MATCHES "^(core|backends)$")
      set(reason "a backend includes core alone")
    endif()
  elseif(here STREQUAL "dist" AND from MATCHES "\\.cuh$" AND included MATCHES "^mole/backends/cuda/")
    # What works on a device.
  elseif(here STREQUAL "dist" AND NOT there MATCHES "^(core|autodiff|dist)$")
    set(reason "dist includes autodiff and core alone")
  elseif(there STREQUAL "backends")
    set(reason "only the top headers include a backend")
  elseif(NOT DEFINED level_${here} OR NOT DEFINED level_${there})
    set(reason "a folder that the rule does not know: add it here and to the design")
  elseif(level_${there} GREATER level_${here})
    set(reason "${here} is below ${there}")
  endif()
  set(${out} "${reason}" PARENT_SCOPE)
endfunction()

# check(DIR out): one line a violation among the headers of DIR/mole.
function(check dir out)
  set(violations "")
  file(GLOB_RECURSE files RELATIVE "${dir}" "${dir}/mole/*.hpp" "${dir}/mole/*.cuh")
  foreach(file IN LISTS files)
    file(STRINGS "${dir}/${file}" lines REGEX "^[ \t]*#[ \t]*include[ \t]*[<\"]")
    foreach(line IN LISTS lines)
      if(line MATCHES "include[ \t]*([<\"])([^>\"]+)[>\"]")
        set(included "${CMAKE_MATCH_2}")
        why_not("${file}" "${CMAKE_MATCH_1}" "${included}" reason)
        if(reason)
          list(APPEND violations "${file}: includes ${included}: ${reason}")
        endif()
      endif()
    endforeach()
  endforeach()
  set(${out} "${violations}" PARENT_SCOPE)
endfunction()

function(self_check)
  set(sample 0)
  foreach(bad IN ITEMS
      "core/a.hpp <mole/autodiff/tensor.hpp>" "autodiff/a.hpp <mole/ops/matmul.hpp>"
      "ops/a.hpp <mole/nn/linear.hpp>" "loss/a.hpp <mole/experts/gate.hpp>" "io/a.hpp <mole/models/t5/config.hpp>"
      "train/a.hpp <mole/io/safetensors.hpp>" "train/a.hpp <mole/models/t5/config.hpp>"
      "experts/a.hpp <mole/train/loop.hpp>" "optim/a.hpp <mole/train/loop.hpp>" "ops/a.hpp <mole/backends/cpu.hpp>"
      "models/a.hpp <mole/backends/cpu.hpp>" "backends/a.hpp <mole/autodiff/tensor.hpp>"
      "backends/a.hpp <thrust/sort.h>" "ops/a.hpp <cuda_runtime.h>" "ops/a.hpp <cublas_v2.h>"
      "ops/a.hpp <cub/cub.cuh>" "mole.hpp <mole/cuda.cuh>" "ops/a.hpp <mole/mole.hpp>"
      "ops/a.hpp \"matmul.hpp\"" "core/a.hpp <mole/elsewhere/b.hpp>"
      "models/a.hpp <mole/text/tokenizer.hpp>" "dist/a.hpp <mole/ops/reduce.hpp>"
      "dist/a.hpp <mole/optim/adamw.hpp>" "dist/a.hpp <mole/backends/cpu.hpp>" "dist/a.cuh <mole/backends/cpu.hpp>"
      "dist/a.hpp <mole/backends/cuda/backend.cuh>" "ops/a.cuh <mole/backends/cuda/backend.cuh>"
      "ops/a.hpp <mole/dist/all_reduce.hpp>")
    string(REGEX MATCH "^([^ ]+) (.+)$" bad "${bad}")
    math(EXPR sample "${sample} + 1")
    set(dir "${WORK}/${sample}")
    file(WRITE "${dir}/mole/${CMAKE_MATCH_1}" "#pragma once\n#include ${CMAKE_MATCH_2}\n")
    check("${dir}" violations)
    if(NOT violations)
      message(FATAL_ERROR "the check itself is broken: it accepts ${bad}")
    endif()
  endforeach()
  foreach(good IN ITEMS
      "mole.hpp <mole/backends/cpu.hpp>" "backends/a.cuh <thrust/sort.h>" "backends/a.hpp <mole/fwd.hpp>"
      "io/a.hpp <mole/train/run_state.hpp>" "train/a.hpp <mole/optim/adamw.hpp>"
      "models/a.hpp <mole/io/safetensors.hpp>" "nn/a.hpp <mole/ops/matmul.hpp>" "cuda.cuh <mole/mole.hpp>"
      "dist/a.hpp <mole/autodiff/tensor.hpp>" "train/a.hpp <mole/dist/communicator.hpp>"
      "dist/a.cuh <mole/backends/cuda/backend.cuh>")
    string(REGEX MATCH "^([^ ]+) (.+)$" good "${good}")
    math(EXPR sample "${sample} + 1")
    set(dir "${WORK}/${sample}")
    file(WRITE "${dir}/mole/${CMAKE_MATCH_1}" "#pragma once\n#  include ${CMAKE_MATCH_2}\n")
    check("${dir}" violations)
    if(violations)
      message(FATAL_ERROR "the check itself is broken: it refuses ${good}: ${violations}")
    endif()
  endforeach()
endfunction()

file(REMOVE_RECURSE "${WORK}")
self_check()
check("${INCLUDE}" violations)
if(violations)
  string(REPLACE ";" "\n  " violations "${violations}")
  message(FATAL_ERROR "includes that go the wrong way:\n  ${violations}")
endif()
