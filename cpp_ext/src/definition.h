// What the results are, for CPU and CUDA alike: tables computed once per size, and the arithmetic of one pixel.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "dkcam/kernels.h"

#ifdef __CUDACC__
#define DKCAM_BOTH __host__ __device__ inline
#else
#define DKCAM_BOTH inline
#endif

namespace dkcam {

// --- shrinking: out = sum over rows and columns of weight * pixel, weights in 1/2^14, each axis adding to exactly 1

constexpr int kWeightBits = 14;
constexpr int kMiddleBits = 7;  // between the two axes: 255 * 2^7 fits a signed 16-bit number

struct Shares {
    int most = 0;                // weights per output, even: the last one is 0 where the count is odd
    std::vector<int> first;      // [outputs] the first input that counts
    std::vector<int> count;      // [outputs] how many count
    std::vector<int16_t> weights;  // [outputs, most]
};

// Area averaging of `inputs` cells to `outputs` cells, outputs <= inputs.
inline Shares area_shares(int inputs, int outputs) {
    const double ratio = static_cast<double>(inputs) / outputs;
    Shares shares;
    shares.most = (static_cast<int>(std::ceil(ratio)) + 2) / 2 * 2;
    shares.first.resize(outputs);
    shares.count.resize(outputs);
    shares.weights.assign(static_cast<size_t>(outputs) * shares.most, 0);
    for (int i = 0; i < outputs; ++i) {
        const double start = i * ratio, end = start + ratio;
        const int first = std::min(static_cast<int>(start + 1e-9), inputs - 1);
        const int last = std::clamp(static_cast<int>(std::ceil(end - 1e-9)), first + 1, inputs);
        shares.first[i] = first;
        shares.count[i] = last - first;
        int before = 0;
        for (int k = first; k < last; ++k) {
            const double covered = k + 1 == last ? 1.0 : (k + 1 - start) / ratio;
            const int upto = static_cast<int>(std::lround(covered * (1 << kWeightBits)));
            shares.weights[static_cast<size_t>(i) * shares.most + (k - first)] = static_cast<int16_t>(upto - before);
            before = upto;
        }
    }
    return shares;
}

DKCAM_BOTH int after_rows(int sum) { return (sum + (1 << (kWeightBits - kMiddleBits - 1))) >> (kWeightBits - kMiddleBits); }
DKCAM_BOTH int after_columns(int sum) { return (sum + (1 << (kWeightBits + kMiddleBits - 1))) >> (kWeightBits + kMiddleBits); }

// --- spreading a heatmap: linear between cell centres, constant beyond the outermost, nothing where the input ends

struct Place {
    int low, high;  // cells; low is -1 where the input does not show the frame
    float share;    // of `high`
};

inline std::vector<Place> places(int pixels, int size, int cells, double scale, int offset) {
    std::vector<Place> found(pixels);
    for (int i = 0; i < pixels; ++i) {
        const double place = (i + 0.5) * scale + offset;
        const double cell = std::clamp(place * cells / size - 0.5, 0.0, static_cast<double>(cells - 1));
        const int low = static_cast<int>(cell);
        const bool seen = place >= 0 && place <= size;
        found[i] = {seen ? low : -1, std::min(low + 1, cells - 1), static_cast<float>(cell - low)};
    }
    return found;
}

// Factor that takes a heatmap's maximum to 255; 0 for a map without heat or with an infinity.
inline float level_factor(const float *heat, int cells) {
    float top = 0;
    for (int i = 0; i < cells; ++i) top = heat[i] > top ? heat[i] : top;
    return top > 0 && std::isfinite(255.0f / top) && std::isfinite(top) ? 255.0f / top : 0.0f;
}

#ifdef __CUDA_ARCH__
DKCAM_BOTH float mix(float low, float high, float share) { return __fadd_rn(low, __fmul_rn(__fsub_rn(high, low), share)); }
DKCAM_BOTH float scaled_cell(float heat, float factor) { return heat > 0 ? __fmul_rn(heat, factor) : 0.0f; }
#else
DKCAM_BOTH float mix(float low, float high, float share) { return low + (high - low) * share; }
DKCAM_BOTH float scaled_cell(float heat, float factor) { return heat > 0 ? heat * factor : 0.0f; }
#endif

DKCAM_BOTH int level_of(float value) {
    const int level = static_cast<int>(value + 0.5f);
    return level < 0 ? 0 : level > 255 ? 255 : level;
}

// One channel of one pixel, under one table entry.
DKCAM_BOTH uint8_t blended(uint8_t pixel, uint32_t entry, int channel) {
    const int kept = (pixel * static_cast<int>(entry >> 24) + pixel + 128) >> 8;
    const int sum = kept + static_cast<int>((entry >> (8 * channel)) & 255);
    return static_cast<uint8_t>(sum > 255 ? 255 : sum);
}

}  // namespace dkcam
