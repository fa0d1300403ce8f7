# A program's code for each backend, compiled in one file a backend: the rest of the program is compiled once,
# by the host compiler alone.

# mole_add_backends(TARGET NAME name NAMESPACE space TYPE Type HEADER file [CUDA_HEADER file])
# HEADER declares a struct space::Type of function pointers and
#     const Type& name_on(const std::string& backend);
# and defines template <class B> const Type* name_of(), which fills it for backend B. This adds name_on() and
# the instantiations to TARGET: for the CPU, and for CUDA where the build has it. CUDA_HEADER is for nvcc, in
# HEADER's place.
function(mole_add_backends target)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" "NAME;NAMESPACE;TYPE;HEADER;CUDA_HEADER" "")
  foreach(needed IN ITEMS NAME NAMESPACE TYPE HEADER)
    if(NOT arg_${needed})
      message(FATAL_ERROR "mole_add_backends(${target}): ${needed} is missing")
    endif()
  endforeach()
  if(NOT arg_CUDA_HEADER)
    set(arg_CUDA_HEADER "${arg_HEADER}")
  endif()
  set(files cpu.cpp no_cuda.cpp)
  if(TARGET mole::cuda)
    set(files cpu.cpp cuda.cu)
    target_link_libraries(${target} PRIVATE mole::cuda)
  endif()
  foreach(file IN LISTS files)
    set(made "${CMAKE_CURRENT_BINARY_DIR}/backends/${arg_NAME}_${file}")
    configure_file("${PROJECT_SOURCE_DIR}/cmake/backends/${file}.in" "${made}" @ONLY)
    target_sources(${target} PRIVATE "${made}")
  endforeach()
endfunction()
