/* Stands for an ONNX Runtime that is too old: it knows no table of the version asked for. */
#include <stddef.h>
#include <stdint.h>

typedef struct ApiBase {
  const void* (*get_api)(uint32_t version);
  const char* (*get_version)(void);
} ApiBase;

static const void* no_table(uint32_t version) {
  (void)version;
  return NULL;
}

static const char* old_version(void) { return "1.4.0"; }

const ApiBase* OrtGetApiBase(void) {
  static const ApiBase base = {no_table, old_version};
  return &base;
}
