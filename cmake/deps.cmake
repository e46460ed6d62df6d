# Dependencies from Debian, and LibTorch out of the PyPI wheel as imported targets: the wheel's own CMake config asks for CUDA tools
# even on a CPU-only machine.
find_package(Threads REQUIRED)
find_package(fmt REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(yaml-cpp REQUIRED)

if(NOT EXISTS "${HONE_LIBTORCH}/lib/libtorch_cpu.so")
  message(FATAL_ERROR "LibTorch not found in ${HONE_LIBTORCH}: run tools/setup.sh, or give -DHONE_LIBTORCH=DIR (a folder with include/ and lib/)")
endif()
add_library(c10 SHARED IMPORTED)
set_target_properties(c10 PROPERTIES IMPORTED_LOCATION "${HONE_LIBTORCH}/lib/libc10.so")
add_library(torch_cpu SHARED IMPORTED)
set_target_properties(torch_cpu PROPERTIES IMPORTED_LOCATION "${HONE_LIBTORCH}/lib/libtorch_cpu.so")
add_library(torch INTERFACE)
# LibTorch ships headers of another fmt than the system's library: the system's must be found first, in every file the same.
get_target_property(fmt_include fmt::fmt INTERFACE_INCLUDE_DIRECTORIES)
file(MAKE_DIRECTORY ${CMAKE_BINARY_DIR}/first)
file(CREATE_LINK ${fmt_include}/fmt ${CMAKE_BINARY_DIR}/first/fmt SYMBOLIC)
target_include_directories(torch SYSTEM INTERFACE "${CMAKE_BINARY_DIR}/first" "${HONE_LIBTORCH}/include" "${HONE_LIBTORCH}/include/torch/csrc/api/include")
target_link_libraries(torch INTERFACE torch_cpu c10)
# libtorch_cpu of the wheel needs libcudart and libcupti beside it.
target_link_options(torch INTERFACE "-Wl,-rpath,${HONE_LIBTORCH}/lib" "-Wl,-rpath-link,${HONE_LIBTORCH}/lib" "-Wl,--no-as-needed")
