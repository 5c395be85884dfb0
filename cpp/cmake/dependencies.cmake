# What libtame is linked with; inference libraries are found when a program runs.
#
#   TAME_DEPENDENCIES   targets
#   TAME_PC_REQUIRES    what pkg-config calls them
#   TAME_PC_NAMES       what the linker calls them
#   TAME_CXX_LIBRARIES  what a program in C has to name beside a static libtame
#   TAME_MISSING        one line that says which of Debian's packages are missing; "" if none are

# tame_need(PACKAGE DEBIAN ARGUMENTS…): find_package, and which of Debian's packages has it.
macro(tame_need package debian)
  find_package(${package} ${ARGN} QUIET)
  if(NOT ${package}_FOUND)
    string(REPLACE ";" " " _tame_version "${ARGN}")
    string(REGEX MATCH "^[0-9.]+" _tame_version "${_tame_version}")
    list(APPEND _tame_packages "${package} ${_tame_version}")
    list(APPEND _tame_debian ${debian})
  endif()
endmacro()

list(APPEND CMAKE_MODULE_PATH "${CMAKE_CURRENT_LIST_DIR}")  # FindNettle
set(_tame_packages "")
set(_tame_debian "")
tame_need(nlohmann_json nlohmann-json3-dev 3.9)
tame_need(Nettle nettle-dev)
tame_need(Threads libc6-dev)
set(TAME_DEPENDENCIES Nettle::Nettle Threads::Threads ${CMAKE_DL_LIBS})
set(TAME_PC_REQUIRES nettle)
set(TAME_PC_NAMES nettle)
if(TAME_DECODE)
  tame_need(JPEG libjpeg-dev)
  tame_need(PNG libpng-dev)
  tame_need(ZLIB zlib1g-dev)
  list(APPEND TAME_DEPENDENCIES JPEG::JPEG PNG::PNG ZLIB::ZLIB)
  list(APPEND TAME_PC_REQUIRES libjpeg libpng zlib)
  list(APPEND TAME_PC_NAMES jpeg png z)
else()  # parity.npz is packed all the same
  tame_need(ZLIB zlib1g-dev)
  list(APPEND TAME_DEPENDENCIES ZLIB::ZLIB)
  list(APPEND TAME_PC_REQUIRES zlib)
  list(APPEND TAME_PC_NAMES z)
endif()

set(TAME_CXX_LIBRARIES ${CMAKE_CXX_IMPLICIT_LINK_LIBRARIES})
list(FILTER TAME_CXX_LIBRARIES INCLUDE REGEX "^(stdc\\+\\+|c\\+\\+|m)$")
list(REMOVE_DUPLICATES TAME_CXX_LIBRARIES)

set(TAME_MISSING "")
if(_tame_packages)
  string(REGEX REPLACE " *;" ", " _tame_packages "${_tame_packages}")
  string(STRIP "${_tame_packages}" _tame_packages)
  string(REPLACE ";" " " _tame_debian "${_tame_debian}")
  set(TAME_MISSING "libtame needs ${_tame_packages}; not found here. \
On Debian and Ubuntu: apt-get install ${_tame_debian}")
endif()
