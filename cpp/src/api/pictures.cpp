// tame.h: pictures.
#include <cstring>

#include "boundary.hpp"
#include "explain/output.hpp"

extern "C" {

using namespace libtame;

tame_status tame_image_size(const tame_image* image, int32_t* width, int32_t* height) {
  return guarded([&] {
    const tame_image given = checked_image(image);
    checked_pointer(width, "width");
    checked_pointer(height, "height");
    const Size size = checked_size(given, most_pixels);
    *width = size[0];
    *height = size[1];
  });
}

tame_status tame_decode(const tame_image* image, uint8_t* rgb, size_t size, size_t stride) {
  return guarded([&] {
    // The caller has seen the size, and brings the memory.
    Reading reading;
    reading.max_pixels = most_pixels;
    with_pixels(checked_image(image), reading, [&](const PixelView& pixels) {
      const std::size_t row = checked_output(rgb, size, stride, {pixels.width, pixels.height});
      write_rgb(pixels, rgb, row);
    });
  });
}

tame_status tame_prepare(tame_explainer* explainer, const tame_image* image, void* tensor,
                         size_t size) {
  return guarded([&] {
    const auto opened = explainers().get(explainer);
    const ImageSpec& spec = opened->manifest().image;
    if (spec.dtype == InputType::float32) checked_pointer(static_cast<float*>(tensor), "tensor");
    if (spec.dtype == InputType::uint16) checked_pointer(static_cast<uint16_t*>(tensor), "tensor");
    checked_pointer(static_cast<char*>(tensor), "tensor");
    if (size != spec.input_bytes()) {
      fail(TAME_INPUT_ERROR, "found ", size, " bytes for a picture of the network; expected ",
           spec.input_bytes());
    }
    opened->prepare(checked_image(image), tensor);
  });
}

tame_status tame_overlay(tame_explainer* explainer, const tame_image* image,
                         const tame_explanation* explanation, size_t index, size_t place,
                         float strength, uint8_t* rgb, size_t size, size_t stride) {
  return guarded([&] {
    const auto opened = explainers().get(explainer);
    const auto found = explanations().get(explanation);
    opened->overlay(checked_image(image), *found, index, place, static_cast<double>(strength), rgb,
                    size, stride);
  });
}

}  // extern "C"
