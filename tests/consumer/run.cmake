# Installs mole from BUILD into a fresh prefix, then configures, builds and runs the project beside this file
# against it. IO: with mole::io too. EIGEN, JSON: where their headers lie if the build downloaded them.
function(run)
  execute_process(COMMAND ${ARGV} RESULT_VARIABLE failed OUTPUT_VARIABLE output ERROR_VARIABLE output)
  message("${output}")
  if(failed)
    string(JOIN " " command ${ARGV})
    message(FATAL_ERROR "failed: ${command}")
  endif()
endfunction()

# Installs what the build downloaded, as a package of that name.
function(package name target headers)
  if(headers)
    file(WRITE "${WORK}/prefix/share/cmake/${name}/${name}Config.cmake"
         "add_library(${target} INTERFACE IMPORTED)\n"
         "target_include_directories(${target} INTERFACE \"${headers}\")\n")
  endif()
endfunction()

file(REMOVE_RECURSE "${WORK}")
package(Eigen3 Eigen3::Eigen "${EIGEN}")
package(nlohmann_json nlohmann_json::nlohmann_json "${JSON}")
run("${CMAKE_COMMAND}" --install "${BUILD}" --prefix "${WORK}/prefix")
file(MAKE_DIRECTORY "${WORK}/build")
run("${CMAKE_COMMAND}" -S "${CMAKE_CURRENT_LIST_DIR}" -B "${WORK}/build" "-DCMAKE_CXX_COMPILER=${CXX}"
    "-DCMAKE_PREFIX_PATH=${WORK}/prefix" "-DMOLE_USE_BLAS=${USE_BLAS}"
    "-DCONSUMER_IO=${IO}")
run("${CMAKE_COMMAND}" --build "${WORK}/build")
run("${WORK}/build/consumer")
if(IO)
  run("${WORK}/build/consumer_io")
endif()
