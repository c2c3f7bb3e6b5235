/* The per-frame work around a network, in C: frame -> input, heatmap -> overlay.
 *
 * Pictures are 8-bit, three channels interleaved, rows `stride` bytes apart. Every function returns 0, or -1 when a
 * size is out of range; nothing is written then. `threads` is 1 or more; a call starts and ends its own.
 * The CUDA twins (kernels_cuda.h) give the same bytes: both take them from src/definition.h.
 */
#ifndef DKCAM_KERNELS_H
#define DKCAM_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const uint8_t *data;
    ptrdiff_t stride; /* bytes from row to row */
    int height, width;
} dkcam_picture;

typedef struct {
    uint8_t *data;
    ptrdiff_t stride;
    int height, width;
} dkcam_target;

/* Where the frame lies in the network's input: frame pixel i is centred at (i + 0.5) * scale + offset input pixels. */
typedef struct {
    int height, width; /* of the input, in pixels */
    double scale_y, scale_x;
    int offset_y, offset_x;
} dkcam_fit;

/* Shrink by area averaging and exchange the first and third channel (BGR to RGB): `rgb` is at most as large as `bgr`. */
int dkcam_shrink(dkcam_picture bgr, dkcam_target rgb, int threads);

/* The same, then (value / 255 - mean) / std in float32, one plane a channel: planes[c * plane + y * row + x]. */
int dkcam_shrink_normalised(dkcam_picture bgr, float *planes, ptrdiff_t plane, ptrdiff_t row, int height, int width,
                            const float mean[3], const float std[3], int threads);

/* Draw `count` heatmaps (float32 [count, cells_high, cells_wide], >= 0, each scaled by its own maximum) over a frame.
 *
 * tables: uint32 [count, 256], one entry a level 0..255: bytes 0, 1, 2 are added to the frame's channels after those
 * were multiplied by (byte 3 + 1) / 256. Entry 0 of 0xff000000 leaves cold places as they are.
 * tint 0: `out` is count * width wide, a picture for each heatmap. tint 1: `out` is width wide, all heatmaps in one
 * picture, first to last.
 */
int dkcam_overlay(dkcam_picture frame, const float *heat, int count, int cells_high, int cells_wide, dkcam_fit fit,
                  const uint32_t *tables, int tint, dkcam_target out, int threads);

#ifdef __cplusplus
}
#endif
#endif
