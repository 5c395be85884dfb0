/* libtame for C: what a picture in memory is. Included by tame.h. */
#ifndef TAME_IMAGE_H
#define TAME_IMAGE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/** What `data` of a picture is. */
typedef enum tame_format {
  TAME_ENCODED = 0, /**< the bytes of a JPEG or PNG file; EXIF rotation is applied, and white
                       shows where it is transparent */
  TAME_RGB = 1,     /**< interleaved, 8 bits a channel */
  TAME_BGR = 2,
  TAME_GRAY = 3,
  TAME_RGBA = 4, /**< white shows where it is transparent; alpha is not premultiplied */
  TAME_BGRA = 5,
  TAME_RGBX = 6, /**< the fourth byte is ignored */
  TAME_BGRX = 7,
  TAME_GRAY16 = 8,    /**< 16 bits in the machine's byte order; for a network of 8, scaled as 16-bit
                      grey files are (see `window_high` of tame_options) */
  TAME_RGB16 = 9,     /**< interleaved, 16 bits a channel; for a network of 8, the upper 8 count */
  TAME_NV12 = 10,     /**< Y in full, then U and V in turns, one of each for 2x2 pixels */
  TAME_I420 = 11,     /**< Y in full, then U, then V, one of each for 2x2 pixels */
  TAME_CHANNELS = 12, /**< `channels` of 8 bits, interleaved, for a network of as many */
  TAME_CHANNELS16 = 13 /**< `channels` of 16 bits in the machine's byte order, interleaved */
} tame_format;

/** How YUV stands for RGB (docs/pictures.md has the formula). Cameras and video files say which; by
 * habit, BT.601 is for standard definition, BT.709 for high, and FULL for pictures of JPEG. */
typedef enum tame_color {
  TAME_BT601_LIMITED = 0, /**< Y from 16 to 235, U and V from 16 to 240 */
  TAME_BT601_FULL = 1,    /**< all from 0 to 255 */
  TAME_BT709_LIMITED = 2,
  TAME_BT709_FULL = 3
} tame_color;

/** A picture in the caller's memory, read during the call only. */
typedef struct tame_image {
  size_t struct_size;    /**< sizeof(tame_image), the same for all pictures of an array */
  int32_t format;        /**< a tame_format */
  int32_t width, height; /**< pixels, 1 to 65535; ignored for TAME_ENCODED */
  int32_t color;         /**< YUV: a tame_color */
  const void* data;      /**< YUV: the Y plane */
  size_t size;   /**< bytes at `data`; 0, where it is not TAME_ENCODED, trusts the other fields */
  size_t stride; /**< bytes from a row to the next; 0 means rows without a gap */
  /** YUV: the plane of U and V, and NULL; or that of U, and that of V. NULL and NULL: each plane
   * begins where the rows of the one before end. */
  const void* chroma[2];
  size_t chroma_size;   /**< bytes at each of `chroma`; 0 trusts the other fields */
  size_t chroma_stride; /**< 0: as `stride` (half of it for I420), which may be 0 itself */
  int32_t channels;     /**< TAME_CHANNELS and TAME_CHANNELS16: how many, 1 to 1024 */
} tame_image;

#ifdef __cplusplus
}
#endif

#endif /* TAME_IMAGE_H */
