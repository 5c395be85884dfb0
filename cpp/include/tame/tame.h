/* libtame: image classifiers that explain themselves, from C.
 *
 *     #include <stdio.h>
 *     #include <tame/tame.h>
 *
 *     int main(void) {
 *       tame_explainer *explainer = NULL;
 *       if (tame_open("build/demo", NULL, &explainer) != TAME_OK) {
 *         fprintf(stderr, "%s\n", tame_last_error());
 *         return 1;
 *       }
 *       static uint8_t pixels[480 * 640 * 3]; // RGB from anywhere
 *       tame_image image = {.struct_size = sizeof image, .format = TAME_RGB, .data = pixels,
 *                           .width = 640, .height = 480};
 *       tame_explanation *explanation = NULL;
 *       if (tame_explain(explainer, &image, 1, NULL, &explanation) == TAME_OK) {
 *         tame_view view = {.struct_size = sizeof view};
 *         tame_explanation_view(explanation, &view);
 *         const char *label = "";
 *         tame_label(explainer, view.class_ids[0], &label); // and view.maps: where it saw that
 *         printf("%s\n", label);
 *         tame_explanation_free(explanation);
 *       }
 *       tame_close(explainer);
 *     }
 *
 * Functions return a status: TAME_OK, a negative number where nothing is wrong and nothing came, or
 * an error, whose message `tame_last_error` has for the thread that made the call. No function
 * throws, exits, prints, or starts another program.
 *
 * Handles (explainers, explanations, streams) are numbers in the guise of pointers: one that is used
 * after it was closed is answered TAME_BACKEND_ERROR; one that is closed again, or never was one,
 * TAME_INPUT_ERROR. Every function may be called from any thread at any time; what a function may not
 * be called beside is said where it stands.
 *
 * Structs that may grow begin with `struct_size`, set by the caller to sizeof: callers that were
 * compiled with an older header go on working. Fields that are left zero mean the default. In an
 * array of tame_image, it is also the way from one picture to the next. Only `tame_score` stays as it
 * is.
 *
 * After fork(), only the process that opened a handle may use it: in a child, it is answered
 * TAME_BACKEND_ERROR, and closing it does nothing.
 *
 * Tensors are dense, in row-major order: logits (N, C) float32, class_ids (N, K) int64, maps
 * (N, K, h, w) float32, in [0, 1], or [-1, 1] for differences, unless the artifact gives raw logits.
 */
#ifndef TAME_TAME_H
#define TAME_TAME_H

#include <stddef.h>
#include <stdint.h>

#include "image.h"

#if defined(TAME_STATIC)
#define TAME_API
#elif defined(_WIN32)
#ifdef TAME_BUILDING
#define TAME_API __declspec(dllexport)
#else
#define TAME_API __declspec(dllimport)
#endif
#else
#define TAME_API __attribute__((visibility("default")))
#endif

#define TAME_VERSION_MAJOR 0
#define TAME_VERSION_MINOR 1
#define TAME_VERSION_PATCH 0

