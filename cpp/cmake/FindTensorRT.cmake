# Finds TensorRT or TensorRT-RTX below TensorRT_ROOT (a variable or in the environment) or where the
# system has it, and gives
#
#   TensorRT::TensorRT  headers and runtime library
#   TensorRT_FLAVOUR    tensorrt or tensorrt-rtx: whose headers they are
#   TensorRT_VERSION    of the headers, three numbers
#
# Headers of the one are never paired with the library of the other: it would load, and crash.
find_path(TensorRT_INCLUDE_DIR NvInferRuntime.h PATH_SUFFIXES include)
set(_tensorrt_version_header "${TensorRT_INCLUDE_DIR}/NvInferVersion.h")

# A number from the version header, whichever name it has there: TensorRT 10 and later define
# NV_TENSORRT_MAJOR as the name of another macro.
function(_tensorrt_number part result)
  set(found "")
  if(EXISTS "${_tensorrt_version_header}")
    foreach(name ${ARGN} NV_TENSORRT_${part})
      file(STRINGS "${_tensorrt_version_header}" line
           REGEX "^#define[ \t]+${name}[ \t]+[0-9]+" LIMIT_COUNT 1)
      if(line AND NOT found)
        string(REGEX REPLACE "^#define[ \t]+${name}[ \t]+([0-9]+).*" "\\1" found "${line}")
      endif()
    endforeach()
  endif()
  set(${result} "${found}" PARENT_SCOPE)
endfunction()

_tensorrt_number(none _tensorrt_rtx TRT_MAJOR_RTX)
if(_tensorrt_rtx STREQUAL "")
  set(TensorRT_FLAVOUR tensorrt)
  set(_tensorrt_kind ENTERPRISE)
  set(_tensorrt_names nvinfer)
else()
  set(TensorRT_FLAVOUR tensorrt-rtx)
  set(_tensorrt_kind RTX)
  set(_tensorrt_names tensorrt_rtx)
endif()
foreach(part MAJOR MINOR PATCH)
  _tensorrt_number(${part} _tensorrt_${part} TRT_${part}_${_tensorrt_kind})
endforeach()
set(TensorRT_VERSION "")
if(NOT _tensorrt_MAJOR STREQUAL "")
  set(TensorRT_VERSION "${_tensorrt_MAJOR}.${_tensorrt_MINOR}.${_tensorrt_PATCH}")
endif()

# Of another major version, a library is not even called the same: libnvinfer.so.10, nvinfer_10.
find_library(TensorRT_LIBRARY
             NAMES ${_tensorrt_names} ${_tensorrt_names}_${_tensorrt_MAJOR}
                   lib${_tensorrt_names}.so.${_tensorrt_MAJOR}
             PATH_SUFFIXES lib lib64)
set(_tensorrt_reason "set TensorRT_ROOT to the folder with its include/ and lib/")
if(TensorRT_LIBRARY AND TensorRT_VERSION)
  get_filename_component(_tensorrt_file "${TensorRT_LIBRARY}" REALPATH)
  if(_tensorrt_file MATCHES "\\.so\\.([0-9]+)" AND NOT CMAKE_MATCH_1 EQUAL _tensorrt_MAJOR)
    set(_tensorrt_reason
        "headers are of ${TensorRT_FLAVOUR} ${TensorRT_VERSION}, ${_tensorrt_file} is of ${CMAKE_MATCH_1}")
    set(TensorRT_VERSION "")
  endif()
elseif(TensorRT_VERSION)
  set(_tensorrt_reason
      "headers are of ${TensorRT_FLAVOUR} ${TensorRT_VERSION}, found no lib${_tensorrt_names}.so")
endif()
# A context that is given its memory with its size came with 10.1; strategies of graphs with RTX 1.3.
if(TensorRT_VERSION AND TensorRT_FLAVOUR STREQUAL tensorrt AND TensorRT_VERSION VERSION_LESS 10.1)
  set(_tensorrt_reason "found TensorRT ${TensorRT_VERSION}, expected 10.1 or later")
  set(TensorRT_VERSION "")
elseif(TensorRT_VERSION AND TensorRT_FLAVOUR STREQUAL tensorrt-rtx AND TensorRT_VERSION VERSION_LESS 1.3)
  set(_tensorrt_reason "found TensorRT-RTX ${TensorRT_VERSION}, expected 1.3 or later")
  set(TensorRT_VERSION "")
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(
  TensorRT REQUIRED_VARS TensorRT_LIBRARY TensorRT_INCLUDE_DIR TensorRT_VERSION
  VERSION_VAR TensorRT_VERSION REASON_FAILURE_MESSAGE "${_tensorrt_reason}")
if(TensorRT_FOUND AND NOT TARGET TensorRT::TensorRT)
  add_library(TensorRT::TensorRT UNKNOWN IMPORTED)
  set_target_properties(TensorRT::TensorRT PROPERTIES IMPORTED_LOCATION "${TensorRT_LIBRARY}"
                        INTERFACE_INCLUDE_DIRECTORIES "${TensorRT_INCLUDE_DIR}")
endif()
mark_as_advanced(TensorRT_INCLUDE_DIR TensorRT_LIBRARY)
