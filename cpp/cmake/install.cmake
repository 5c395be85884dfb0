# What `cmake --install` puts where, so that find_package(tame) and pkg-config find it, wherever
# the tree is moved to.
include(CMakePackageConfigHelpers)

# Before 1.0, a new minor version may change what stands in the header.
write_basic_package_version_file(${PROJECT_BINARY_DIR}/tameConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion)
# No path is written into it, so that one file does for every layout.
configure_package_config_file(cmake/tameConfig.cmake.in ${PROJECT_BINARY_DIR}/tameConfig.cmake
                              INSTALL_DESTINATION cmake/tame NO_SET_AND_CHECK_MACRO)
export(TARGETS tame NAMESPACE tame:: FILE ${PROJECT_BINARY_DIR}/tameTargets.cmake)

# The same files serve pkg-config, which need not have the other libraries' own files unless the
# program is linked with them: Requires.private would ask for those in any case.
list(TRANSFORM TAME_CXX_LIBRARIES PREPEND "-l" OUTPUT_VARIABLE TAME_PC_FLAGS)
string(REPLACE ";" " " TAME_PC_FLAGS "${TAME_PC_FLAGS};-lpthread;-ldl")
if(BUILD_SHARED_LIBS)
  list(TRANSFORM TAME_PC_NAMES PREPEND "-l" OUTPUT_VARIABLE TAME_PC_PRIVATE)
  string(REPLACE ";" " " TAME_PC_FIELDS "Libs.private: ${TAME_PC_PRIVATE} ${TAME_PC_FLAGS}")
  set(TAME_PC_LIBS "")
  set(TAME_PC_CFLAGS "")
else()
  string(REPLACE ";" " " TAME_PC_FIELDS "Requires: ${TAME_PC_REQUIRES}")
  set(TAME_PC_LIBS " ${TAME_PC_FLAGS}")
  set(TAME_PC_CFLAGS " -DTAME_STATIC")
endif()

# tame_install(LIBDIR RUNTIME DEVELOPMENT [EXCLUDE_FROM_ALL]): libtame with its libraries in LIBDIR,
# as two components.
function(tame_install libdir runtime development)
  install(TARGETS tame EXPORT tame-${development}
          LIBRARY DESTINATION ${libdir} COMPONENT ${runtime} NAMELINK_COMPONENT ${development} ${ARGN}
          ARCHIVE DESTINATION ${libdir} COMPONENT ${development} ${ARGN}
          RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT ${runtime} ${ARGN})
  install(DIRECTORY include/tame DESTINATION ${CMAKE_INSTALL_INCLUDEDIR}
          COMPONENT ${development} ${ARGN})
  install(EXPORT tame-${development} NAMESPACE tame:: FILE tameTargets.cmake
          DESTINATION ${libdir}/cmake/tame COMPONENT ${development} ${ARGN})
  install(FILES ${PROJECT_BINARY_DIR}/tameConfig.cmake ${PROJECT_BINARY_DIR}/tameConfigVersion.cmake
                cmake/FindNettle.cmake
          DESTINATION ${libdir}/cmake/tame COMPONENT ${development} ${ARGN})

  # pkg-config resolves ${pcfiledir}; how far the prefix is from there depends on the layout.
  if(IS_ABSOLUTE "${libdir}")
    set(TAME_PC_PREFIX "${CMAKE_INSTALL_PREFIX}")
    set(TAME_PC_LIBDIR "${libdir}")
  else()
    file(RELATIVE_PATH up "/prefix/${libdir}/pkgconfig" "/prefix")
    string(REGEX REPLACE "/$" "" up "${up}")
    set(TAME_PC_PREFIX "\${pcfiledir}/${up}")
    set(TAME_PC_LIBDIR "\${prefix}/${libdir}")
  endif()
  set(TAME_PC_INCLUDEDIR "\${prefix}/${CMAKE_INSTALL_INCLUDEDIR}")
  if(IS_ABSOLUTE "${CMAKE_INSTALL_INCLUDEDIR}")
    set(TAME_PC_INCLUDEDIR "${CMAKE_INSTALL_INCLUDEDIR}")
  endif()
  configure_file(cmake/tame.pc.in ${PROJECT_BINARY_DIR}/pkgconfig/${development}/tame.pc @ONLY)
  install(FILES ${PROJECT_BINARY_DIR}/pkgconfig/${development}/tame.pc
          DESTINATION ${libdir}/pkgconfig COMPONENT ${development} ${ARGN})
endfunction()

tame_install("${CMAKE_INSTALL_LIBDIR}" runtime development)
