# MPI, for ranks that are processes.

# Makes MPI::MPI_CXX or stops with the remedies.
function(mole_require_mpi)
  set(MPI_CXX_SKIP_MPICXX TRUE)  # the C++ bindings that MPI gave up
  find_package(MPI QUIET COMPONENTS CXX)
  if(NOT MPI_CXX_FOUND)
    message(FATAL_ERROR "mole: MOLE_MPI is ON, and there is no MPI for C++ here. Install one (apt-get install "
                        "libopenmpi-dev openmpi-bin), or name its compiler by -DMPI_CXX_COMPILER=DIR/mpicxx.")
  endif()
  message(STATUS "mole: MPI ${MPI_CXX_VERSION} (${MPI_CXX_COMPILER})")
  set_target_properties(MPI::MPI_CXX PROPERTIES IMPORTED_GLOBAL TRUE)
endfunction()
