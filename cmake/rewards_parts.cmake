# Parts that hone_rewards carries as bytes, so that they are found wherever hone is installed: the sandbox's helper program (static, linked to
# nothing of hone; src/hone/rewards/jail/jail.h says why it stands apart) and Python files.
file(GLOB jail_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/hone/rewards/jail/*.cpp)
add_executable(hone_jail ${jail_sources})
target_compile_options(hone_jail PRIVATE -fno-sanitize=all)
target_link_options(hone_jail PRIVATE -static -s -fno-sanitize=all)

set(rewards ${CMAKE_SOURCE_DIR}/src/hone/rewards)
set_source_files_properties(${rewards}/sandbox.cpp PROPERTIES COMPILE_DEFINITIONS HONE_JAIL_PROGRAM="$<TARGET_FILE:hone_jail>"
                            OBJECT_DEPENDS ${CMAKE_BINARY_DIR}/hone_jail)
add_dependencies(hone_rewards hone_jail)
set_source_files_properties(
  ${rewards}/carried_files.cpp PROPERTIES COMPILE_DEFINITIONS "HONE_CODE_TRAILER=\"${rewards}/code_trailer.py\";HONE_PYTHON_SHIM=\"${rewards}/python_shim.py\""
  OBJECT_DEPENDS "${rewards}/code_trailer.py;${rewards}/python_shim.py")
