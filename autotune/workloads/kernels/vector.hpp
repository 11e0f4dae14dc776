// Float vectors over storage types, in GCC's portable vector form: one source for every CPU.
//
// A vector has LANES lanes, fixed at compile time to fill one register of the CPU: 16 with AVX-512, else 8. GCC
// takes wider ones apart by way of memory, which made products five times slower on AVX2.
#pragma once

#include <cstdint>
#include <cstring>

#ifdef __SSE2__
#include <immintrin.h>
#endif

static_assert(LANES == 8 || LANES == 16);
#if LANES == 16 && defined __AVX512F__
#define WIDE_REGISTERS
#endif

typedef float floats __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t words __attribute__((vector_size(4 * LANES)));
typedef uint16_t halves __attribute__((vector_size(2 * LANES)));

struct bfloat16 {
    uint16_t bits;
};

inline float to_float(float x) { return x; }
inline float to_float(bfloat16 x) {
    uint32_t bits = uint32_t(x.bits) << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

inline void from_float(float& to, float x) { to = x; }
inline void from_float(bfloat16& to, float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    if ((bits & 0x7fffffff) > 0x7f800000) {  // rounding must not turn a NaN into infinity
        to.bits = uint16_t(bits >> 16 | 0x40);
        return;
    }
    to.bits = uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);  // to nearest, ties to even
}

inline floats splat(float x) { return floats{} + x; }

inline floats load(const float* from) {
    floats x;
    memcpy(&x, from, sizeof x);
    return x;
}
inline floats load(const bfloat16* from) {
#ifdef WIDE_REGISTERS
    // GCC 12 lowers the portable form to three shuffles more.
    return (floats)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)from)), 16);
#else
    halves bits;
    memcpy(&bits, from, sizeof bits);
    return (floats)(__builtin_convertvector(bits, words) << 16);
#endif
}

inline void store(float* to, floats x) { memcpy(to, &x, sizeof x); }
inline void store(bfloat16* to, floats x) {
#ifdef __AVX512BF16__
    __m256bh rounded = _mm512_cvtneps_pbh((__m512)x);
    memcpy((void*)to, &rounded, sizeof rounded);
#else
    words bits = (words)x;
    words rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16;
    // Rounding must not turn a NaN into infinity.
    rounded = (bits & 0x7fffffffu) > 0x7f800000u ? bits >> 16 | 0x40u : rounded;
    halves narrow = __builtin_convertvector(rounded, halves);
    memcpy((void*)to, &narrow, sizeof narrow);
#endif
}

#ifdef __FLT16_MAX__
inline float to_float(_Float16 x) { return float(x); }
inline void from_float(_Float16& to, float x) { to = _Float16(x); }
inline floats load(const _Float16* from) {
#ifdef WIDE_REGISTERS
    return (floats)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)from));
#elif LANES == 8 && defined __F16C__
    return (floats)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)from));
#else
    floats x;
    for (int i = 0; i < LANES; i++) x[i] = float(from[i]);
    return x;
#endif
}
inline void store(_Float16* to, floats x) {
#ifdef WIDE_REGISTERS
    __m256i rounded = _mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    memcpy((void*)to, &rounded, sizeof rounded);
#elif LANES == 8 && defined __F16C__
    __m128i rounded = _mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    memcpy((void*)to, &rounded, sizeof rounded);
#else
    for (int i = 0; i < LANES; i++) from_float(to[i], x[i]);
#endif
}
#endif

// The first `count` elements, at most LANES of them; zeros in the lanes beyond.
template <typename T>
inline floats load(const T* from, int64_t count) {
    if (count >= LANES) return load(from);
    T part[LANES] = {};
    memcpy((void*)part, from, count * sizeof(T));
    return load(part);
}

template <typename T>
inline void store(T* to, floats x, int64_t count) {
    if (count >= LANES) return store(to, x);
    T part[LANES];
    store(part, x);
    if (count > 0) memcpy((void*)to, part, count * sizeof(T));
}

