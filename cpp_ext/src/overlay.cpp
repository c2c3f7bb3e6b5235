// Heatmaps over a frame in one pass: a line of levels, then a table entry for each pixel. AVX2 where the processor has it.
#include <cstring>

#include "definition.h"
#include "parallel.h"

#if defined(__x86_64__) && defined(__GNUC__) && !defined(DKCAM_PLAIN)
#define DKCAM_AVX2 1
#include <immintrin.h>
#endif

namespace dkcam {
namespace {

struct Span {  // neighbouring pixels between the same two cells
    int from, to, low, high;
};

std::vector<Span> spans_of(const std::vector<Place> &columns) {
    std::vector<Span> spans;
    for (int x = 0; x < static_cast<int>(columns.size()); ++x) {
        const Place &place = columns[x];
        if (spans.empty() || spans.back().low != place.low || spans.back().high != place.high)
            spans.push_back({x, x, place.low, place.high});
        spans.back().to = x + 1;
    }
    return spans;
}

void blend(const uint8_t *from, uint8_t *to, const float *values, int pixels, const uint32_t *table) {
    for (int x = 0; x < pixels; ++x) {
        const uint32_t entry = table[level_of(values[x])];
        for (int c = 0; c < 3; ++c) to[3 * x + c] = blended(from[3 * x + c], entry, c);
    }
}

#ifdef DKCAM_AVX2
// Eight pixels at a time; returns how many were done. `from` may equal `to`.
__attribute__((target("avx2"))) int blend_avx2(const uint8_t *from, uint8_t *to, const float *values, int pixels, const uint32_t *table) {
    const __m256i most = _mm256_set1_epi32(255), zero = _mm256_setzero_si256(), half = _mm256_set1_epi16(128);
    // 12 bytes of a lane to 4 pixels of 4 bytes; the second lane's bytes start 4 late
    const __m256i spread = _mm256_setr_epi8(0, 1, 2, -1, 3, 4, 5, -1, 6, 7, 8, -1, 9, 10, 11, -1,  //
                                            4, 5, 6, -1, 7, 8, 9, -1, 10, 11, 12, -1, 13, 14, 15, -1);
    const __m256i keeps_low = _mm256_setr_epi8(3, -1, 3, -1, 3, -1, -1, -1, 7, -1, 7, -1, 7, -1, -1, -1,  //
                                               3, -1, 3, -1, 3, -1, -1, -1, 7, -1, 7, -1, 7, -1, -1, -1);
    const __m256i keeps_high = _mm256_setr_epi8(11, -1, 11, -1, 11, -1, -1, -1, 15, -1, 15, -1, 15, -1, -1, -1,  //
                                                11, -1, 11, -1, 11, -1, -1, -1, 15, -1, 15, -1, 15, -1, -1, -1);
    const __m256i gather = _mm256_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1,  //
                                            0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1);
    const __m256 rounding = _mm256_set1_ps(0.5f);
    int x = 0;
    for (; x + 8 <= pixels; x += 8) {
        __m256i level = _mm256_cvttps_epi32(_mm256_add_ps(_mm256_loadu_ps(values + x), rounding));
        level = _mm256_min_epi32(_mm256_max_epi32(level, zero), most);
        alignas(32) int at[8];  // eight loads: AMD's processors gather far more slowly
        _mm256_store_si256(reinterpret_cast<__m256i *>(at), level);
        const auto entry_at = [&](int i) { return static_cast<int>(table[at[i]]); };
        const __m256i entry = _mm256_setr_epi32(entry_at(0), entry_at(1), entry_at(2), entry_at(3),  //
                                                entry_at(4), entry_at(5), entry_at(6), entry_at(7));
        const auto *p = reinterpret_cast<const __m128i *>(from + 3 * x);
        const auto *q = reinterpret_cast<const __m128i *>(from + 3 * x + 8);
        const __m256i both = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(p)), _mm_loadu_si128(q), 1);
        const __m256i frame = _mm256_shuffle_epi8(both, spread);
        __m256i low = _mm256_unpacklo_epi8(frame, zero), high = _mm256_unpackhi_epi8(frame, zero);
        low = _mm256_add_epi16(_mm256_add_epi16(_mm256_mullo_epi16(low, _mm256_shuffle_epi8(entry, keeps_low)), low), half);
        high = _mm256_add_epi16(_mm256_add_epi16(_mm256_mullo_epi16(high, _mm256_shuffle_epi8(entry, keeps_high)), high), half);
        const __m256i kept = _mm256_packus_epi16(_mm256_srli_epi16(low, 8), _mm256_srli_epi16(high, 8));
        const __m256i packed = _mm256_shuffle_epi8(_mm256_adds_epu8(kept, entry), gather);
        const __m128i first = _mm256_castsi256_si128(packed), second = _mm256_extracti128_si256(packed, 1);
        _mm_storeu_si128(reinterpret_cast<__m128i *>(to + 3 * x), _mm_or_si128(first, _mm_slli_si128(second, 12)));
        _mm_storel_epi64(reinterpret_cast<__m128i *>(to + 3 * x + 16), _mm_srli_si128(second, 4));
    }
    return x;
}
#endif

