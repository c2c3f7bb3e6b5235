/* The CUDA twins of kernels.h: the same results, byte for byte, for pictures, heatmaps and tables in GPU memory.
 *
 * A call only puts work on `stream` (a cudaStream_t; NULL is the default stream) and returns at once: 0, -1 when a size
 * is out of range, else the cudaError_t of the launch. No memory is allocated, so calls can be captured into a CUDA
 * graph. `mean`, `std` and `fit` are read before the call returns; all other pointers are device pointers.
 */
#ifndef DKCAM_KERNELS_CUDA_H
#define DKCAM_KERNELS_CUDA_H

#include "dkcam/kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

/* As dkcam_shrink. Neither side may shrink by more than DKCAM_CUDA_MOST_SHRINK. */
#define DKCAM_CUDA_MOST_SHRINK 126
int dkcam_cuda_shrink(dkcam_picture bgr, dkcam_target rgb, void *stream);

/* As dkcam_shrink_normalised. */
int dkcam_cuda_shrink_normalised(dkcam_picture bgr, float *planes, ptrdiff_t plane, ptrdiff_t row, int height, int width,
                                 const float mean[3], const float std[3], void *stream);

/* As dkcam_overlay; `out` may not overlap `frame`. */
int dkcam_cuda_overlay(dkcam_picture frame, const float *heat, int count, int cells_high, int cells_wide, dkcam_fit fit,
                       const uint32_t *tables, int tint, dkcam_target out, void *stream);

#ifdef __cplusplus
}
#endif
#endif
