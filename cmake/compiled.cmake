# The templates of the library for float and double on the CPU, compiled once: a program that links them compiles
# in a fraction of the time. Installed beside moleConfig.cmake: like header-only code, they are compiled on the
# user's machine, with the user's flags.

set(MOLE_COMPILED_LISTS "${CMAKE_CURRENT_LIST_DIR}/compiled")

# mole_add_compiled(TARGET): the static library TARGET, made when something that is built links it. Its users see
# MOLE_COMPILED and <mole/compiled.hpp>, which declares what it holds: see the lists in cmake/compiled.
function(mole_add_compiled target)
  set(made "${CMAKE_CURRENT_BINARY_DIR}/${target}")
  foreach(list IN ITEMS scalar once gguf)
    file(READ "${MOLE_COMPILED_LISTS}/${list}.in" ${list})
    set_property(DIRECTORY APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${MOLE_COMPILED_LISTS}/${list}.in")
  endforeach()
  set(declarations "${once}")
  set(sources "")
  foreach(part IN ITEMS once float double)
    set(text "${once}")
    if(NOT part STREQUAL "once")
      string(REPLACE "@T@" "${part}" text "${scalar}")
      string(APPEND declarations "\n${text}")
    endif()
    string(REPLACE "extern template" "template" text "${text}")
    file(CONFIGURE OUTPUT "${made}/${part}.cpp" @ONLY
         CONTENT "#include <mole/mole.hpp>\n\nnamespace mole {\n\n${text}\n}  // namespace mole\n")
    list(APPEND sources "${made}/${part}.cpp")
  endforeach()
  file(CONFIGURE OUTPUT "${made}/include/mole/compiled.hpp" @ONLY
       CONTENT "#pragma once\n#include <mole/mole.hpp>\n\nnamespace mole {\n\n${declarations}\n}  // namespace mole\n")
  # Included by gguf_dots.hpp: whoever reads no GGUF files does not see it.
  string(REPLACE "extern template" "template" text "${gguf}")
  file(CONFIGURE OUTPUT "${made}/gguf.cpp" @ONLY
       CONTENT "#include <mole/io/gguf_dots.hpp>\n\nnamespace mole {\n\n${text}\n}  // namespace mole\n")
  file(CONFIGURE OUTPUT "${made}/include/mole/io/compiled_gguf.hpp" @ONLY
       CONTENT "#pragma once\n\nnamespace mole {\n\n${gguf}\n}  // namespace mole\n")
  list(APPEND sources "${made}/gguf.cpp")
  add_library(${target} STATIC EXCLUDE_FROM_ALL ${sources})
  target_link_libraries(${target} PUBLIC mole::mole)
  target_compile_definitions(${target} INTERFACE $<$<COMPILE_LANGUAGE:CXX>:MOLE_COMPILED>)
  target_include_directories(${target} INTERFACE "${made}/include")
endfunction()
