# NCCL, for ranks that are GPUs.

# Makes mole_nccl_library or stops with the remedies. Looks in -DNCCL_ROOT=DIR, the system, the CUDA Toolkit, and the
# package nvidia-nccl-cu13 (or -cu12) of the Python that is found.
function(mole_require_nccl)
  if(NOT TARGET CUDA::cudart)
    message(FATAL_ERROR "mole: MOLE_NCCL is for GPUs: build with -DMOLE_CUDA=ON, or with -DMOLE_NCCL=OFF.")
  endif()
  set(hints ${CUDAToolkit_INCLUDE_DIRS} ${CUDAToolkit_LIBRARY_DIR})
  find_program(MOLE_PYTHON NAMES python3 python)
  if(MOLE_PYTHON)
    execute_process(COMMAND "${MOLE_PYTHON}" -c "import nvidia.nccl as n; print(list(n.__path__)[0])"
                    OUTPUT_VARIABLE package OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET)
    if(package)
      list(APPEND hints "${package}/include" "${package}/lib")
    endif()
  endif()
  find_path(MOLE_NCCL_INCLUDE nccl.h HINTS ${NCCL_ROOT} ENV NCCL_ROOT ${hints} PATH_SUFFIXES include)
  # Python's package has no libnccl.so.
  find_library(MOLE_NCCL_LIBRARY NAMES nccl libnccl.so.2 NAMES_PER_DIR HINTS ${NCCL_ROOT} ENV NCCL_ROOT ${hints}
               PATH_SUFFIXES lib lib64)
  if(NOT MOLE_NCCL_INCLUDE OR NOT MOLE_NCCL_LIBRARY)
    message(FATAL_ERROR "mole: MOLE_NCCL is ON, and nccl.h or libnccl was not found. Install libnccl-dev from NVIDIA's "
                        "repository, or nvidia-nccl-cu13 by pip, or name its folder by -DNCCL_ROOT=DIR.")
  endif()
  message(STATUS "mole: NCCL ${MOLE_NCCL_LIBRARY}")
  add_library(mole_nccl_library UNKNOWN IMPORTED GLOBAL)
  set_target_properties(mole_nccl_library PROPERTIES IMPORTED_LOCATION "${MOLE_NCCL_LIBRARY}"
                                                     INTERFACE_INCLUDE_DIRECTORIES "${MOLE_NCCL_INCLUDE}")
endfunction()
