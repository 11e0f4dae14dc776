// y[m, n] = x[m, k] w[n, k]^T for few rows: reads packed weights once per TILE_M rows, front to back.
//
// Compiled for one configuration:
//   STORED       storage type of dense weights: bfloat16, _Float16 or float
//   VALUES       type of x and y; STORED unless given
//   WEIGHT_BITS  0: weights are STORED; 4: groups of 32 signed 4-bit values along k with a scale each;
//                8, 9, 10 or 12: likewise with so many bits, and x is taken in 15 bits with a scale for each group
//   TILE_M       rows of y in registers at a time
//   TILE_N       columns of y in registers at a time, a multiple of LANES
//   REST         m % TILE_M
//   PREFETCH     bytes ahead of the weights in use to fetch; 0 leaves it to the hardware
//
// One step is one k, or with bfloat16 and 8 bits or more two: a pair fills a 32-bit lane, as the instructions
// VDPBF16PS and VPMADDWD take it.
// Packed weights, column tile by column tile, padded with zeros:
//   dense   [steps][TILE_N] lanes
//   4 bits  [k / 32][TILE_N / LANES][4][LANES] words of eight values, then [k / 32][TILE_N] scales, STORED;
//           value r of a word lies at bit 4r; with pairs 2r at bit 4r and 2r + 1 at bit 4r + 16; offset by 8
//   8 to 12 for each group: [16][TILE_N] pairs of bytes, the upper bits; [WEIGHT_BITS - 8][TILE_N] pairs of 16-bit
//           words of the lower bits, the first pair's lowest; [TILE_N] scales, _Float16, SCALE_UNIT times too large

#include <algorithm>
#include <cmath>
#include <type_traits>

#include <omp.h>

#include "vector.hpp"

#ifndef VALUES
#define VALUES STORED
#endif

namespace {

constexpr bool ROUNDED = WEIGHT_BITS >= 8;
constexpr bool PAIRS = ROUNDED || std::is_same<STORED, bfloat16>::value;
constexpr int STEP = PAIRS ? 2 : 1;
constexpr int VECTORS = TILE_N / LANES;
constexpr int GROUP = 32;
constexpr int GROUP_STEPS = GROUP / STEP;
// Sums of this many steps are added up apart, for the error grows with the longest chain of additions; with
// results of 16 bits their own rounding hides it.
constexpr int BLOCK_STEPS = sizeof(VALUES) == 4 ? 64 : 512;

struct TwoFloats {
    float even, odd;
};
#ifdef __AVX512BF16__
constexpr bool DOTS = std::is_same<VALUES, bfloat16>::value;
#else
constexpr bool DOTS = false;
#endif
// Two bfloat16, or two whole numbers of 16 bits.
using Pair = std::conditional_t<DOTS || ROUNDED, uint32_t, TwoFloats>;
using Element = std::conditional_t<PAIRS, Pair, float>;   // of packed x
using Vector = std::conditional_t<PAIRS, words, floats>;  // of weights

#define UNROLL _Pragma("GCC unroll 64")

inline floats multiply_add(floats sum, floats w, float x) { return sum + w * x; }

#ifdef __AVX512BF16__
inline floats multiply_add(floats sum, words w, uint32_t x) {
    return (floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)w, (__m512bh)_mm512_set1_epi32(int(x)));
}
#endif

inline floats multiply_add(floats sum, words w, TwoFloats x) {
    return sum + (floats)(w << 16) * x.even + (floats)(w & 0xffff0000u) * x.odd;
}

inline words load_words(const void* from) {
    words w;
    memcpy(&w, from, sizeof w);
    return w;
}

// Fetch ahead of the `bytes` that are about to be used.
inline void prefetch(const void* from, int bytes) {
    if (PREFETCH)
        UNROLL for (int line = 0; line < bytes; line += 64) __builtin_prefetch((const char*)from + PREFETCH + line);
}

