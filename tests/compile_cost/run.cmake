# Compiles SOURCE without optimisation and counts what it instantiates: the weak symbols of its object. They must
# not be more than MOST. Seconds depend on the machine, this number on the code alone; each thousand of them was
# about a second of g++ 12.
string(REPLACE "|" ";-I" flags "-I${INCLUDES}")
set(object "${WORK}.o")
execute_process(COMMAND "${CXX}" -std=c++20 -O0 -fopenmp ${FLAGS} ${flags} -c "${SOURCE}" -o "${object}"
                RESULT_VARIABLE failed OUTPUT_VARIABLE output ERROR_VARIABLE output)
if(failed)
  message(FATAL_ERROR "${SOURCE}: does not compile:\n${output}")
endif()
execute_process(COMMAND "${NM}" -P "${object}" RESULT_VARIABLE failed OUTPUT_VARIABLE symbols)
if(failed)
  message(FATAL_ERROR "${NM}: cannot read ${object}")
endif()
string(REGEX MATCHALL " [WVu] " weak "${symbols}")
list(LENGTH weak count)
message("${SOURCE}: ${count} weak symbols, at most ${MOST}")
if(count GREATER MOST)
  message(FATAL_ERROR "${SOURCE}: instantiates ${count} functions and objects, expected at most ${MOST}. What has "
                      "come in? Compare `${NM} -C ${object}` with that of an earlier version.")
endif()
if(count EQUAL 0)
  message(FATAL_ERROR "${SOURCE}: no weak symbol was counted; ${NM} prints:\n${symbols}")
endif()
