// Files and pixels that anybody may have sent: decode_picture, decoded_size and prepare_input.
//
//     clang++ -std=c++17 -g -O1 -DTAME_DECODE -fsanitize=fuzzer,address,undefined \
//       -fno-sanitize-recover=all -Icpp/include -Icpp/src cpp/fuzz/picture.cpp \
//       cpp/src/picture/*.cpp -ljpeg -lpng -lz -o build/fuzz-picture
//     mkdir -p build/found && build/fuzz-picture -max_len=4096 -max_total_time=120 build/found \
//       cpp/fuzz/corpus/picture
#include "picture/picture.hpp"

#include <cstdlib>

#include "error.hpp"

namespace {

using namespace libtame;

constexpr std::int64_t few_pixels = 20'000;

void try_prepare(const Picture& picture, Interpolation interpolation, Crop crop) {
  ImageSpec spec;
  spec.height = 9;
  spec.width = 7;
  spec.resize = 8;
  spec.crop = crop;
  spec.interpolation = interpolation;
  std::uint8_t out[9 * 7 * 3];
  try {
    prepare(picture.view(), spec, out);
  } catch (const Failure&) {
    // too long and narrow
  }
}

/// As grey of 16 bits, padded; and as it would show.
void try_deep(const std::uint8_t* data, std::size_t size, Interpolation interpolation) {
  ImageSpec spec;
  spec.height = 9;
  spec.width = 7;
  spec.mean = {0.5};
  spec.std = {0.5};
  spec.dtype = InputType::uint16;
  spec.crop = Crop::pad;
  spec.interpolation = interpolation;
  Reading reading;
  reading.max_pixels = few_pixels;
  reading.deep = true;
  tame_image image{};
  image.data = data;
  image.size = size;
  std::uint16_t out[9 * 7];
  with_pixels(image, reading, [](const PixelView& view) {
    if (view.format != TAME_RGB) std::abort();
  });
  prepare_input(image, reading, spec, out);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Size head{};
  try {
    head = decoded_size(data, size, few_pixels);
  } catch (const Failure&) {
  }
  try {
    Reading reading;
    reading.max_pixels = few_pixels;
    const Picture picture = decode_picture(data, size, reading);
    if (head != Size{picture.width, picture.height}) std::abort();
    const auto interpolation = static_cast<Interpolation>(size % 4);
    try_prepare(picture, interpolation, Crop::center);
    try_prepare(picture, interpolation, Crop::none);
    try_prepare(picture, interpolation, Crop::pad);
    try_deep(data, size, interpolation);
  } catch (const Failure&) {
  }
  return 0;
}