// A single row of x is used where it lies, aligned to its own type alone.
inline Element at(const Element* x, int64_t i) {
    Element e;
    memcpy(&e, (const char*)x + i * int64_t(sizeof e), sizeof e);
    return e;
}

inline words load_vector(const bfloat16* from) { return load_words(from); }
template <typename T>
inline floats load_vector(const T* from) {
    return load(from);
}

// Write the sums of M rows, of which `columns` are within y.
template <int M>
inline void finish(const floats (&total)[M][VECTORS], VALUES* y, int64_t n, int64_t columns) {
    for (int i = 0; i < M; i++)
        for (int j = 0; j < VECTORS; j++) store(y + i * n + j * LANES, total[i][j], columns - j * LANES);
}

#if WEIGHT_BITS == 4

using Weights = char;

// The r-th step of eight values a lane. Pairs are 128 + (value + 8) in bfloat16, which takes one OR to make.
inline void unpack(words& to, words w, int r) { to = (w >> (4 * r) & 0x000f000fu) | 0x43004300u; }
inline void unpack(floats& to, words w, int r) { to = __builtin_convertvector((ints)(w >> (4 * r) & 15u), floats) - 8.f; }

template <int M>
inline void tile(const Element* x, const float* group_sums, const Weights* w, VALUES* y, int64_t n, int64_t columns, int64_t steps) {
    const int64_t groups = steps / GROUP_STEPS;
    const STORED* scale = (const STORED*)(w + groups * TILE_N * (GROUP / 2));
    floats total[M][VECTORS] = {};
    for (int64_t g = 0; g < groups; g++) {
        prefetch(w, TILE_N * (GROUP / 2));
        floats sum[M][VECTORS];
        UNROLL for (int i = 0; i < M; i++) UNROLL for (int j = 0; j < VECTORS; j++) sum[i][j] = splat(PAIRS ? -136.f * group_sums[i] : 0.f);
        constexpr int STEPS = GROUP_STEPS / 4;
        for (int q = 0; q < 4; q++) {
            words packed[VECTORS];
            UNROLL for (int j = 0; j < VECTORS; j++) packed[j] = load_words(w + (j * 4 + q) * sizeof(words));
            UNROLL for (int r = 0; r < STEPS; r++) {
                Vector v[VECTORS];
                UNROLL for (int j = 0; j < VECTORS; j++) unpack(v[j], packed[j], r);
                UNROLL for (int i = 0; i < M; i++) UNROLL for (int j = 0; j < VECTORS; j++)
                    sum[i][j] = multiply_add(sum[i][j], v[j], at(x, (q * STEPS + r) * M + i));
            }
        }
        UNROLL for (int j = 0; j < VECTORS; j++) {
            floats s = load(scale + j * LANES);
            UNROLL for (int i = 0; i < M; i++) total[i][j] += sum[i][j] * s;
        }
        w += TILE_N * (GROUP / 2), scale += TILE_N, x += GROUP_STEPS * M, group_sums += M;
    }
    finish<M>(total, y, n, columns);
}

#elif WEIGHT_BITS >= 8

using Weights = char;

constexpr int LOW = WEIGHT_BITS - 8;  // bits beside the upper eight
constexpr int PER_WORD = LOW ? 16 / LOW : 16;
constexpr int LARGEST = (1 << (WEIGHT_BITS - 1)) - 1;
constexpr int GROUP_BYTES = TILE_N * (GROUP + LOW * 4 + int(sizeof(_Float16)));
constexpr float X_LARGEST = 16383;  // 16 pairs of products with 12 bits fit into 32
constexpr float SCALE_UNIT = 4096;  // the scales of usual weights would be subnormal

typedef int16_t shorts __attribute__((vector_size(4 * LANES)));
typedef uint16_t unsigned_shorts __attribute__((vector_size(4 * LANES)));

// Pairs of neighbouring k, a pair for each column.
inline shorts load_pairs(const char* from) {
#ifdef WIDE_REGISTERS
    return (shorts)_mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i*)from));
