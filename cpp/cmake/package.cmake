# `cpack` in the build folder: libtame0 and libtame-dev for Debian, or one archive.
set(CPACK_PACKAGE_NAME libtame)
set(CPACK_PACKAGE_VENDOR "The tame-deploy maintainers")
set(CPACK_PACKAGE_CONTACT "The tame-deploy maintainers <maintainers@tame-deploy.invalid>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "${PROJECT_DESCRIPTION}")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_COMPONENTS_ALL runtime development)
set(CPACK_GENERATOR DEB TGZ)
set(CPACK_STRIP_FILES ON)
set(CPACK_VERBATIM_VARIABLES ON)

set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_SECTION libs)
set(CPACK_DEBIAN_RUNTIME_PACKAGE_NAME libtame${PROJECT_VERSION_MAJOR})
set(CPACK_DEBIAN_RUNTIME_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_PACKAGE_GENERATE_SHLIBS ON)
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_NAME libtame-dev)
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_SECTION libdevel)
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_DEPENDS
    "libtame${PROJECT_VERSION_MAJOR} (= ${PROJECT_VERSION})")
set(CPACK_COMPONENT_RUNTIME_DESCRIPTION
    "Classifies pictures and shows where the classifier looked, from artifacts of
tame-deploy, on ONNX Runtime, OpenVINO or TensorRT.")
set(CPACK_COMPONENT_DEVELOPMENT_DESCRIPTION
    "Headers, CMake's and pkg-config's files for programs with libtame.")

# Debian wants the licence in every package.
foreach(component runtime development)
  string(TOUPPER ${component} upper)
  install(FILES cmake/copyright
          DESTINATION ${CMAKE_INSTALL_DATADIR}/doc/${CPACK_DEBIAN_${upper}_PACKAGE_NAME}
          COMPONENT ${component})
endforeach()
include(CPack)
