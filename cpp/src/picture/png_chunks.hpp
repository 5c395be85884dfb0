// The chunks of a PNG file, as Pillow takes them.
#pragma once

#include "decode.hpp"

namespace libtame {

/// What of a PNG file matters for its pixels, checked so far that libpng can read them.
struct PngFile {
  std::int64_t width = 0;
  std::int64_t height = 0;
  int depth = 0;
  int color = 0;  // PNG's colour type
  int orientation = 1;
  Bytes header;   // chunk IHDR, whole
  Bytes palette;  // contents of PLTE
  Bytes clear;    // contents of tRNS
  Bytes pixels;   // the file from the first IDAT on
};

/// Walk over the chunks. What is wrong with those that do not make pixels is passed over.
/// Throws Failure: TAME_INPUT_ERROR for what Pillow refuses.
PngFile read_chunks(Bytes file);

}  // namespace libtame
