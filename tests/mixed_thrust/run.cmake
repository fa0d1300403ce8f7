# Configures the project here with each of the two Thrust systems, which must work, and with both, which must
# fail and say why.
cmake_minimum_required(VERSION 3.22)

# configure(LINKS code text)
function(configure links code text)
  file(REMOVE_RECURSE "${WORK}")
  execute_process(COMMAND "${CMAKE_COMMAND}" -S "${CMAKE_CURRENT_LIST_DIR}" -B "${WORK}"
                          "-DCMAKE_CXX_COMPILER=${CXX}" "-DCMAKE_MODULES=${MODULES}" "-DLINKS=${links}"
                  RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
  set(${code} "${result}" PARENT_SCOPE)
  string(REGEX REPLACE "[ \n]+" " " output "${output}")
  set(${text} "${output}" PARENT_SCOPE)
endfunction()

foreach(links IN ITEMS mole_cuda mole_thrust_host)
  configure("${links}" code text)
  if(NOT code EQUAL 0)
    message(FATAL_ERROR "a program with ${links} alone should configure, but: ${text}")
  endif()
endforeach()
foreach(links IN ITEMS "mole_cuda\;mole_thrust_host" "mole_thrust_host\;mole_cuda")
  configure("${links}" code text)
  if(code EQUAL 0)
    message(FATAL_ERROR "a program with ${links} was accepted")
  endif()
  if(NOT text MATCHES "MOLE_THRUST_RUNS_ON.*\"mixed\"|\"mixed\".*MOLE_THRUST_RUNS_ON")
    message(FATAL_ERROR "a program with ${links} was refused for another reason: ${text}")
  endif()
  message(STATUS "refused as it should be: ${text}")
endforeach()
