# Thrust on the processor, for tests of the CUDA backend's Thrust code without a GPU.

# mole_find_cccl(OUT): the directory with <thrust/...> of a CUDA Toolkit or of CCCL itself, or OUT-NOTFOUND.
function(mole_find_cccl out)
  find_path(MOLE_CCCL thrust/sort.h
            HINTS "$ENV{CUDA_PATH}" PATHS /usr/local/cuda /opt/cuda
            PATH_SUFFIXES include/cccl include targets/x86_64-linux/include/cccl
            DOC "The directory that holds Thrust's headers, for tests without a GPU")
  set(${out} "${MOLE_CCCL}" PARENT_SCOPE)
endfunction()

# mole_thrust_runs_on(TARGET SYSTEM): whatever links TARGET has its Thrust calls run on SYSTEM, cuda or host.
# One program cannot have both: the same inline functions would do different things in different files.
function(mole_thrust_runs_on target system)
  set_property(TARGET ${target} APPEND PROPERTY COMPATIBLE_INTERFACE_STRING MOLE_THRUST_RUNS_ON)
  set_property(TARGET ${target} PROPERTY INTERFACE_MOLE_THRUST_RUNS_ON ${system})
endfunction()

# mole_thrust_host_options(TARGET): Thrust by its OpenMP system.
function(mole_thrust_host_options target)
  target_compile_definitions(${target} INTERFACE THRUST_HOST_SYSTEM=THRUST_HOST_SYSTEM_CPP
                                                 THRUST_DEVICE_SYSTEM=THRUST_DEVICE_SYSTEM_OMP)
  mole_thrust_runs_on(${target} host)
endfunction()