#elif LANES == 8 && defined __AVX2__
    return (shorts)_mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i*)from));
#else
    shorts pairs;
    for (int i = 0; i < 2 * LANES; i++) pairs[i] = int8_t(from[i]);
    return pairs;
#endif
}

// sum + w[2 i] * x[0] + w[2 i + 1] * x[1] in each lane i, for x in the two halves of a word.
inline ints add_products(ints sum, shorts w, uint32_t x) {
#if defined WIDE_REGISTERS && defined __AVX512VNNI__
    return (ints)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)w, _mm512_set1_epi32(int(x)));
#elif defined WIDE_REGISTERS && defined __AVX512BW__
    return sum + (ints)_mm512_madd_epi16((__m512i)w, _mm512_set1_epi32(int(x)));
#elif LANES == 8 && defined __AVX2__
    return sum + (ints)_mm256_madd_epi16((__m256i)w, _mm256_set1_epi32(int(x)));
#else
    const ints both = (ints)w;
    return sum + (both << 16 >> 16) * int(int16_t(x)) + (both >> 16) * int(int16_t(x >> 16));
#endif
}

template <int M>
inline void tile(const Element* x, const float* x_scale, const Weights* w, VALUES* y, int64_t n, int64_t columns, int64_t steps) {
    floats total[M][VECTORS] = {};
    for (int64_t g = 0; g < steps / GROUP_STEPS; g++) {
        prefetch(w, GROUP_BYTES);
        const char* lower = w + GROUP * TILE_N;
        const _Float16* scale = (const _Float16*)(lower + LOW * TILE_N * 4);
        ints sum[M][VECTORS];
        UNROLL for (int i = 0; i < M; i++) UNROLL for (int j = 0; j < VECTORS; j++) sum[i][j] = ints{};
        for (int q = 0; q < GROUP_STEPS / PER_WORD; q++) {
            unsigned_shorts low[VECTORS];
            if (LOW) UNROLL for (int j = 0; j < VECTORS; j++) memcpy(&low[j], lower + (q * VECTORS + j) * sizeof(words), sizeof(words));
            UNROLL for (int r = 0; r < PER_WORD; r++) {
                shorts v[VECTORS];
                UNROLL for (int j = 0; j < VECTORS; j++) {
                    v[j] = load_pairs(w + ((q * PER_WORD + r) * TILE_N + j * LANES) * 2);
                    if (LOW) v[j] = v[j] << LOW | (shorts)(low[j] >> (LOW * r) & uint16_t((1 << LOW) - 1));
                }
                UNROLL for (int i = 0; i < M; i++) {
                    const Element pair = at(x, (q * PER_WORD + r) * M + i);
                    UNROLL for (int j = 0; j < VECTORS; j++) sum[i][j] = add_products(sum[i][j], v[j], pair);
                }
            }
        }
        UNROLL for (int j = 0; j < VECTORS; j++) {
            const floats s = load(scale + j * LANES);
            UNROLL for (int i = 0; i < M; i++) total[i][j] += __builtin_convertvector(sum[i][j], floats) * (s * x_scale[i]);
        }
        w += GROUP_BYTES, x += GROUP_STEPS * M, x_scale += M;
    }
    finish<M>(total, y, n, columns);
}

