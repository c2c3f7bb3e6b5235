// The CUDA twins: one thread a pixel, with the arithmetic of src/definition.h. Built with --fmad=false.
#ifdef __CUDACC__
#include <cuda_runtime.h>
#else
#include "emulated.h"  // of the tests: threads of the processor in place of the GPU's
#endif

#include "definition.h"
#include "dkcam/kernels_cuda.h"

namespace dkcam {
namespace {

constexpr int kThreads = 128;

template <typename Job>
int launch(void (*kernel)(Job), int across, int down, const Job &job, [[maybe_unused]] void *stream) {
#ifdef __CUDACC__
    kernel<<<dim3(across, down), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(job);
    return static_cast<int>(cudaGetLastError());
#else
    return emulate(kernel, across, down, kThreads, job);
#endif
}

int parts(int pixels, int of) { return (pixels + of - 1) / of; }

// --- shrinking: a block makes kTileHigh x kTileWide outputs; their weights are computed once, together

constexpr int kTileHigh = 4, kTileWide = 32;
constexpr int kMost = DKCAM_CUDA_MOST_SHRINK + 2;
static_assert(kTileHigh * kTileWide == kThreads);

struct Shrink {
    dkcam_picture bgr;
    int height, width;
    dkcam_target rgb;  // its data is null where `planes` is wanted
    float *planes;
    ptrdiff_t plane, row;
    float mean[3], std[3];
};

__global__ void shrink_kernel(Shrink job) {
    __shared__ int16_t row_weights[kTileHigh][kMost], column_weights[kTileWide][kMost];
    const int top = blockIdx.y * kTileHigh, left = blockIdx.x * kTileWide;
    if (threadIdx.x < kTileHigh + kTileWide) {
        const int line = threadIdx.x;
        const bool is_row = line < kTileHigh;
        const int output = is_row ? top + line : left + line - kTileHigh, outputs = is_row ? job.height : job.width;
        int16_t *weights = is_row ? row_weights[line] : column_weights[line - kTileHigh];
        if (output < outputs) {
            const Share share = share_of(is_row ? job.bgr.height : job.bgr.width, outputs, output);
            for (int k = 0; k < share.count; ++k) weights[k] = static_cast<int16_t>(weight_of(share, k));
        }
    }
    __syncthreads();
    const int row = threadIdx.x / kTileWide, column = threadIdx.x % kTileWide, y = top + row, x = left + column;
    if (y >= job.height || x >= job.width) return;
    const Share down = share_of(job.bgr.height, job.height, y), across = share_of(job.bgr.width, job.width, x);
    int sums[3] = {0, 0, 0};
    for (int i = 0; i < across.count; ++i) {
        int line[3] = {0, 0, 0};
        const uint8_t *pixel = job.bgr.data + down.first * job.bgr.stride + 3 * (across.first + i);
        for (int j = 0; j < down.count; ++j, pixel += job.bgr.stride)
            for (int c = 0; c < 3; ++c) line[c] += row_weights[row][j] * pixel[c];
        for (int c = 0; c < 3; ++c) sums[c] += column_weights[column][i] * after_rows(line[c]);
    }
    for (int c = 0; c < 3; ++c) {
        const int value = after_columns(sums[2 - c]);
        if (job.rgb.data)
            job.rgb.data[y * job.rgb.stride + 3 * x + c] = static_cast<uint8_t>(value);
        else
            job.planes[c * job.plane + y * job.row + x] = (static_cast<float>(value) / 255.0f - job.mean[c]) / job.std[c];
    }
}

int shrink(const Shrink &job, void *stream) {
    const dkcam_picture &bgr = job.bgr;
    if (!bgr.data || job.height < 1 || job.width < 1 || job.height > bgr.height || job.width > bgr.width) return -1;
    if (most_weights(bgr.height, job.height) > kMost || most_weights(bgr.width, job.width) > kMost) return -1;
    return launch(shrink_kernel, parts(job.width, kTileWide), parts(job.height, kTileHigh), job, stream);
}

// --- overlay: a block draws kThreads columns of kRows rows

constexpr int kRows = 16;

struct Overlay {
    dkcam_picture frame;
    const float *heat;
    int count, cells_high, cells_wide;
    dkcam_fit fit;
    const uint32_t *tables;
    int tint;
    dkcam_target out;
};

__device__ float maximum(const float *heat, int cells, float *shared) {
    float top = 0;
    for (int i = threadIdx.x; i < cells; i += kThreads) top = larger(heat[i], top);
    shared[threadIdx.x] = top;
    __syncthreads();
    for (int half = kThreads / 2; half > 0; half /= 2) {
        if (threadIdx.x < half) shared[threadIdx.x] = larger(shared[threadIdx.x + half], shared[threadIdx.x]);
        __syncthreads();
    }
    top = shared[0];
    __syncthreads();
    return top;
}

__global__ void overlay_kernel(Overlay job) {
    __shared__ float tops[kThreads];
    __shared__ Place rows[kRows];
    const int top = blockIdx.y * kRows, x = blockIdx.x * kThreads + threadIdx.x, cells = job.cells_high * job.cells_wide;
    if (threadIdx.x < kRows)
        rows[threadIdx.x] = place_of(top + threadIdx.x, job.fit.height, job.cells_high, job.fit.scale_y, job.fit.offset_y);
    __syncthreads();
    const Place column = place_of(x, job.fit.width, job.cells_wide, job.fit.scale_x, job.fit.offset_x);
    for (int k = 0; k < job.count; ++k) {
        const float *map = job.heat + static_cast<ptrdiff_t>(k) * cells;
        const float factor = level_factor(maximum(map, cells, tops));
        if (x >= job.frame.width) continue;  // not return: the others wait for this thread in maximum()
        const uint32_t *table = job.tables + 256 * k;
        for (int i = 0; i < kRows && top + i < job.frame.height; ++i) {
            const Place row = rows[i];
            float value = 0;
            if (row.low >= 0 && column.low >= 0 && factor > 0) {
                const float *low = map + row.low * job.cells_wide, *high = map + row.high * job.cells_wide;
                const float left = mix(scaled_cell(low[column.low], factor), scaled_cell(high[column.low], factor), row.share);
                const float right = mix(scaled_cell(low[column.high], factor), scaled_cell(high[column.high], factor), row.share);
                value = mix(left, right, column.share);
            }
            const uint32_t entry = table[level_of(value)];
            uint8_t *to = job.out.data + (top + i) * job.out.stride + 3 * (job.tint ? x : static_cast<ptrdiff_t>(k) * job.frame.width + x);
            const uint8_t *from = job.tint && k ? to : job.frame.data + (top + i) * job.frame.stride + 3 * x;
            for (int c = 0; c < 3; ++c) to[c] = blended(from[c], entry, c);
        }
    }
}

}  // namespace
}  // namespace dkcam

