# tame_strict(TARGET): warnings, and the sanitizers that were asked for. Within a project that chose no
# build type, libtame is fast all the same.
function(tame_strict target)
  if(NOT MSVC)
    # GCC's optimiser sees std::variant members of the wrong kind.
    set(TAME_QUIET $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized>)
    target_compile_options(${target} PRIVATE -Wall -Wextra -Wpedantic -Wshadow -Wconversion
                           -Wno-sign-conversion ${TAME_QUIET} $<$<BOOL:${TAME_WERROR}>:-Werror> $<$<CONFIG:>:-O2>)
    if(TAME_SANITIZE)
      target_compile_options(${target} PRIVATE -fsanitize=${TAME_SANITIZE} -fno-omit-frame-pointer
                             -fno-sanitize-recover=all)
      target_link_options(${target} PUBLIC -fsanitize=${TAME_SANITIZE})
    endif()
  endif()
endfunction()
