// y[m, n] = x[m, k] w[n, k]^T for few rows: reads packed weights once per TILE_M rows, front to back.
//
// Compiled for one configuration:
//   STORED       storage type of x, y and dense weights: bfloat16, _Float16 or float
//   WEIGHT_BITS  4: groups of 32 signed 4-bit values along k with a scale each; 0: weights are STORED
//   TILE_M       rows of y in registers at a time
//   TILE_N       columns of y in registers at a time, a multiple of LANES
//   REST         m % TILE_M
//   PREFETCH     bytes ahead of the weights in use to fetch; 0 leaves it to the hardware
//
// One step is one k, or with bfloat16 two: a pair fills a 32-bit lane, as the instruction VDPBF16PS takes it.
// Packed weights, column tile by column tile, padded with zeros:
//   dense   [steps][TILE_N] lanes
//   4 bits  [k / 32][TILE_N / LANES][4][LANES] words of eight values, then [k / 32][TILE_N] scales, STORED;
//           value r of a word lies at bit 4r; with pairs 2r at bit 4r and 2r + 1 at bit 4r + 16; offset by 8

#include <type_traits>

#include <omp.h>

#include "vector.hpp"

namespace {

constexpr bool PAIRS = std::is_same<STORED, bfloat16>::value;
constexpr int STEP = PAIRS ? 2 : 1;
constexpr int VECTORS = TILE_N / LANES;
constexpr int GROUP = 32;
constexpr int GROUP_STEPS = GROUP / STEP;
// Sums of this many steps are added up apart, for the error grows with the longest chain of additions; with
// results of 16 bits their own rounding hides it.
constexpr int BLOCK_STEPS = sizeof(STORED) == 4 ? 64 : 512;

#ifdef __AVX512BF16__
using Pair = uint32_t;
#else
struct Pair {
    float even, odd;
};
#endif
using Element = std::conditional_t<PAIRS, Pair, float>;   // of packed x
using Vector = std::conditional_t<PAIRS, words, floats>;  // of weights

#define UNROLL _Pragma("GCC unroll 64")

inline floats multiply_add(floats sum, floats w, float x) { return sum + w * x; }

inline floats multiply_add(floats sum, words w, Pair x) {
#ifdef __AVX512BF16__
    return (floats)_mm512_dpbf16_ps((__m512)sum, (__m512bh)w, (__m512bh)_mm512_set1_epi32(int(x)));
#else
    return sum + (floats)(w << 16) * x.even + (floats)(w & 0xffff0000u) * x.odd;
#endif
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
inline void finish(const floats (&total)[M][VECTORS], STORED* y, int64_t n, int64_t columns) {
    for (int i = 0; i < M; i++)
        for (int j = 0; j < VECTORS; j++) store(y + i * n + j * LANES, total[i][j], columns - j * LANES);
}

#if WEIGHT_BITS == 4

using Weights = char;

// The r-th step of eight values a lane. Pairs are 128 + (value + 8) in bfloat16, which takes one OR to make.
inline void unpack(words& to, words w, int r) { to = (w >> (4 * r) & 0x000f000fu) | 0x43004300u; }
inline void unpack(floats& to, words w, int r) { to = __builtin_convertvector((ints)(w >> (4 * r) & 15u), floats) - 8.f; }

template <int M>
inline void tile(const Element* x, const float* group_sums, const Weights* w, STORED* y, int64_t n, int64_t columns, int64_t steps) {
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

#else

using Weights = STORED;

template <int M>
inline void tile(const Element* x, const float*, const Weights* w, STORED* y, int64_t n, int64_t columns, int64_t steps) {
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

inline void take(Pair& to, const bfloat16* x, int64_t k, int64_t step) {
    const bfloat16 even = x[2 * step], odd = 2 * step + 1 < k ? x[2 * step + 1] : bfloat16{0};
#ifdef __AVX512BF16__
    to = even.bits | uint32_t(odd.bits) << 16;
#else
    to = {to_float(even), to_float(odd)};
#endif
}
template <typename T>
inline void take(float& to, const T* x, int64_t, int64_t step) {
    to = to_float(x[step]);
}

// Row `row` of x into its place among the TILE_M rows that are used together, and the sums of its groups.
void pack_row(const STORED* x, Element* packed, float* group_sums, int64_t m, int64_t k, int64_t steps, int64_t row) {
    const int64_t first = row / TILE_M * TILE_M, together = m - first < TILE_M ? m - first : TILE_M;
    Element* to = packed + first * steps + (row - first);
    for (int64_t s = 0; s < steps; s++) take(to[s * together], x + row * k, k, s);
    if (WEIGHT_BITS != 4) return;
    float* sums = group_sums + first * (k / GROUP) + (row - first);
    for (int64_t g = 0; g < k / GROUP; g++) {
        float total = 0;
        for (int i = 0; i < GROUP; i++) total += to_float(x[row * k + g * GROUP + i]);
        sums[g * together] = total;
    }
}

// Whether x is as the kernel takes it: pairs, or floats, of one row.
inline bool is_packed(int64_t m, int64_t k) {
    return m == 1 && sizeof(Element) == STEP * sizeof(STORED) && k % STEP == 0 && WEIGHT_BITS != 4;
}

}  // namespace

// Bytes that `linear` needs in `workspace`; where it needs none, null will do.
extern "C" int64_t linear_workspace(int64_t m, int64_t k) {
    if (is_packed(m, k)) return 0;
    return m * ((k + STEP - 1) / STEP * sizeof(Element) + (WEIGHT_BITS == 4 ? k / GROUP * sizeof(float) : 0));
}

extern "C" void linear(const STORED* x, const Weights* w, STORED* y, char* workspace, int64_t m, int64_t n, int64_t k, int64_t threads) {
    const int64_t steps = (k + STEP - 1) / STEP, groups = k / GROUP, tiles = (n + TILE_N - 1) / TILE_N;
    const int64_t tile_size = WEIGHT_BITS == 4 ? groups * int64_t(TILE_N * (sizeof(STORED) + GROUP / 2)) : steps * STEP * TILE_N;
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
