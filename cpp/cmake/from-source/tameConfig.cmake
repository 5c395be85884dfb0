# find_package(tame) from the sources that the Python package carries: libtame becomes a part of
# the project that asks for it.
if(NOT TARGET tame::tame)
  get_filename_component(_tame_sources "${CMAKE_CURRENT_LIST_DIR}/../.." ABSOLUTE)
  add_subdirectory("${_tame_sources}" "${CMAKE_BINARY_DIR}/libtame" EXCLUDE_FROM_ALL)
  unset(_tame_sources)
endif()
# A static libtame leaves it to the program to link what it needs.
if(NOT BUILD_SHARED_LIBS)
  include("${CMAKE_CURRENT_LIST_DIR}/../dependencies.cmake")
endif()
