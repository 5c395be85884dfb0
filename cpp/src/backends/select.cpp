// Which backend runs an artifact.
#include "backend.hpp"

#include "error.hpp"

namespace libtame {

void Backend::run_on_device(const tame_device_call&) {
  fail(TAME_INPUT_ERROR, "backend ", name(), " takes no arrays on a GPU; expected tensorrt");
}

}  // namespace libtame
