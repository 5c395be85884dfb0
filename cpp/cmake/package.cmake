# `cpack` in the build folder: one archive; `cpack -G DEB`: libtame0.1 and libtame-dev for Debian.
set(CPACK_PACKAGE_NAME libtame)
set(CPACK_PACKAGE_VENDOR "The tame-deploy maintainers")
set(CPACK_PACKAGE_CONTACT "The tame-deploy maintainers <maintainers@tame-deploy.invalid>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "${PROJECT_DESCRIPTION}")
set(CPACK_PACKAGE_FILE_NAME
    "libtame-${PROJECT_VERSION}-${CMAKE_SYSTEM_NAME}-${CMAKE_SYSTEM_PROCESSOR}")
set(CPACK_GENERATOR TGZ)
set(CPACK_STRIP_FILES ON)
set(CPACK_VERBATIM_VARIABLES ON)
install(FILES cmake/debian/copyright DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/libtame
        COMPONENT runtime)

# Debian splits the library from what programs are built with, and has a folder of libraries for
# each architecture. So its packages have components of their own, which nothing else installs.
if(BUILD_SHARED_LIBS AND UNIX)
  set(runtime libtame${TAME_SOVERSION})
  set(development libtame-dev)
  string(TOUPPER ${runtime} RUNTIME)
  set(libdir lib)
  if(CMAKE_LIBRARY_ARCHITECTURE)
    set(libdir lib/${CMAKE_LIBRARY_ARCHITECTURE})
  endif()
  tame_install(${libdir} ${runtime} ${development} EXCLUDE_FROM_ALL)

  list(APPEND CPACK_GENERATOR DEB)
  set(CPACK_PROJECT_CONFIG_FILE ${PROJECT_BINARY_DIR}/tameCPackDebian.cmake)
  file(WRITE ${CPACK_PROJECT_CONFIG_FILE} "if(CPACK_GENERATOR STREQUAL DEB)
  set(CPACK_COMPONENTS_ALL ${runtime} ${development})\nendif()\n")
  set(CPACK_DEB_COMPONENT_INSTALL ON)
  set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
  set(CPACK_DEBIAN_PACKAGE_VERSION ${PROJECT_VERSION})
  set(CPACK_DEBIAN_PACKAGE_RELEASE 1)
  set(CPACK_DEBIAN_${RUNTIME}_PACKAGE_NAME ${runtime})
  set(CPACK_DEBIAN_${RUNTIME}_PACKAGE_SECTION libs)
  set(CPACK_DEBIAN_${RUNTIME}_PACKAGE_SHLIBDEPS ON)
  set(CPACK_DEBIAN_${RUNTIME}_PACKAGE_CONTROL_EXTRA ${PROJECT_SOURCE_DIR}/cmake/debian/triggers)
  set(CPACK_DEBIAN_PACKAGE_GENERATE_SHLIBS ON)
  set(CPACK_DEBIAN_PACKAGE_GENERATE_SHLIBS_POLICY ">=")
  set(CPACK_DEBIAN_LIBTAME-DEV_PACKAGE_NAME ${development})
  set(CPACK_DEBIAN_LIBTAME-DEV_PACKAGE_SECTION libdevel)
  set(CPACK_DEBIAN_LIBTAME-DEV_PACKAGE_DEPENDS
      "${runtime} (= ${PROJECT_VERSION}-${CPACK_DEBIAN_PACKAGE_RELEASE})")
  set(CPACK_COMPONENT_${RUNTIME}_DESCRIPTION
      "Classifies pictures and shows where the classifier looked, from artifacts of
tame-deploy, on ONNX Runtime, OpenVINO or TensorRT.")
  set(CPACK_COMPONENT_LIBTAME-DEV_DESCRIPTION
      "Headers, and files of CMake and pkg-config, for programs with libtame.")

  # What Debian wants in every package: the licence, and a history, packed.
  configure_file(cmake/debian/changelog.in changelog.Debian @ONLY)
  execute_process(COMMAND gzip -9 -n -c changelog.Debian OUTPUT_FILE changelog.Debian.gz
                  WORKING_DIRECTORY ${PROJECT_BINARY_DIR})
  foreach(package ${runtime} ${development})
    install(FILES cmake/debian/copyright ${PROJECT_BINARY_DIR}/changelog.Debian.gz
            DESTINATION share/doc/${package} COMPONENT ${package} EXCLUDE_FROM_ALL)
  endforeach()
endif()
include(CPack)