#ifdef __cplusplus
extern "C" {
#endif

/* ------------------------------------------------------------------ statuses and messages */

/** What a call came to. The tens digit is the family: TAME_CHECKSUM_ERROR is a TAME_ARTIFACT_ERROR.
 *
 * The families and names are those of the Python package's errors (tame_deploy/errors.py).
 */
typedef enum tame_status {
  TAME_END = -1,       /**< the stream has ended: no more results will come */
  TAME_TIMED_OUT = -2, /**< nothing came, or nothing could be taken, within the time given */
  TAME_OK = 0,
  TAME_ERROR = 1,                /**< a fault of libtame itself; please report it */
  TAME_MEMORY_ERROR = 2,         /**< out of memory */
  TAME_ARTIFACT_ERROR = 10,      /**< an artifact directory cannot be used */
  TAME_MANIFEST_ERROR = 11,      /**< manifest.json is missing, malformed or inconsistent */
  TAME_CHECKSUM_ERROR = 12,      /**< a file is not the one that the manifest names */
  TAME_INCOMPATIBLE_ERROR = 13,  /**< made for another version, graph or machine */
  TAME_INPUT_ERROR = 20,         /**< a picture, class, handle or option that cannot be honoured */
  TAME_BACKEND_ERROR = 30,       /**< the inference library failed */
  TAME_NOT_INSTALLED_ERROR = 31, /**< the inference library was not found */
  TAME_DEVICE_ERROR = 32,        /**< the device or precision asked for was not obtained */
  TAME_PARITY_ERROR = 40         /**< a graph is computed otherwise here than it was made */
} tame_status;

/** Name of a status as the Python package has it, such as "ChecksumError"; never NULL. */
TAME_API const char* tame_status_name(tame_status status);

/** The last error of this thread, one line of UTF-8; "" if there was none.
 *
 * Valid until this thread's next call of a function that returns a status.
 */
TAME_API const char* tame_last_error(void);

/** What this thread's last call noticed and went on with, one line of UTF-8; "" if that is nothing.
 *
 * Today: a picture in 16-bit grey whose levels fill so little of their range that it comes out
 * nearly black (see `window_high` of tame_options). Of several pictures, the last such one;
 * tame_explain says its number, as in errors: "picture 2: ...".
 *
 * Valid until this thread's next call of a function that opens, or reads pictures: looking into an
 * explanation and freeing it keep it.
 */
TAME_API const char* tame_last_warning(void);

/** Version of the library, as "0.1.0". Compare it with TAME_VERSION_*: the header's. */
TAME_API const char* tame_version(void);

/* ------------------------------------------------------------------ opening and closing */

typedef struct tame_explainer tame_explainer;

/** How an artifact is run. */
typedef struct tame_options {
  size_t struct_size;     /**< sizeof(tame_options) */
  const char* backend;    /**< "onnxruntime" (default), "openvino"; experimental, as they
                             have not run on a GPU yet: "tensorrt", "tensorrt-rtx" */
  const char* library;    /**< path of the backend's library, or the directory that holds it; by
                             default it is looked for (docs/cpp.md says where) */
  const char* precision;  /**< OpenVINO: "fp32" (default: the artifact's own) or "bf16" */
  const char* engine;     /**< TensorRT: name of the engine in engines/, to take no other */
  int32_t threads;        /**< CPU threads of one operation, and that prepare pictures;
                             0 is one a core */
  int32_t streams;        /**< TensorRT, OpenVINO: calls that run at a time; 0 is 2 */
  int32_t device;         /**< TensorRT: number of the GPU */
  int32_t no_cuda_graphs; /**< TensorRT: 1 to start kernels one by one */
  int64_t max_pixels;     /**< larger pictures are refused, files before they are decoded; 0 is
                             89 million, the most 250 million */
  int32_t window_low;     /**< levels of 16-bit grey that become 0 and 255, lower and higher */
  int32_t window_high;    /**< ones are clipped; 0 and 0 is 0 to 65535 */
} tame_options;

/** Open an artifact: check it as Python does, load the backend, load the graph.
 *
 * @param path       directory of the artifact, UTF-8; not kept
 * @param options    NULL for the defaults; not kept
 * @param explainer  set to a handle that the caller closes; to NULL on an error
 * @return TAME_OK; any artifact or backend error; TAME_INPUT_ERROR for an option
 *
 * Thread-safe. May take seconds for large graphs.
 */
TAME_API tame_status tame_open(const char* path, const tame_options* options,
                               tame_explainer** explainer);

/** Close an explainer. NULL does nothing.
 *
 * Calls that run in other threads end as usual, and memory is freed after them; later ones are
 * answered TAME_BACKEND_ERROR. Its streams are closed with it, its explanations stay valid.
 */
TAME_API tame_status tame_close(tame_explainer* explainer);

/** What an artifact is. Strings are valid until the explainer is closed. */
typedef struct tame_info {
  size_t struct_size;
  const char* name; /**< of the artifact */
  const char* backbone;
  const char* backend; /**< what runs it and where, in words */
  const char* backend_version;
  const char* precision;  /**< "fp32", "fp16", "int8", "int8+fp16" */
  const char* explain;    /**< "selectable", "predicted" or "all" */
  const char* map_kind;   /**< "minmax", "sigmoid" or "logits" */
  const char* input_type; /**< of the network, of C channels: "uint8" or "uint16" (B, h, w, C), or
                               "float32" (B, C, h, w) */
  int64_t classes;        /**< C */
  int64_t ranks;          /**< how many of the likeliest classes -1 may stand for */
  int32_t input_width, input_height; /**< of the network's picture */
  int32_t map_width, map_height;     /**< of a map */
  int32_t speed_only;                /**< 1 if weights are random: answers mean nothing */
  const char* task; /**< "multiclass": probabilities are a softmax; "multilabel": a sigmoid each;
                       "binary": two classes, against and for, of one logit */
  int32_t input_channels; /**< of the network's picture: 1 is grey, 3 is RGB */
} tame_info;

/** Describe an explainer. @param info its `struct_size` is set by the caller. Thread-safe. */
TAME_API tame_status tame_get_info(tame_explainer* explainer, tame_info* info);

/** Name of a class. @param label set to UTF-8 text that is valid until the explainer is closed. */
TAME_API tame_status tame_label(tame_explainer* explainer, int64_t class_id, const char** label);

/** The class with a name, whatever its ASCII capitals. */
TAME_API tame_status tame_class_id(tame_explainer* explainer, const char* label, int64_t* class_id);

/* ------------------------------------------------------------------ pictures */

/** Width and height of a picture as people see it, after EXIF rotation; at most 250 million
 * pixels. Thread-safe. */
TAME_API tame_status tame_image_size(const tame_image* image, int32_t* width, int32_t* height);

/** Write a picture, of at most 250 million pixels, as RGB.
 *
 * @param rgb     height * stride bytes of the caller's (see `tame_image_size`)
 * @param size    bytes at `rgb`
 * @param stride  bytes from a row to the next; 0 means rows without a gap
 *
 * Thread-safe.
 */
TAME_API tame_status tame_decode(const tame_image* image, uint8_t* rgb, size_t size, size_t stride);

/** Resize and crop a picture to the network's, as the manifest says.
 *
 * @param tensor  of the caller's: `input_type` of tame_info, without the batch
 * @param size    bytes at `tensor`: C * h * w for uint8, twice that for uint16, four times for
 *                float32
 *
 * Thread-safe.
 */
TAME_API tame_status tame_prepare(tame_explainer* explainer, const tame_image* image, void* tensor,
                                  size_t size);

/* ------------------------------------------------------------------ explaining */

typedef struct tame_explanation tame_explanation;

/** What to explain. */
typedef struct tame_request {
  size_t struct_size;
  const int64_t* class_ids; /**< K classes for all pictures, or N rows of K; -1 in place j is the
                                 j-th likeliest. NULL: see `top` */
  size_t class_count;       /**< K */
  size_t class_rows;        /**< rows of `class_ids`: 0 or 1 (for all pictures), or N */
  int32_t top;              /**< instead: how many of the likeliest; 0 is 1 */
  int32_t map_width, map_height; /**< resize maps bilinearly; 0 and 0: as the network gives them */
  int32_t batch_size;            /**< pictures that go through the graph at a time; 0 is 8 */
  const int64_t* versus; /**< one class: why each of the others and not this one. A map is then the
                              difference of two, negative where it speaks for this; NULL: alone */
} tame_request;

/** Classify pictures and show where the network looked.
 *
 * @param images       N pictures, each of any size and format; not kept
 * @param request      NULL for the likeliest class of each
 * @param explanation  set to a handle that the caller frees; to NULL on an error
 * @return TAME_OK; TAME_INPUT_ERROR naming the picture or class; TAME_BACKEND_ERROR
 *
 * Thread-safe: any number of threads may explain with one handle.
 */
TAME_API tame_status tame_explain(tame_explainer* explainer, const tame_image* images, size_t count,
                                  const tame_request* request, tame_explanation** explanation);

/** As `tame_explain`, from the network's own input: uint8 (N, h, w, 3) or normalised float32
 * (N, 3, h, w), as `input_type` of tame_info says.
 *
 * @param size  bytes at `tensor`
 */
TAME_API tame_status tame_explain_prepared(tame_explainer* explainer, const void* tensor,
                                           size_t size, size_t count, const tame_request* request,
                                           tame_explanation** explanation);

/** The arrays of an explanation: valid, and unchanging, until it is freed. */
typedef struct tame_view {
  size_t struct_size;
  const float* logits;      /**< (count, classes) */
  const int64_t* class_ids; /**< (count, explained): which classes `maps` explain */
  const float* maps;        /**< (count, explained, map_height, map_width) */
  size_t count, classes, explained, map_height, map_width;
  const int64_t* versus_ids; /**< (count, explained): what each is contrasted with, -1 for nothing.
                                  Where it is the class itself, the map is 0 */
} tame_view;

/** Look into an explanation. @param view its `struct_size` is set by the caller. Thread-safe. */
TAME_API tame_status tame_explanation_view(const tame_explanation* explanation, tame_view* view);

/** A class and its probability, as `task` of tame_info says. */
typedef struct tame_score {
  int64_t class_id;
  float probability;
} tame_score;

/** The likeliest classes of one picture, likeliest first.
 *
 * @param index   which picture
 * @param scores  `count` places of the caller's; `count` is 1 to the number of classes
 */
TAME_API tame_status tame_explanation_top(const tame_explanation* explanation, size_t index,
                                          size_t count, tame_score* scores);

/** Free an explanation. NULL does nothing; views of it may not be used any more. */
TAME_API tame_status tame_explanation_free(tame_explanation* explanation);

/** Lay a map of an explanation over its picture, as RGB; what the network did not see is dimmed.
 *
 * A difference of two maps is orange where it speaks for the class, blue for the other.
 *
 * @param image     the picture that was explained; nobody can tell if it is another
 * @param index     which picture of the explanation, and
 * @param place     which of its explained classes
 * @param strength  opacity in [0, 1] where the map is highest; Python's default is 0.75
 * @param rgb       width * height of the picture, of the caller's
 * @param size      bytes at `rgb`
 * @param stride    bytes from a row to the next; 0 means rows without a gap
 *
 * Thread-safe.
 */
TAME_API tame_status tame_overlay(tame_explainer* explainer, const tame_image* image,
                                  const tame_explanation* explanation, size_t index, size_t place,
                                  float strength, uint8_t* rgb, size_t size, size_t stride);

/* ------------------------------------------------------------------ streams */

typedef struct tame_stream tame_stream;

/** How a stream runs. */
typedef struct tame_stream_options {
  size_t struct_size;
  int32_t capacity;   /**< pictures that are on their way at most; 0 is 32 */
  int32_t batch_size; /**< of those that wait, how many go through the graph at a time; 0 is 8 */
} tame_stream_options;

/** Open a queue of pictures whose explanations come out in order, in bounded memory.
 *
 * @param request  as for `tame_explain`, with one row of classes; NULL for the likeliest; copied
 * @param options  NULL for the defaults
 * @param stream   set to a handle that the caller closes
 */
TAME_API tame_status tame_stream_open(tame_explainer* explainer, const tame_request* request,
                                      const tame_stream_options* options, tame_stream** stream);

/** Put a picture into a stream. It is prepared in the calling thread: its memory is the caller's
 * again when this returns. Waits while the stream is full.
 *
 * @param timeout_ms  how long to wait: 0 not at all, negative for ever
 * @param index       set to the number of the picture, from 0; may be NULL
 * @return TAME_OK; TAME_TIMED_OUT while it is full; TAME_END if it was closed meanwhile;
 *         TAME_INPUT_ERROR for a picture that cannot be read, which takes no place in the stream;
 *         TAME_BACKEND_ERROR for a stream that was closed before
 *
 * Thread-safe; pictures of several threads come in some order.
 */
TAME_API tame_status tame_stream_push(tame_stream* stream, const tame_image* image,
                                      int64_t timeout_ms, uint64_t* index);

/** Say that no more pictures will come. Thread-safe; again does nothing. */
TAME_API tame_status tame_stream_finish(tame_stream* stream);

/** Take the next explanation, of one picture.
 *
 * @param timeout_ms   how long to wait: 0 not at all, negative for ever
 * @param index        set to the number of the picture; may be NULL
 * @param explanation  set to a handle that the caller frees; to NULL unless TAME_OK
 * @return TAME_OK; TAME_TIMED_OUT; TAME_END after the last one of a finished stream; the error of
 *         this picture's batch
 *
 * Thread-safe.
 */
TAME_API tame_status tame_stream_pop(tame_stream* stream, int64_t timeout_ms, uint64_t* index,
                                     tame_explanation** explanation);

/** Close a stream, dropping what was not taken. NULL does nothing.
 *
 * Waits for the batch that runs. Calls that wait in other threads return TAME_END. One that
 * ended with its explainer is closed all the same.
 */
TAME_API tame_status tame_stream_close(tame_stream* stream);

/* ------------------------------------------------------------------ GPU memory */

/** Tensors on the GPU, dense, at addresses that are multiples of 256 bytes. */
typedef struct tame_device_call {
  size_t struct_size;
  size_t count;             /**< N */
  size_t explained;         /**< K */
  const void* images;       /**< `input_type` of tame_info */
  const int64_t* class_ids; /**< (N, K), as the graph takes them; NULL where it takes none */
  float* logits;            /**< (N, C) */
  int64_t* explained_ids;   /**< (N, K), likewise */
  float* maps;              /**< (N, K, h, w) */
  void* cuda_stream;        /**< cudaStream_t of the caller's; NULL is the default stream */
} tame_device_call;

/** Queue one explanation on the caller's CUDA stream, and return at once. Backend "tensorrt", so
 * experimental: it has not run on a GPU yet.
 *
 * Where CUDA graphs are on, the second call of a size waits for the stream, once, to capture one.
 * Inputs may be changed, and outputs read, by later work of that stream. One profile of the engine
 * must hold N and K.
 *
 * @return TAME_OK; TAME_INPUT_ERROR for another backend, sizes that fit no profile, or addresses;
 *         TAME_BACKEND_ERROR
 *
 * Thread-safe; calls on one stream run in order.
 */
TAME_API tame_status tame_run_on_device(tame_explainer* explainer, const tame_device_call* call);

#ifdef __cplusplus
}
#endif

#endif /* TAME_TAME_H */
