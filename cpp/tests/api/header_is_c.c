/* Every declaration of tame.h as a C compiler sees it. */
#include <tame/tame.h>

int main(void) {
  tame_options options = {0};
  options.struct_size = sizeof(tame_options);
  tame_explainer* explainer = NULL;
  tame_status status = tame_open("nowhere", &options, &explainer);
  return status == TAME_OK ? 1 : (int)(tame_last_error()[0] == '\0');
}