inline floats fold(floats a, floats b, ints low, ints high) {
    return __builtin_shuffle(a, b, low) + __builtin_shuffle(a, b, high);
}

// The sums of LANES vectors, the i-th in lane i: one add each where separate sums take log2(LANES).
#if LANES == 16
const ints lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

inline floats sums(const floats* x) {
    constexpr int reversed[LANES] = {0, 8, 4, 12, 2, 10, 6, 14, 1, 9, 5, 13, 3, 11, 7, 15};
    const ints by8 = {0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23};
    const ints by4 = {0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27};
    const ints by2 = {0, 1, 4, 5, 8, 9, 12, 13, 16, 17, 20, 21, 24, 25, 28, 29};
    const ints by1 = {0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30};
    floats a[8], b[4], c[2];
    for (int i = 0; i < 8; i++) a[i] = fold(x[reversed[i]], x[reversed[i + 8]], by8, by8 + 8);
    for (int i = 0; i < 4; i++) b[i] = fold(a[i], a[i + 4], by4, by4 + 4);
    for (int i = 0; i < 2; i++) c[i] = fold(b[i], b[i + 2], by2, by2 + 2);
    return fold(c[0], c[1], by1, by1 + 1);
}
#else
const ints lane = {0, 1, 2, 3, 4, 5, 6, 7};

inline floats sums(const floats* x) {
    constexpr int reversed[LANES] = {0, 4, 2, 6, 1, 5, 3, 7};
    const ints by4 = {0, 1, 2, 3, 8, 9, 10, 11};
    const ints by2 = {0, 1, 4, 5, 8, 9, 12, 13};
    const ints by1 = {0, 2, 4, 6, 8, 10, 12, 14};
    floats a[4], b[2];
    for (int i = 0; i < 4; i++) a[i] = fold(x[reversed[i]], x[reversed[i + 4]], by4, by4 + 4);
    for (int i = 0; i < 2; i++) b[i] = fold(a[i], a[i + 2], by2, by2 + 2);
    return fold(b[0], b[1], by1, by1 + 1);
}
#endif

// LANES rows of LANES words become their columns.
inline void transpose(words* x) {
    for (int half = 1; half < LANES; half *= 2) {
        // Swap the off-diagonal blocks of `half` lanes between rows that are `half` apart.
        const words at = (words)lane, upper = (at & half) != 0;
        const words first = (~upper & at) | (upper & (at - half + LANES));
        const words second = (~upper & (at + half)) | (upper & (at + LANES));
        for (int i = 0; i < LANES; i++) {
            if (i & half) continue;
            words a = x[i], b = x[i + half];
            x[i] = __builtin_shuffle(a, b, first);
            x[i + half] = __builtin_shuffle(a, b, second);
        }
    }
}

inline float sum(floats x) {
    for (int half = LANES / 2; half > 0; half /= 2) x += __builtin_shuffle(x, lane ^ half);
    return x[0];
}

// exp for x <= 0, within 2 units in the last place: 2^n times a degree-6 polynomial (Cephes' expf).
inline floats exp_nonpositive(floats x) {
    x = x < splat(-87.f) ? splat(-87.f) : x;
    const floats magic = splat(12582912.f);  // 1.5 * 2^23: adding it rounds to a whole number
    floats shifted = x * 1.44269504f + magic;
    ints exponent = (ints)shifted - (ints)magic;
    floats n = shifted - magic;
    floats f = x - n * 0.693359375f + n * 2.12194440e-4f;
    floats p = splat(1.9875691500e-4f);
    p = p * f + 1.3981999507e-3f;
    p = p * f + 8.3334519073e-3f;
    p = p * f + 4.1665795894e-2f;
    p = p * f + 1.6666665459e-1f;
    p = p * f + 5.0000001201e-1f;
    p = p * f * f + f + 1.f;
    return (floats)((ints)p + (exponent << 23));
}
