/* One picture, classified, from C: consumer-c ARTIFACT PICTURE */
#include <stdio.h>
#include <stdlib.h>
#include <tame/tame.h>

static void* read_file(const char* path, size_t* size) {
  FILE* file = fopen(path, "rb");
  void* bytes = NULL;
  long length = -1;
  if (file && fseek(file, 0, SEEK_END) == 0) length = ftell(file);
  if (length > 0 && (bytes = malloc((size_t)length)) != NULL) {
    rewind(file);
    *size = fread(bytes, 1, (size_t)length, file);
  }
  if (file) fclose(file);
  return bytes;
}

static int explain(tame_explainer* explainer, const char* path) {
  tame_image image = {0};
  tame_explanation* explanation = NULL;
  tame_score best;
  const char* label = NULL;
  void* bytes = read_file(path, &image.size);
  int failed = 1;
  if (!bytes) {
    fprintf(stderr, "%s: no such file, or it cannot be read\n", path);
    return 1;
  }
  image.struct_size = sizeof image;
  image.format = TAME_ENCODED;
  image.data = bytes;
  if (tame_explain(explainer, &image, 1, NULL, &explanation) == TAME_OK &&
      tame_explanation_top(explanation, 0, 1, &best) == TAME_OK &&
      tame_label(explainer, best.class_id, &label) == TAME_OK) {
    printf("%s %.4f\n", label, (double)best.probability);
    failed = 0;
  } else {
    fprintf(stderr, "%s: %s\n", path, tame_last_error());
  }
  tame_explanation_free(explanation);
  free(bytes);
  return failed;
}

int main(int count, char** given) {
  tame_explainer* explainer = NULL;
  int failed;
  if (count != 3) {
    fprintf(stderr, "usage: consumer-c ARTIFACT PICTURE\n");
    return 2;
  }
  if (tame_open(given[1], NULL, &explainer) != TAME_OK) {
    fprintf(stderr, "%s\n", tame_last_error());
    return 1;
  }
  failed = explain(explainer, given[2]);
  tame_close(explainer);
  return failed;
}
