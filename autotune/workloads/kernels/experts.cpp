// A mixture of gated experts: out = sum over a token's experts of weight * down(silu(gate(x)) * up(x)).
//
// Each expert's weights are read once, in storage order, for all tokens that chose it. Weights of 4 bits are
// used as the checkpoint stores them: eight values of an int32 lie along the input dimension, so one shift puts
// values j and j + 4 of every int32 where a dot product over pairs wants them; it is the activations that are
// permuted.
//
// Fixed at compile time:
//   TYPE       storage type of activations, scales and native weights: float, bfloat16 or _Float16
//   INT4       1: weights are int4_g32, with a scale of TYPE for every 32; 0: weights of TYPE
//   DOT        1: products by the CPU's bfloat16 dot product (TYPE bfloat16, AVX512-BF16); 0: in float
//   ROWS       weight rows in a register tile
//   TOKENS     tokens in a register tile: 1, 2, 4 or 8
//   BLOCK      weight rows visited before the next tile of tokens
//   PREFETCH   bytes ahead of the weights in use to fetch; 0 leaves it to the hardware

#include "vector.hpp"

#include <algorithm>
#include <cmath>
#include <type_traits>

namespace {

constexpr int64_t PAD = INT4 ? 8 * LANES : 2 * LANES;  // activations are padded with zeros to a multiple
constexpr int GROUP = 32;

#if DOT
typedef bfloat16 Operand;
#else
typedef float Operand;
#endif

// In float, a 4-bit value w is taken as 136 + w, so that its bits need no conversion; what that adds to a product
// is 136 times the sum of the activations, which is kept after each PAD of them, lane by lane. Only with 16-bit
// results: their own rounding hides what the larger sums lose.
constexpr bool SUMMED = INT4 && !DOT && sizeof(TYPE) == 2;
constexpr float OFFSET = 136.f;
constexpr int64_t STRIDE = PAD + (SUMMED ? LANES : 0);

// Elements from one token's activations to the next one's. A cache line more than needed: rows that are a
// multiple of 4096 bytes apart would all compete for the same few lines of the first-level cache.
inline int64_t padded(int64_t width) { return (width + PAD - 1) / PAD * STRIDE + 2 * LANES; }

// Where the k-th activation lies: with 4-bit weights, lane k / 8 of vector k % 8 (or of half a pair vector).
inline int64_t place(int64_t k) {
    if (!INT4) return k;
    int64_t i = k % PAD, lane = i / 8, j = i % 8;
    return k / PAD * STRIDE + (DOT ? j % 4 * 2 * LANES + lane * 2 + j / 4 : j * LANES + lane);
}

// Complete the activations of one token.
inline void add_sums(Operand* x, int64_t width) {
    if constexpr (SUMMED)
        for (int64_t c = 0; c < width; c += PAD, x += STRIDE) {
            floats total = {};
            for (int j = 0; j < 8; j++) total += load(x + j * LANES);
            store(x + PAD, total * -OFFSET);
        }
}

struct Projection {  // (experts, rows, columns)
    const void* weight;
    const TYPE* scale;
    int64_t rows, columns;
};

#if INT4
inline ints packed_words(const int32_t* from, int64_t columns_left) {
    ints words = {};
    memcpy(&words, from, size_t(std::min<int64_t>(LANES, columns_left / 8)) * 4);
    return words;
}

// Scales of LANES / 4 groups, each in the four lanes that hold the group's values.
inline floats scales(const TYPE* from, int64_t columns_left) {
    TYPE four[LANES / 4] = {};
    memcpy(four, from, size_t(std::min<int64_t>(LANES / 4, columns_left / GROUP)) * sizeof(TYPE));
#if LANES == 8
    const float a = to_float(four[0]), b = to_float(four[1]);
    return floats{a, a, a, a, b, b, b, b};
#else
    const ints group = {0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3};
#if DOT
    int64_t bits;
    memcpy(&bits, four, sizeof bits);
    __m128i wide = _mm_slli_epi32(_mm_cvtepu16_epi32(_mm_cvtsi64_si128(bits)), 16);
    return (floats)_mm512_permutexvar_ps((__m512i)group, _mm512_castps128_ps512(_mm_castsi128_ps(wide)));
#else
    floats all = {to_float(four[0]), to_float(four[1]), to_float(four[2]), to_float(four[3])};
    return __builtin_shuffle(all, group);
#endif
#endif
}

// The values at bits 0 and 16 of each word, with OFFSET added where SUMMED.
inline void unpack(floats& low, floats& high, words shifted) {
    if (SUMMED) {
        const words two = (shifted & 0x000f000fu) | 0x43004300u;  // as two bfloat16, 0x4300 being 128
        low = (floats)(two << 16), high = (floats)(two & 0xffff0000u);
    } else {
        low = __builtin_convertvector((ints)(shifted & 15u) - 8, floats);
        high = __builtin_convertvector((ints)(shifted >> 16 & 15u) - 8, floats);
    }
}

// total[row][token] += PAD columns of weights times activations
template <int R, int T>
inline void multiply_step(const ints* packed, const floats* factor, const Operand* const* x, int64_t at,
                          floats (*total)[T]) {
    floats partial[R][T] = {};
#if DOT
    // bfloat16 of -8..7; the table stands twice, so that the fifth bit of an index does not matter.
    const __m512i table = _mm512_broadcast_i64x4(_mm256_set_epi16(
        0x40e0, 0x40c0, 0x40a0, 0x4080, 0x4040, 0x4000, 0x3f80, 0, short(0xbf80), short(0xc000),
        short(0xc040), short(0xc080), short(0xc0a0), short(0xc0c0), short(0xc0e0), short(0xc100)));
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        __m512bh w[R];
        for (int r = 0; r < R; r++)
            w[r] = (__m512bh)_mm512_permutexvar_epi16(_mm512_srli_epi32((__m512i)packed[r], 4 * j), table);
        for (int t = 0; t < T; t++) {
            __m512bh operand = (__m512bh)_mm512_loadu_si512(x[t] + at + j * 2 * LANES);
            for (int r = 0; r < R; r++)
                partial[r][t] = (floats)_mm512_dpbf16_ps((__m512)partial[r][t], w[r], operand);
        }
    }
#else
    if (SUMMED)
        for (int t = 0; t < T; t++)
            for (int r = 0; r < R; r++) partial[r][t] = load(x[t] + at + PAD);
#pragma GCC unroll 4
    for (int j = 0; j < 4; j++) {
        floats low[R], high[R];
        for (int r = 0; r < R; r++) unpack(low[r], high[r], (words)packed[r] >> (4 * j));
        for (int t = 0; t < T; t++) {
            const floats first = load(x[t] + at + j * LANES), second = load(x[t] + at + (j + 4) * LANES);
            for (int r = 0; r < R; r++) partial[r][t] = partial[r][t] + low[r] * first + high[r] * second;
        }
    }
#endif
    for (int r = 0; r < R; r++)
        for (int t = 0; t < T; t++) total[r][t] += partial[r][t] * factor[r];
}

