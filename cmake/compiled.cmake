# The templates of the library for float and double on the CPU, compiled once: a program that links them compiles
# in a fraction of the time. Installed beside moleConfig.cmake: like header-only code, they are compiled on the
# user's machine, with the user's flags.

set(MOLE_COMPILED_LISTS "${CMAKE_CURRENT_LIST_DIR}/compiled")

# mole_add_compiled(TARGET): the static library TARGET, made when something that is built links it. Its users see
# MOLE_COMPILED and <mole/compiled.hpp>, which declares what it holds: see the lists in cmake/compiled.
function(mole_add_compiled target)
  set(made "${CMAKE_CURRENT_BINARY_DIR}/${target}")
  foreach(list IN ITEMS scalar once gguf bits4)
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
  # Each included by the header that it belongs to: whoever reads no such files does not see it.
  set(header_of_gguf gguf_dots)
  set(header_of_bits4 bitsandbytes_numbers)
  foreach(list IN ITEMS gguf bits4)
    string(REPLACE "extern template" "template" text "${${list}}")
    file(CONFIGURE OUTPUT "${made}/${list}.cpp" @ONLY
         CONTENT "#include <mole/io/${header_of_${list}}.hpp>\n\nnamespace mole {\n\n${text}\n}  // namespace mole\n")
    file(CONFIGURE OUTPUT "${made}/include/mole/io/compiled_${list}.hpp" @ONLY
         CONTENT "#pragma once\n\nnamespace mole {\n\n${${list}}\n}  // namespace mole\n")
    list(APPEND sources "${made}/${list}.cpp")
  endforeach()
  add_library(${target} STATIC EXCLUDE_FROM_ALL ${sources})
  target_link_libraries(${target} PUBLIC mole::mole)
  target_compile_definitions(${target} INTERFACE $<$<COMPILE_LANGUAGE:CXX>:MOLE_COMPILED>)
  target_include_directories(${target} INTERFACE "${made}/include")
endfunction()
