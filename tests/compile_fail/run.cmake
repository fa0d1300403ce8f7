# Compiles SOURCE, which must fail. The first lines of SOURCE say how:
#   // expect: <regex>    what the first line with an error must match
#   // lines: <number>    how long the whole output may be; 20 if SOURCE does not say
# A version of the file with MOLE_COMPILE_FAIL_OK defined must compile: so the error is the one meant, not a
# missing header.
file(STRINGS "${SOURCE}" first LIMIT_COUNT 2)
list(GET first 0 reason)
list(GET first 1 limit)
if(NOT reason MATCHES "^// expect: (.+)$")
  message(FATAL_ERROR "${SOURCE}: expected a first line `// expect: <regex>`, found `${reason}`")
endif()
set(regex "${CMAKE_MATCH_1}")
set(most 20)
if(limit MATCHES "^// lines: ([0-9]+)$")
  set(most "${CMAKE_MATCH_1}")
endif()
string(REPLACE "|" ";-I" flags "-I${INCLUDES}")
set(command "${CXX}" -std=c++20 -fsyntax-only ${flags})

execute_process(COMMAND ${command} -DMOLE_COMPILE_FAIL_OK "${SOURCE}" RESULT_VARIABLE failed
                OUTPUT_VARIABLE output ERROR_VARIABLE output)
if(failed)
  message(FATAL_ERROR "${SOURCE}: does not compile even with MOLE_COMPILE_FAIL_OK:\n${output}")
endif()
execute_process(COMMAND ${command} "${SOURCE}" RESULT_VARIABLE failed OUTPUT_VARIABLE output
                ERROR_VARIABLE output)
if(NOT failed)
  message(FATAL_ERROR "${SOURCE}: expected an error that matches `${regex}`, but it compiles")
endif()
if(NOT output MATCHES "error: [^\n]*")
  message(FATAL_ERROR "${SOURCE}: expected a line with `error:`, found\n${output}")
endif()
set(error "${CMAKE_MATCH_0}")
if(NOT error MATCHES "${regex}")
  message(FATAL_ERROR "${SOURCE}: expected a first error that matches `${regex}`, found `${error}` in\n${output}")
endif()
string(REGEX MATCHALL "\n" ends "${output}")
list(LENGTH ends lines)
if(lines GREATER most)
  message(FATAL_ERROR "${SOURCE}: expected at most ${most} lines of errors, found ${lines}:\n${output}")
endif()