// products[row][token] = weight row . activations
template <int R, int T>
inline void multiply(const Projection& p, int64_t expert, int64_t row, const Operand* const* x,
                     float (*products)[TOKENS]) {
    const int64_t words_wide = p.columns / 8, groups_wide = p.columns / GROUP;
    const int32_t* weight = (const int32_t*)p.weight + (expert * p.rows + row) * words_wide;
    const TYPE* scale = p.scale + (expert * p.rows + row) * groups_wide;
    floats total[R][T] = {}, factor[R];
    ints packed[R];
    int64_t c = 0, at = 0;
    for (; c + PAD <= p.columns; c += PAD, at += STRIDE) {
        for (int r = 0; r < R; r++) {
            const int32_t* from = weight + r * words_wide + c / 8;
            if (PREFETCH) __builtin_prefetch((const char*)from + PREFETCH);
            packed[r] = packed_words(from, PAD);
            factor[r] = scales(scale + r * groups_wide + c / GROUP, PAD);
        }
        multiply_step<R, T>(packed, factor, x, at, total);
    }
    if (c < p.columns) {
        for (int r = 0; r < R; r++) {
            packed[r] = packed_words(weight + r * words_wide + c / 8, p.columns - c);
            factor[r] = scales(scale + r * groups_wide + c / GROUP, p.columns - c);
        }
        multiply_step<R, T>(packed, factor, x, at, total);
    }
    for (int r = 0; r < R; r++)
        for (int t = 0; t < T; t++) products[r][t] = sum(total[r][t]);
}
#else
constexpr int STEP = DOT ? 2 * LANES : LANES;

