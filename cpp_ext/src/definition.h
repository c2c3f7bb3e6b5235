// What the results are, for CPU and CUDA alike: tables computed once per size, and the arithmetic of one pixel.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

#include "dkcam/kernels.h"

#ifdef __CUDACC__
#define DKCAM_BOTH __host__ __device__ inline
#else
#define DKCAM_BOTH inline
#endif
// Compiled without fused multiply-add for both, so that they round alike.

namespace dkcam {

// --- shrinking: out = sum over rows and columns of weight * pixel, weights in 1/2^14, each axis adding to exactly 1

constexpr int kWeightBits = 14;
constexpr int kMiddleBits = 7;  // between the two axes: 255 * 2^7 fits a signed 16-bit number

// Area averaging of `inputs` cells to `outputs` cells, outputs <= inputs: what one output takes.
struct Share {
    double ratio, start;
    int first, count;  // the first input that counts, and how many do
};

DKCAM_BOTH Share share_of(int inputs, int outputs, int output) {
    const double ratio = static_cast<double>(inputs) / outputs, start = output * ratio, end = start + ratio;
    const int first = static_cast<int>(start + 1e-9), last = static_cast<int>(ceil(end - 1e-9));
    const int from = first < inputs - 1 ? first : inputs - 1;
    const int to = last < from + 1 ? from + 1 : last < inputs ? last : inputs;
    return {ratio, start, from, to - from};
}

// Weights add to exactly 1: each is the difference of two rounded sums.
DKCAM_BOTH int weight_upto(const Share &share, int which) {
    if (which < 0) return 0;
    const double covered = which + 1 >= share.count ? 1.0 : (share.first + which + 1 - share.start) / share.ratio;
    return static_cast<int>(lround(covered * (1 << kWeightBits)));
}

DKCAM_BOTH int weight_of(const Share &share, int which) { return weight_upto(share, which) - weight_upto(share, which - 1); }

// Weights to keep for an output, even: the last one is 0 where the count is odd.
inline int most_weights(int inputs, int outputs) { return (static_cast<int>(ceil(static_cast<double>(inputs) / outputs)) + 2) / 2 * 2; }

struct Shares {
    int most = 0;                // weights per output
    std::vector<int> first;      // [outputs] the first input that counts
    std::vector<int> count;      // [outputs] how many count
    std::vector<int16_t> weights;  // [outputs, most]
};

inline Shares area_shares(int inputs, int outputs) {
    Shares shares;
    shares.most = most_weights(inputs, outputs);
    shares.first.resize(outputs);
    shares.count.resize(outputs);
    shares.weights.assign(static_cast<size_t>(outputs) * shares.most, 0);
    for (int i = 0; i < outputs; ++i) {
        const Share share = share_of(inputs, outputs, i);
        shares.first[i] = share.first;
        shares.count[i] = share.count;
        for (int k = 0; k < share.count; ++k)
            shares.weights[static_cast<size_t>(i) * shares.most + k] = static_cast<int16_t>(weight_of(share, k));
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

DKCAM_BOTH Place place_of(int pixel, int size, int cells, double scale, int offset) {
    const double place = (pixel + 0.5) * scale + offset;
    const double at = place * cells / size - 0.5;
    const double cell = at < 0 ? 0 : at > cells - 1 ? cells - 1 : at;
    const int low = static_cast<int>(cell);
    const bool seen = place >= 0 && place <= size;
    return {seen ? low : -1, low + 1 < cells ? low + 1 : cells - 1, static_cast<float>(cell - low)};
}

inline std::vector<Place> places(int pixels, int size, int cells, double scale, int offset) {
    std::vector<Place> found(pixels);
    for (int i = 0; i < pixels; ++i) found[i] = place_of(i, size, cells, scale, offset);
    return found;
}

// Factor that takes a heatmap's maximum to 255; 0 for a map without heat or with an infinity.
DKCAM_BOTH float level_factor(float maximum) {
    const float factor = maximum > 0 ? 255.0f / maximum : 0.0f;
    return maximum < HUGE_VALF && factor < HUGE_VALF ? factor : 0.0f;
}

DKCAM_BOTH float larger(float heat, float top) { return heat > top ? heat : top; }

inline float level_factor(const float *heat, int cells) {
    float top = 0;
    for (int i = 0; i < cells; ++i) top = larger(heat[i], top);
    return level_factor(top);
}

DKCAM_BOTH float mix(float low, float high, float share) { return low + (high - low) * share; }
DKCAM_BOTH float scaled_cell(float heat, float factor) { return heat > 0 ? heat * factor : 0.0f; }

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
