# Counts what a program instantiates: the weak symbols of its OBJECT, which was compiled without optimisation. They
# must not be more than MOST. Seconds depend on the machine, this number on the code alone; each thousand of them was
# about a second of g++ 12.
execute_process(COMMAND "${NM}" -P "${OBJECT}" RESULT_VARIABLE failed OUTPUT_VARIABLE symbols)
if(failed)
  message(FATAL_ERROR "${NM}: cannot read ${OBJECT}")
endif()
string(REGEX MATCHALL " [WVu] " weak "${symbols}")
list(LENGTH weak count)
message("${OBJECT}: ${count} weak symbols, at most ${MOST}")
if(count GREATER MOST)
  message(FATAL_ERROR "${OBJECT}: instantiates ${count} functions and objects, expected at most ${MOST}. What has "
                      "come in? Compare `${NM} -C ${OBJECT}` with that of an earlier version.")
endif()
if(count EQUAL 0)
  message(FATAL_ERROR "${OBJECT}: no weak symbol was counted; ${NM} prints:\n${symbols}")
endif()