// total[row][token] += STEP columns of weights times activations
template <int R, int T>
inline void multiply_step(const TYPE* weight, int64_t next, const Operand* const* x, int64_t c,
                          floats (*total)[T]) {
#if DOT
    __m512bh w[R];
    for (int r = 0; r < R; r++) w[r] = (__m512bh)_mm512_loadu_si512(weight + r * next);
    for (int t = 0; t < T; t++) {
        __m512bh operand = (__m512bh)_mm512_loadu_si512(x[t] + c);
        for (int r = 0; r < R; r++)
            total[r][t] = (floats)_mm512_dpbf16_ps((__m512)total[r][t], w[r], operand);
    }
#else
    floats w[R];
    for (int r = 0; r < R; r++) w[r] = load(weight + r * next);
    for (int t = 0; t < T; t++) {
        floats operand = load(x[t] + c);
        for (int r = 0; r < R; r++) total[r][t] += w[r] * operand;
    }
#endif
}

// products[row][token] = weight row . activations
template <int R, int T>
inline void multiply(const Projection& p, int64_t expert, int64_t row, const Operand* const* x,
                     float (*products)[TOKENS]) {
    const TYPE* weight = (const TYPE*)p.weight + (expert * p.rows + row) * p.columns;
    floats total[R][T] = {};
    int64_t c = 0;
    for (; c + STEP <= p.columns; c += STEP) {
        if (PREFETCH)
            for (int r = 0; r < R; r++)
                __builtin_prefetch((const char*)(weight + r * p.columns + c) + PREFETCH);
        multiply_step<R, T>(weight + c, p.columns, x, c, total);
    }
    if (c < p.columns) {
        TYPE rest[R][STEP] = {};
        for (int r = 0; r < R; r++)
            memcpy(rest[r], weight + r * p.columns + c, size_t(p.columns - c) * sizeof(TYPE));
        multiply_step<R, T>(rest[0], STEP, x, c, total);
    }
    for (int r = 0; r < R; r++)
        for (int t = 0; t < T; t++) products[r][t] = sum(total[r][t]);
}
#endif

// Call body(std::integral_constant<int, w>) for the least power of two w, up to MOST, that is at least n.
template <int MOST, class Body>
inline void with_width(int n, Body body) {
    if constexpr (MOST > 1)
        if (2 * n <= MOST) return with_width<MOST / 2>(n, body);
    body(std::integral_constant<int, MOST>());
}

// products[row - first][token] for rows first..last
template <int T>
inline void multiply_rows(const Projection& p, int64_t expert, int64_t first, int64_t last,
                          const Operand* const* x, float (*products)[TOKENS]) {
    int64_t row = first;
    for (; row + ROWS <= last; row += ROWS) multiply<ROWS, T>(p, expert, row, x, products + row - first);
    for (; row < last; row++) multiply<1, T>(p, expert, row, x, products + row - first);
}

struct Routing {  // choices (token, k) in order of their expert
    int64_t hit;
    int64_t *choice, *expert, *start;  // `start[i]` to `start[i + 1]` are the choices of `expert[i]`

    void sort(const int64_t* ids, int64_t choices, int64_t experts, int64_t* count) {
        memset(count, 0, size_t(experts) * sizeof(int64_t));
        for (int64_t i = 0; i < choices; i++) count[ids[i]]++;
        hit = 0;
        int64_t next = 0;
        for (int64_t e = 0; e < experts; e++) {
            if (!count[e]) continue;
            expert[hit] = e, start[hit++] = next;
            next += count[e];
            count[e] = next - count[e];
        }
        start[hit] = next;
        for (int64_t i = 0; i < choices; i++) choice[count[ids[i]]++] = i;
    }
};

// Call body(tile width, choices, how many) for the choices of one expert, up to TOKENS at a time.
template <class Body>
inline void for_tiles(const Routing& routing, int64_t i, Body body) {
    for (int64_t c = routing.start[i]; c < routing.start[i + 1]; c += TOKENS) {
        int count = int(std::min<int64_t>(TOKENS, routing.start[i + 1] - c));
        with_width<TOKENS>(count, [&](auto width) { body(width, routing.choice + c, count); });
    }
}

template <class T>
T* take(char*& workspace, int64_t count) {
    T* taken = (T*)workspace;
    workspace += (count * int64_t(sizeof(T)) + 63) / 64 * 64;
    return taken;
}

}  // namespace

// Bytes that `experts_forward` needs in `workspace`.
extern "C" int64_t experts_workspace(int64_t tokens, int64_t top_k, int64_t experts, int64_t hidden,
                                     int64_t intermediate) {
    char* end = nullptr;
    take<Operand>(end, tokens * padded(hidden));
    take<Operand>(end, tokens * top_k * padded(intermediate));
    take<float>(end, tokens * hidden);
    take<int64_t>(end, tokens * top_k + 3 * experts + 1);
    return int64_t(end - (char*)nullptr) + 64;
}

