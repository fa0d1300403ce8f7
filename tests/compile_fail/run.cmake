# Compiles SOURCE, which must fail with an output that matches the `// expect: <regex>` of its first line.
# A version of the file with MOLE_COMPILE_FAIL_OK defined must compile: so the error is the one meant, not a
# missing header.
file(STRINGS "${SOURCE}" first LIMIT_COUNT 1)
if(NOT first MATCHES "^// expect: (.+)$")
  message(FATAL_ERROR "${SOURCE}: expected a first line `// expect: <regex>`, found `${first}`")
endif()
set(regex "${CMAKE_MATCH_1}")
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
if(NOT output MATCHES "${regex}")
  message(FATAL_ERROR "${SOURCE}: expected an error that matches `${regex}`, found\n${output}")
endif()
