# What `cmake --install` puts where, so that find_package(tame) and pkg-config find it, wherever
# the tree is moved to.
include(CMakePackageConfigHelpers)

set(TAME_CMAKE_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/tame)
install(TARGETS tame EXPORT tameTargets
        LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT runtime NAMELINK_COMPONENT development
        ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT development
        RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT runtime)
install(DIRECTORY include/tame DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT development)

install(EXPORT tameTargets NAMESPACE tame:: DESTINATION ${TAME_CMAKE_DIR} COMPONENT development)
export(EXPORT tameTargets NAMESPACE tame:: FILE ${PROJECT_BINARY_DIR}/tameTargets.cmake)
configure_package_config_file(cmake/tameConfig.cmake.in ${PROJECT_BINARY_DIR}/tameConfig.cmake
                              INSTALL_DESTINATION ${TAME_CMAKE_DIR})
# Before 1.0, a new minor version may change what stands in the header.
write_basic_package_version_file(${PROJECT_BINARY_DIR}/tameConfigVersion.cmake
                                 COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/tameConfig.cmake ${PROJECT_BINARY_DIR}/tameConfigVersion.cmake
        DESTINATION ${TAME_CMAKE_DIR} COMPONENT development)

# pkg-config resolves ${pcfiledir}; how far the prefix is from there depends on the layout.
file(RELATIVE_PATH TAME_PC_PREFIX "/prefix/${CMAKE_INSTALL_LIBDIR}/pkgconfig" "/prefix")
string(REGEX REPLACE "/$" "" TAME_PC_PREFIX "${TAME_PC_PREFIX}")
string(REPLACE ";" " " TAME_PKGCONFIG_REQUIRES "${TAME_PKGCONFIG_REQUIRES}")
if(BUILD_SHARED_LIBS)
  set(TAME_PC_FIELDS "Requires.private: ${TAME_PKGCONFIG_REQUIRES}\nCflags: -I\${includedir}")
else()
  set(TAME_PC_FIELDS "Requires: ${TAME_PKGCONFIG_REQUIRES}\nCflags: -I\${includedir} -DTAME_STATIC")
  set(TAME_PC_LIBS " -lstdc++ -lm -lpthread -ldl")
endif()
configure_file(cmake/tame.pc.in ${PROJECT_BINARY_DIR}/tame.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/tame.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig
        COMPONENT development)
