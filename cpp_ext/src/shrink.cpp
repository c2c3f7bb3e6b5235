// Area averaging: rows first, into one line of 16-bit sums, then columns. AVX2 where the processor has it.
#include <memory>

#include "definition.h"
#include "parallel.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(DKCAM_PLAIN)
#define DKCAM_AVX2 1
#include <immintrin.h>
#endif

namespace dkcam {
namespace {

struct Line {
    const uint8_t *top;  // the first row that counts
    ptrdiff_t stride;
    const int16_t *weights;
    int count;
};

void sum_rows(const Line &line, int from, int values, int16_t *out) {
    for (int x = from; x < values; ++x) {
        int sum = 0;
        for (int k = 0; k < line.count; ++k) sum += line.weights[k] * line.top[k * line.stride + x];
        out[x] = static_cast<int16_t>(after_rows(sum));
    }
}

// One output pixel's three sums.
void sum_columns(const int16_t *line, const int16_t *weights, int count, int *sums) {
    sums[0] = sums[1] = sums[2] = 0;
    for (int k = 0; k < count; ++k)
        for (int c = 0; c < 3; ++c) sums[c] += weights[k] * line[3 * k + c];
}

#ifdef DKCAM_AVX2
__attribute__((target("avx2"))) int sum_rows_avx2(const Line &line, int values, int16_t *out) {
    const __m256i half = _mm256_set1_epi32(1 << (kWeightBits - kMiddleBits - 1));
    int x = 0;
    for (; x + 32 <= values; x += 32) {
        __m256i sum[4] = {half, half, half, half};
        for (int k = 0; k < line.count; k += 2) {
            const uint8_t *first = line.top + k * line.stride + x;
            const uint8_t *second = k + 1 < line.count ? first + line.stride : first;  // its weight is 0
            const __m256i pair = _mm256_set1_epi32(static_cast<uint16_t>(line.weights[k]) | line.weights[k + 1] << 16);
            for (int part = 0; part < 2; ++part) {
                const auto *a = reinterpret_cast<const __m128i *>(first + 16 * part);
                const auto *b = reinterpret_cast<const __m128i *>(second + 16 * part);
                const __m256i wide_a = _mm256_cvtepu8_epi16(_mm_loadu_si128(a)), wide_b = _mm256_cvtepu8_epi16(_mm_loadu_si128(b));
                __m256i &low = sum[2 * part], &high = sum[2 * part + 1];
                low = _mm256_add_epi32(low, _mm256_madd_epi16(_mm256_unpacklo_epi16(wide_a, wide_b), pair));
                high = _mm256_add_epi32(high, _mm256_madd_epi16(_mm256_unpackhi_epi16(wide_a, wide_b), pair));
            }
        }
        for (int part = 0; part < 2; ++part) {
            const __m256i low = _mm256_srai_epi32(sum[2 * part], kWeightBits - kMiddleBits);
            const __m256i high = _mm256_srai_epi32(sum[2 * part + 1], kWeightBits - kMiddleBits);
            _mm256_storeu_si256(reinterpret_cast<__m256i *>(out + x + 16 * part), _mm256_packs_epi32(low, high));
        }
    }
    return x;
}

// `line` has room for reading 4 values beyond its end.
__attribute__((target("avx2"))) void sum_columns_avx2(const int16_t *line, const int16_t *weights, int count, int *sums) {
    const __m128i order = _mm_setr_epi8(0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11, -1, -1, -1, -1);
    __m128i sum = _mm_setzero_si128();
    for (int k = 0; k < count; k += 2) {
        const __m128i pixels = _mm_shuffle_epi8(_mm_loadu_si128(reinterpret_cast<const __m128i *>(line + 3 * k)), order);
        const __m128i pair = _mm_set1_epi32(static_cast<uint16_t>(weights[k]) | weights[k + 1] << 16);
        sum = _mm_add_epi32(sum, _mm_madd_epi16(pixels, pair));
    }
    _mm_storeu_si128(reinterpret_cast<__m128i *>(sums), sum);
}
#endif

// store(y, x, c, value): c counts as the output does, RGB.
template <typename Store>
void shrink_rows(dkcam_picture bgr, const Shares &rows, const Shares &columns, int from, int to, int out_width, const Store &store) {
    const int values = 3 * bgr.width;
    const auto line = std::make_unique<int16_t[]>(values + 16);
    bool avx2 = false;
#ifdef DKCAM_AVX2
    avx2 = __builtin_cpu_supports("avx2");
#endif
    for (int y = from; y < to; ++y) {
        const Line source{bgr.data + rows.first[y] * bgr.stride, bgr.stride, &rows.weights[static_cast<size_t>(y) * rows.most], rows.count[y]};
        int done = 0;
#ifdef DKCAM_AVX2
        if (avx2) done = sum_rows_avx2(source, values, line.get());
#endif
        sum_rows(source, done, values, line.get());
        for (int x = 0; x < out_width; ++x) {
            int sums[4];
            const int16_t *weights = &columns.weights[static_cast<size_t>(x) * columns.most];
            const int16_t *start = line.get() + 3 * columns.first[x];
#ifdef DKCAM_AVX2
            if (avx2)
                sum_columns_avx2(start, weights, columns.count[x], sums);
            else
#endif
                sum_columns(start, weights, columns.count[x], sums);
            for (int c = 0; c < 3; ++c) store(y, x, c, after_columns(sums[2 - c]));
        }
    }
}

bool usable(dkcam_picture bgr, int height, int width, int threads) {
    return bgr.data && threads >= 1 && height >= 1 && width >= 1 && height <= bgr.height && width <= bgr.width && bgr.width <= 1 << 20;
}

}  // namespace
}  // namespace dkcam

extern "C" int dkcam_shrink(dkcam_picture bgr, dkcam_target rgb, int threads) {
    using namespace dkcam;
    if (!rgb.data || !usable(bgr, rgb.height, rgb.width, threads)) return -1;
    const Shares rows = area_shares(bgr.height, rgb.height), columns = area_shares(bgr.width, rgb.width);
    const auto store = [&](int y, int x, int c, int value) { rgb.data[y * rgb.stride + 3 * x + c] = static_cast<uint8_t>(value); };
    parallel(rgb.height, threads, [&](int from, int to) { shrink_rows(bgr, rows, columns, from, to, rgb.width, store); });
    return 0;
}

extern "C" int dkcam_shrink_normalised(dkcam_picture bgr, float *planes, ptrdiff_t plane, ptrdiff_t row, int height, int width,
                                       const float mean[3], const float std[3], int threads) {
    using namespace dkcam;
    if (!planes || !usable(bgr, height, width, threads)) return -1;
    const Shares rows = area_shares(bgr.height, height), columns = area_shares(bgr.width, width);
    std::vector<float> values(3 * 256);
    for (int c = 0; c < 3; ++c)
        for (int v = 0; v < 256; ++v) values[256 * c + v] = (static_cast<float>(v) / 255.0f - mean[c]) / std[c];
    const auto store = [&](int y, int x, int c, int value) { planes[c * plane + y * row + x] = values[256 * c + value]; };
    parallel(height, threads, [&](int from, int to) { shrink_rows(bgr, rows, columns, from, to, width, store); });
    return 0;
}