extern "C" int dkcam_cuda_shrink(dkcam_picture bgr, dkcam_target rgb, void *stream) {
    if (!rgb.data) return -1;
    return dkcam::shrink({bgr, rgb.height, rgb.width, rgb, nullptr, 0, 0, {}, {}}, stream);
}

extern "C" int dkcam_cuda_shrink_normalised(dkcam_picture bgr, float *planes, ptrdiff_t plane, ptrdiff_t row, int height, int width,
                                            const float mean[3], const float std[3], void *stream) {
    if (!planes) return -1;
    return dkcam::shrink({bgr, height, width, {}, planes, plane, row, {mean[0], mean[1], mean[2]}, {std[0], std[1], std[2]}}, stream);
}

extern "C" int dkcam_cuda_overlay(dkcam_picture frame, const float *heat, int count, int cells_high, int cells_wide, dkcam_fit fit,
                                  const uint32_t *tables, int tint, dkcam_target out, void *stream) {
    using namespace dkcam;
    const bool fits = out.height == frame.height && out.width == (tint ? frame.width : count * frame.width);
    if (!frame.data || !heat || !tables || !out.data || count < 1 || cells_high < 1 || cells_wide < 1 || fit.height < 1 ||
        fit.width < 1 || frame.height < 1 || frame.width < 1 || !fits)
        return -1;
    const Overlay job{frame, heat, count, cells_high, cells_wide, fit, tables, tint, out};
    return launch(overlay_kernel, parts(frame.width, kThreads), parts(frame.height, kRows), job, stream);
}
