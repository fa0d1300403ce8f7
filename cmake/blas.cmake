# Chooses who multiplies matrices: Eigen itself, or a BLAS that Eigen calls. Installed beside
# moleConfig.cmake: header-only code is compiled, and so the choice made, on the user's machine.

set(MOLE_USE_BLAS AUTO CACHE STRING "gemm by a BLAS: AUTO takes OpenBLAS where found, ON any BLAS, OFF Eigen")
set_property(CACHE MOLE_USE_BLAS PROPERTY STRINGS AUTO ON OFF)

# mole_use_blas(TARGET): gives the INTERFACE target EIGEN_USE_BLAS and the library, or neither; says which.
function(mole_use_blas target)
  string(TOUPPER "${MOLE_USE_BLAS}" choice)
  if(NOT choice STREQUAL "AUTO" AND NOT choice)
    message(STATUS "mole: gemm by Eigen")
    return()
  endif()

  # OpenBLAS on OpenMP threads comes first: one built on its own threads fights the library's for the cores.
  # A user's BLA_VENDOR or BLAS_LIBRARIES goes before any choice of ours.
  set(name OpenBLAS)
  set(libraries "")
  if(NOT BLA_VENDOR AND NOT BLAS_LIBRARIES)
    find_library(MOLE_OPENBLAS NAMES openblas PATH_SUFFIXES openblas-openmp NO_CACHE NO_DEFAULT_PATH
                 PATHS /usr/lib/${CMAKE_LIBRARY_ARCHITECTURE} /usr/lib)
    if(NOT MOLE_OPENBLAS)
      find_library(MOLE_OPENBLAS NAMES openblaso openblas NO_CACHE)
    endif()
    if(MOLE_OPENBLAS)
      set(libraries "${MOLE_OPENBLAS}")
    endif()
  endif()
  if(NOT libraries AND (choice STREQUAL "ON" OR BLA_VENDOR OR BLAS_LIBRARIES))
    set(BLA_SIZEOF_INTEGER 4)
    find_package(BLAS QUIET)
    if(BLAS_FOUND)
      set(name BLAS)
      if(BLA_VENDOR)
        set(name "${BLA_VENDOR}")
      endif()
      set(libraries ${BLAS_LIBRARIES} ${BLAS_LINKER_FLAGS})
    endif()
  endif()

  if(libraries)
    target_compile_definitions(${target} INTERFACE EIGEN_USE_BLAS)
    target_link_libraries(${target} INTERFACE ${libraries})
    message(STATUS "mole: gemm by ${name} (${libraries})")
  elseif(choice STREQUAL "AUTO")
    message(STATUS "mole: gemm by Eigen")
  else()
    message(FATAL_ERROR "mole: MOLE_USE_BLAS is ON but no BLAS was found. Install one "
                        "(apt-get install libopenblas-openmp-dev), name it "
                        "(-DBLAS_LIBRARIES=/path/libblas.so), or take Eigen's gemm (-DMOLE_USE_BLAS=OFF).")
  endif()
endfunction()
