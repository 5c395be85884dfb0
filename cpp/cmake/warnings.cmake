# tame_strict(TARGET): warnings, and the sanitizers that were asked for.
function(tame_strict target)
  if(NOT MSVC)
    target_compile_options(${target} PRIVATE -Wall -Wextra -Wpedantic -Wshadow -Wconversion
                           -Wno-sign-conversion $<$<BOOL:${TAME_WERROR}>:-Werror>)
    if(TAME_SANITIZE)
      target_compile_options(${target} PRIVATE -fsanitize=${TAME_SANITIZE} -fno-omit-frame-pointer
                             -fno-sanitize-recover=all)
      target_link_options(${target} PUBLIC -fsanitize=${TAME_SANITIZE})
    endif()
  endif()
endfunction()
