# How our programs are compiled in little time.

# mole_build_quickly(TARGET [LEVEL FILE...]): TARGET is compiled without much optimisation and as few units, as the
# headers that its files share cost more than the files themselves. -DCMAKE_UNITY_BUILD_BATCH_SIZE=1 compiles each file
# alone. The FILEs, in which the work is done, are optimised at LEVEL, and units of their own. Where a compiled library
# does the work, they need no more than the others; and with -DMOLE_PROGRAMS_OPTIMISED=OFF, to see whether all compiles,
# they get no more.
function(mole_build_quickly target)
  target_compile_options(${target} PRIVATE "$<$<AND:$<CONFIG:Release>,$<COMPILE_LANGUAGE:CXX>>:-O1>")
  set(batch 16)
  if(DEFINED CMAKE_UNITY_BUILD_BATCH_SIZE)
    set(batch ${CMAKE_UNITY_BUILD_BATCH_SIZE})
  endif()
  set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE ${batch})
  if(ARGC GREATER 1)
    list(POP_FRONT ARGN level)
    set_source_files_properties(${ARGN} PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
    if(MOLE_LIBRARY STREQUAL "mole::mole" AND (NOT DEFINED MOLE_PROGRAMS_OPTIMISED OR MOLE_PROGRAMS_OPTIMISED))
      set_source_files_properties(${ARGN} PROPERTIES COMPILE_OPTIONS "$<$<CONFIG:Release>:${level}>")
    endif()
  endif()
endfunction()