// One group of a column, rounded to the nearest.
inline void pack_group(const STORED* from, char* to, int column) {
    float largest = 0, value[GROUP];
    for (int i = 0; i < GROUP; i++) {
        value[i] = to_float(from[i]);
        largest = std::max(largest, std::abs(value[i]));
    }
    const _Float16 scale = _Float16(largest / LARGEST * SCALE_UNIT);
    const float inverse = float(scale) > 0 ? SCALE_UNIT / float(scale) : 0.f;
    uint16_t low[LOW ? LOW : 1][2] = {};
    for (int i = 0; i < GROUP; i++) {
        // The scale was rounded itself: the largest may come out beyond the range.
        const int whole = std::min(std::max(int(std::nearbyint(value[i] * inverse)), -LARGEST - 1), LARGEST);
        const int pair = i / 2, of_pair = i % 2;
        to[(pair * TILE_N + column) * 2 + of_pair] = char(whole >> LOW);
        if (LOW) low[pair / PER_WORD][of_pair] |= uint16_t((whole & ((1 << LOW) - 1)) << (LOW * (pair % PER_WORD)));
    }
    char* lower = to + GROUP * TILE_N;
    for (int q = 0; q < LOW; q++) memcpy(lower + (q * TILE_N + column) * 4, low[q], 4);
    memcpy(lower + LOW * TILE_N * 4 + column * sizeof scale, &scale, sizeof scale);
}

#else

using Weights = STORED;

template <int M>
inline void tile(const Element* x, const float*, const Weights* w, VALUES* y, int64_t n, int64_t columns, int64_t steps) {
    floats total[M][VECTORS] = {};
    for (int64_t first = 0; first < steps; first += BLOCK_STEPS) {
        const int64_t last = first + BLOCK_STEPS < steps ? first + BLOCK_STEPS : steps;
        floats sum[M][VECTORS];
        UNROLL for (int i = 0; i < M; i++) UNROLL for (int j = 0; j < VECTORS; j++) sum[i][j] = floats{};
        for (int64_t s = first; s < last; s++) {
            prefetch(w + s * TILE_N * STEP, TILE_N * STEP * sizeof(STORED));
            Vector v[VECTORS];
            UNROLL for (int j = 0; j < VECTORS; j++) v[j] = load_vector(w + (s * TILE_N + j * LANES) * STEP);
            UNROLL for (int i = 0; i < M; i++) {
                const Element e = at(x, s * M + i);
                UNROLL for (int j = 0; j < VECTORS; j++) sum[i][j] = multiply_add(sum[i][j], v[j], e);
            }
        }
        UNROLL for (int i = 0; i < M; i++) UNROLL for (int j = 0; j < VECTORS; j++) total[i][j] += sum[i][j];
    }
    finish<M>(total, y, n, columns);
}

#endif

inline void take(uint32_t& to, const bfloat16* x, int64_t k, int64_t step) {
    const bfloat16 even = x[2 * step], odd = 2 * step + 1 < k ? x[2 * step + 1] : bfloat16{0};
    to = even.bits | uint32_t(odd.bits) << 16;
}
template <typename T>
inline void take(TwoFloats& to, const T* x, int64_t k, int64_t step) {
    to = {to_float(x[2 * step]), 2 * step + 1 < k ? to_float(x[2 * step + 1]) : 0.f};
}
template <typename T>
inline void take(float& to, const T* x, int64_t, int64_t step) {
    to = to_float(x[step]);
}

// Row `row` of x into its place among the TILE_M rows that are used together, and of its groups the sums, or the
// scales.
void pack_row(const VALUES* x, Element* packed, float* group_sums, int64_t m, int64_t k, int64_t steps, int64_t row) {
    const int64_t first = row / TILE_M * TILE_M, together = m - first < TILE_M ? m - first : TILE_M;
    Element* to = packed + first * steps + (row - first);
    float* sums = group_sums + first * (k / GROUP) + (row - first);
#if WEIGHT_BITS >= 8
    for (int64_t g = 0; g < k / GROUP; g++) {
        const VALUES* from = x + row * k + g * GROUP;
        float largest = 0;
        for (int i = 0; i < GROUP; i++) largest = std::max(largest, std::abs(to_float(from[i])));
        const float inverse = largest > 0 ? X_LARGEST / largest : 0.f;
        for (int i = 0; i < GROUP; i += 2) {
            const uint32_t even = uint16_t(int(std::nearbyint(to_float(from[i]) * inverse)));
            const uint32_t odd = uint16_t(int(std::nearbyint(to_float(from[i + 1]) * inverse)));
            to[(g * GROUP_STEPS + i / 2) * together] = even | odd << 16;
        }
        sums[g * together] = largest / X_LARGEST / SCALE_UNIT;
    }
#else
    for (int64_t s = 0; s < steps; s++) take(to[s * together], x + row * k, k, s);
    if (WEIGHT_BITS != 4) return;
    for (int64_t g = 0; g < k / GROUP; g++) {
        float total = 0;
        for (int i = 0; i < GROUP; i++) total += to_float(x[row * k + g * GROUP + i]);
        sums[g * together] = total;
    }
#endif
}