void blend_line(const uint8_t *from, uint8_t *to, const float *values, int pixels, const uint32_t *table, bool avx2) {
    int done = 0;
#ifdef DKCAM_AVX2
    if (avx2) done = blend_avx2(from, to, values, pixels, table);
#endif
    blend(from + 3 * done, to + 3 * done, values + done, pixels - done, table);
}

struct Scene {
    dkcam_picture frame;
    const float *heat;
    int count, cells_high, cells_wide;
    const uint32_t *tables;
    bool tint, avx2;
    dkcam_target out;
    std::vector<Place> rows;
    std::vector<Span> spans;
    std::vector<float> shares;   // [width] of each pixel's right cell
    std::vector<float> factors;  // [count]
};

// One row of one heatmap: cold spans are copied, runs of warm ones blended.
void draw_line(const Scene &scene, int which, int y, const uint8_t *from, uint8_t *to, float *cells, float *values) {
    const uint32_t *table = scene.tables + 256 * which;
    const Place &row = scene.rows[y];
    const float *map = scene.heat + static_cast<size_t>(which) * scene.cells_high * scene.cells_wide;
    const float factor = row.low < 0 ? 0.0f : scene.factors[which];
    const int low = std::max(row.low, 0) * scene.cells_wide, high = row.high * scene.cells_wide;
    for (int c = 0; c < scene.cells_wide; ++c)
        cells[c] = factor > 0 ? mix(scaled_cell(map[low + c], factor), scaled_cell(map[high + c], factor), row.share) : 0.0f;
    const bool skips = table[0] == 0xff000000u;
    int warm = 0;  // where the run of warm pixels began
    const auto finish = [&](int end) {
        if (end > warm) blend_line(from + 3 * warm, to + 3 * warm, values + warm, end - warm, table, scene.avx2);
    };
    for (const Span &span : scene.spans) {
        const float left = span.low < 0 ? 0.0f : cells[span.low], right = span.low < 0 ? 0.0f : cells[span.high];
        if (skips && left < 0.5f && right < 0.5f) {  // level 0 all along
            finish(span.from);
            if (from != to) std::memcpy(to + 3 * span.from, from + 3 * span.from, static_cast<size_t>(3) * (span.to - span.from));
            warm = span.to;
            continue;
        }
        const float *share = scene.shares.data();
        for (int x = span.from; x < span.to; ++x) values[x] = mix(left, right, share[x]);
    }
    finish(scene.frame.width);
}

void draw_rows(const Scene &scene, int first, int last) {
    std::vector<float> cells(scene.cells_wide), values(scene.frame.width);
    for (int y = first; y < last; ++y) {
        const uint8_t *from = scene.frame.data + y * scene.frame.stride;
        uint8_t *to = scene.out.data + y * scene.out.stride;
        for (int k = 0; k < scene.count; ++k) {
            const bool again = scene.tint && k > 0;
            uint8_t *place = scene.tint ? to : to + static_cast<ptrdiff_t>(3) * k * scene.frame.width;
            draw_line(scene, k, y, again ? place : from, place, cells.data(), values.data());
        }
    }
}

}  // namespace
}  // namespace dkcam

extern "C" int dkcam_overlay(dkcam_picture frame, const float *heat, int count, int cells_high, int cells_wide, dkcam_fit fit,
                             const uint32_t *tables, int tint, dkcam_target out, int threads) {
    using namespace dkcam;
    const bool fits = out.height == frame.height && out.width == (tint ? frame.width : count * frame.width);
    if (!frame.data || !heat || !tables || !out.data || count < 1 || cells_high < 1 || cells_wide < 1 || fit.height < 1 ||
        fit.width < 1 || !fits || threads < 1)
        return -1;
    bool avx2 = false;
#ifdef DKCAM_AVX2
    avx2 = __builtin_cpu_supports("avx2");
#endif
    Scene scene{frame, heat, count, cells_high, cells_wide, tables, tint != 0, avx2, out, {}, {}, {}, {}};
    scene.rows = places(frame.height, fit.height, cells_high, fit.scale_y, fit.offset_y);
    const auto columns = places(frame.width, fit.width, cells_wide, fit.scale_x, fit.offset_x);
    scene.spans = spans_of(columns);
    for (const Place &place : columns) scene.shares.push_back(place.share);
    for (int k = 0; k < count; ++k)
        scene.factors.push_back(level_factor(heat + static_cast<size_t>(k) * cells_high * cells_wide, cells_high * cells_wide));
    parallel(frame.height, threads, [&](int first, int last) { draw_rows(scene, first, last); });
    return 0;
}
