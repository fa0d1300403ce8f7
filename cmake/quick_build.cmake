# How our programs are compiled in little time.

# mole_build_quickly(TARGET [LEVEL FILE...]): TARGET is compiled without much optimisation and as few units, as the
# headers that its files share cost more than the files themselves. -DCMAKE_UNITY_BUILD_BATCH_SIZE=1 compiles each file
# alone. The FILEs, in which the work is done, are optimised at LEVEL, and units of their own. With
# -DMOLE_PROGRAMS_OPTIMISED=OFF, to see whether all compiles, they get no more than the others. Where a compiled
# library does most of the work, FILEs are part of the one unit, and what has none is not optimised at all.
function(mole_build_quickly target)
  set(optimisation -O1)
  set(batch 16)
  if(NOT MOLE_LIBRARY STREQUAL "mole::mole")
    set(batch 0)  # no limit
    if(ARGC EQUAL 1)
      set(optimisation -O0)
    endif()
  endif()
  if(DEFINED CMAKE_UNITY_BUILD_BATCH_SIZE)
    set(batch ${CMAKE_UNITY_BUILD_BATCH_SIZE})
  endif()
  target_compile_options(${target} PRIVATE "$<$<AND:$<CONFIG:Release>,$<COMPILE_LANGUAGE:CXX>>:${optimisation}>")
  set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE ${batch})
  if(ARGC GREATER 1 AND MOLE_LIBRARY STREQUAL "mole::mole")
    list(POP_FRONT ARGN level)
    set_source_files_properties(${ARGN} PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
    if(NOT DEFINED MOLE_PROGRAMS_OPTIMISED OR MOLE_PROGRAMS_OPTIMISED)
      set_source_files_properties(${ARGN} PROPERTIES COMPILE_OPTIONS "$<$<CONFIG:Release>:${level}>")
    endif()
  endif()
endfunction()