// Whether x is as the kernel takes it: pairs, or floats, of one row.
inline bool is_packed(int64_t m, int64_t k) {
    return m == 1 && sizeof(Element) == STEP * sizeof(VALUES) && k % STEP == 0 && !WEIGHT_BITS;
}

}  // namespace

// Bytes that `linear` needs in `workspace`; where it needs none, null will do.
extern "C" int64_t linear_workspace(int64_t m, int64_t k) {
    if (is_packed(m, k)) return 0;
    return m * ((k + STEP - 1) / STEP * sizeof(Element) + (WEIGHT_BITS ? k / GROUP * sizeof(float) : 0));
}

#if WEIGHT_BITS >= 8
// Bytes of packed weights.
extern "C" int64_t linear_packed(int64_t n, int64_t k) { return (n + TILE_N - 1) / TILE_N * (k / GROUP) * GROUP_BYTES; }

// Rounds and packs weight (n, k); k is a multiple of 32.
extern "C" void linear_pack(const STORED* weight, char* packed, int64_t n, int64_t k, int64_t threads) {
    const int64_t tiles = (n + TILE_N - 1) / TILE_N, groups = k / GROUP;
    const STORED zeros[GROUP] = {};
#pragma omp parallel for schedule(static) num_threads(int(threads)) if (threads > 1)
    for (int64_t t = 0; t < tiles; t++)
        for (int64_t g = 0; g < groups; g++)
            for (int c = 0; c < TILE_N; c++) {
                const int64_t row = t * TILE_N + c;
                pack_group(row < n ? weight + row * k + g * GROUP : zeros, packed + (t * groups + g) * GROUP_BYTES, c);
            }
}
#endif

extern "C" void linear(const VALUES* x, const Weights* w, VALUES* y, char* workspace, int64_t m, int64_t n, int64_t k, int64_t threads) {
    const int64_t steps = (k + STEP - 1) / STEP, groups = k / GROUP, tiles = (n + TILE_N - 1) / TILE_N;
#if WEIGHT_BITS >= 8
    const int64_t tile_size = groups * GROUP_BYTES;
#else
    const int64_t tile_size = WEIGHT_BITS == 4 ? groups * int64_t(TILE_N * (sizeof(STORED) + GROUP / 2)) : steps * STEP * TILE_N;
#endif
    Element* to = (Element*)workspace;
    float* sums = (float*)(to + m * steps);
    const bool ready = is_packed(m, k);
    const Element* packed = ready ? (const Element*)x : to;
#pragma omp parallel num_threads(int(threads)) if (threads > 1)
    {
        if (!ready) {
#pragma omp for schedule(static)
            for (int64_t row = 0; row < m; row++) pack_row(x, to, sums, m, k, steps, row);
        }
#pragma omp for schedule(static)
        for (int64_t t = 0; t < tiles; t++) {
            const int64_t column = t * TILE_N;
            int64_t row = 0;
            for (; row + TILE_M <= m; row += TILE_M)
                tile<TILE_M>(packed + row * steps, sums + row * groups, w + t * tile_size, y + row * n + column, n, n - column, steps);
#if REST
            tile<REST>(packed + row * steps, sums + row * groups, w + t * tile_size, y + row * n + column, n, n - column, steps);
#endif
        }
    }
}