// x, out (tokens, hidden); ids, mix (tokens, top_k); w13 (experts, 2 * intermediate, hidden), w2 (experts,
// hidden, intermediate), packed along the last dimension if INT4.
extern "C" void experts_forward(const TYPE* x, const int64_t* ids, const float* mix, const void* w13,
                                const TYPE* s13, const void* w2, const TYPE* s2, TYPE* out, int64_t tokens,
                                int64_t top_k, int64_t experts, int64_t hidden, int64_t intermediate,
                                char* workspace) {
    workspace = (char*)((uintptr_t(workspace) + 63) / 64 * 64);
    const int64_t choices = tokens * top_k, wide = padded(hidden), narrow = padded(intermediate);
    Operand* input = take<Operand>(workspace, tokens * wide);
    Operand* inner = take<Operand>(workspace, choices * narrow);
    float* total = take<float>(workspace, tokens * hidden);
    int64_t* numbers = take<int64_t>(workspace, choices + 3 * experts + 1);
    Routing routing = {0, numbers, numbers + choices, numbers + choices + experts};
    routing.sort(ids, choices, experts, numbers + choices + 2 * experts + 1);
    const Projection up = {w13, s13, 2 * intermediate, hidden}, down = {w2, s2, hidden, intermediate};
    const int64_t blocks = (intermediate + BLOCK - 1) / BLOCK;
#pragma omp parallel
    {
#pragma omp for schedule(static) nowait
        for (int64_t t = 0; t < tokens; t++) {
            memset(input + t * wide, 0, size_t(wide) * sizeof(Operand));
            for (int64_t k = 0; k < hidden; k++)
                from_float(input[t * wide + place(k)], to_float(x[t * hidden + k]));
            add_sums(input + t * wide, hidden);
        }
#pragma omp for schedule(static)
        for (int64_t i = 0; i < choices; i++) memset(inner + i * narrow, 0, size_t(narrow) * sizeof(Operand));
#pragma omp for schedule(dynamic, 1)
        for (int64_t item = 0; item < routing.hit * blocks; item++) {
            const int64_t i = item / blocks, first = item % blocks * BLOCK,
                          last = std::min(intermediate, first + BLOCK);
            for_tiles(routing, i, [&](auto width, const int64_t* choice, int count) {
                constexpr int T = decltype(width)::value;
                const Operand* rows[T];
                for (int t = 0; t < T; t++) rows[t] = input + choice[std::min(t, count - 1)] / top_k * wide;
                float gate[BLOCK][TOKENS], linear[BLOCK][TOKENS];
                multiply_rows<T>(up, routing.expert[i], first, last, rows, gate);
                multiply_rows<T>(up, routing.expert[i], intermediate + first, intermediate + last, rows,
                                 linear);
                for (int64_t r = first; r < last; r++)
                    for (int t = 0; t < count; t++) {
                        float g = gate[r - first][t];
                        from_float(inner[choice[t] * narrow + place(r)],
                                   g / (1.f + std::exp(-g)) * linear[r - first][t]);
                    }
            });
        }
        if (SUMMED) {
#pragma omp for schedule(static)
            for (int64_t i = 0; i < choices; i++) add_sums(inner + i * narrow, intermediate);
        }
#pragma omp for schedule(dynamic, 1)
        for (int64_t first = 0; first < hidden; first += 2 * BLOCK) {
            const int64_t last = std::min(hidden, first + 2 * BLOCK);
            for (int64_t t = 0; t < tokens; t++)
                memset(total + t * hidden + first, 0, size_t(last - first) * sizeof(float));
            for (int64_t i = 0; i < routing.hit; i++)
                for_tiles(routing, i, [&](auto width, const int64_t* choice, int count) {
                    constexpr int T = decltype(width)::value;
                    const Operand* rows[T];
                    for (int t = 0; t < T; t++) rows[t] = inner + choice[std::min(t, count - 1)] * narrow;
                    float products[2 * BLOCK][TOKENS];
                    multiply_rows<T>(down, routing.expert[i], first, last, rows, products);
                    for (int t = 0; t < count; t++)
                        for (int64_t r = first; r < last; r++)
                            total[choice[t] / top_k * hidden + r] += mix[choice[t]] * products[r - first][t];
                });
            for (int64_t t = 0; t < tokens; t++)
                for (int64_t r = first; r < last; r++) from_float(out[t * hidden + r], total[t * hidden + r]);
        }
    }
}
