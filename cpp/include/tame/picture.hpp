// libtame for C++17: pictures. Included by tame.hpp.
#ifndef TAME_PICTURE_HPP
#define TAME_PICTURE_HPP

#include <cstddef>
#include <cstdint>
#include <fstream>
#include <ios>
#include <iterator>
#include <string>
#include <vector>

#include "error.hpp"
#include "tame.h"

namespace tame {

/// A picture in memory that somebody else owns; `stride` 0 means rows without a gap.
class Image {
 public:
  explicit Image(const tame_image& image) : image_(image) {}

  static Image rgb(const void* data, int width, int height, std::size_t stride = 0) {
    return of(TAME_RGB, data, width, height, stride);
  }
  static Image bgr(const void* data, int width, int height, std::size_t stride = 0) {
    return of(TAME_BGR, data, width, height, stride);
  }
  static Image gray(const void* data, int width, int height, std::size_t stride = 0) {
    return of(TAME_GRAY, data, width, height, stride);
  }
  static Image rgba(const void* data, int width, int height, std::size_t stride = 0) {
    return of(TAME_RGBA, data, width, height, stride);
  }
  static Image bgra(const void* data, int width, int height, std::size_t stride = 0) {
    return of(TAME_BGRA, data, width, height, stride);
  }
  static Image rgbx(const void* data, int width, int height, std::size_t stride = 0) {
    return of(TAME_RGBX, data, width, height, stride);
  }
  static Image bgrx(const void* data, int width, int height, std::size_t stride = 0) {
    return of(TAME_BGRX, data, width, height, stride);
  }

  /// The bytes of a JPEG or PNG file.
  static Image encoded(const void* bytes, std::size_t size) {
    tame_image image{};
    image.format = TAME_ENCODED;
    image.data = bytes;
    image.size = size;
    return Image(image);
  }
  static Image encoded(const std::vector<std::uint8_t>& file) {
    return encoded(file.data(), file.size());
  }

  const tame_image& get() const { return image_; }

 private:
  static Image of(tame_format format, const void* data, int width, int height, std::size_t stride) {
    tame_image image{};
    image.format = format;
    image.data = data;
    image.width = width;
    image.height = height;
    image.stride = stride;
    return Image(image);
  }

  tame_image image_;
};

/// An RGB picture of its own, rows without a gap.
struct Picture {
  int width = 0;
  int height = 0;
  std::vector<std::uint8_t> pixels;

  operator Image() const { return Image::rgb(pixels.data(), width, height); }
};

/// Any picture as upright RGB.
inline Picture decode(const Image& image) {
  std::int32_t width = 0;
  std::int32_t height = 0;
  check(tame_image_size(&image.get(), &width, &height));
  Picture picture{width, height, {}};
  picture.pixels.resize(std::size_t{3} * static_cast<std::size_t>(width) *
                        static_cast<std::size_t>(height));
  check(tame_decode(&image.get(), picture.pixels.data(), picture.pixels.size(), 0));
  return picture;
}

/// The bytes of a file. Throws Error: TAME_INPUT_ERROR if it cannot be read.
inline std::vector<std::uint8_t> read_file(const std::string& path) {
  try {
    std::ifstream stream(path, std::ios::binary);
    if (stream) return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
  } catch (const std::ios_base::failure&) {  // a directory can be opened, and not be read
  }
  throw Error(TAME_INPUT_ERROR, path + ": no such file, or it cannot be read");
}

/// A JPEG or PNG file as upright RGB. Throws Error: TAME_INPUT_ERROR.
inline Picture read_picture(const std::string& path) {
  try {
    return decode(Image::encoded(read_file(path)));
  } catch (const Error& error) {
    const std::string said = error.what();
    throw Error(error.status(), said.rfind(path, 0) == 0 ? said : path + ": " + said);
  }
}

}  // namespace tame

#endif  // TAME_PICTURE_HPP
