// Attention in blocks of keys with an online softmax (Dao, FlashAttention-2, arXiv:2307.08691), for one step
// of decode or a prompt.
//
// All query heads that share a key/value head are rows of one tile, so that each key is read once for all of
// them. A key may come in two parts, as in multi-head latent attention: its latent and its rotary part.
//
// Fixed at compile time:
//   KV, QUERY, OUT  storage types: float, bfloat16 or _Float16
//   K1, K2, V       widths: of the key's first and second part (0: none) and of the value; multiples of 16
//   ROWS            query rows in a register tile: 1, 2, 4 or 8
//   BLOCK           keys per step of the softmax
//   TILE            query rows that one work item holds
//   PREFETCH        keys ahead of the one in use to fetch; 0 leaves it to the hardware
//   PACK            1: keys and values of a block are rearranged for the CPU's bfloat16 dot product, which
//                   pays off over many query rows; softmax weights are rounded to bfloat16 then, as torch's
//                   flash kernel rounds them. Needs QUERY and KV of bfloat16, AVX512-BF16, and widths that are
//                   multiples of 32

#include "vector.hpp"

#include <algorithm>
#include <cmath>
#include <omp.h>
#include <type_traits>

namespace {

constexpr int KEYS = LANES / ROWS;  // keys in a register tile of scores
constexpr int K = K1 + K2;
constexpr int PADDED = (TILE + ROWS - 1) / ROWS * ROWS;
constexpr int WIDE = std::min(LANES / ROWS, V / LANES);  // vectors of values in a register tile
constexpr int COLUMNS = (BLOCK + 2 * LANES - 1) / (2 * LANES) * (2 * LANES);

#ifdef __AVX512BF16__
constexpr bool DOT =
    std::is_same<KV, bfloat16>::value && std::is_same<QUERY, bfloat16>::value && K1 % 32 == 0 && K2 % 32 == 0;
#else
constexpr bool DOT = false;
#endif
static_assert(!PACK || (DOT && V % 32 == 0), "PACK needs bfloat16 data and AVX512-BF16");

struct Strides {  // in elements: batch, head (or key/value head), position
    int64_t batch, head, position;
};

struct Arguments {
    const QUERY* query;
    const KV *key1, *key2, *value;
    OUT* out;
    float* workspace;
    Strides q, k1, k2, v, o;
    int64_t batch, groups, shared, queries, keys, splits, causal;
    float scale;
};

struct Scratch {  // of one thread
    alignas(64) QUERY query[PADDED * K];
    alignas(64) float score[PADDED][COLUMNS];
    alignas(64) uint32_t weight[PACK ? ROWS : 1][PACK ? COLUMNS / 2 : 1];  // of two neighbouring keys
    alignas(64) uint32_t keys[PACK ? K / 2 : 1][PACK ? COLUMNS : 1];    // two neighbouring elements, by key
    alignas(64) uint32_t values[PACK ? COLUMNS / 2 : 1][PACK ? V : 1];  // two neighbouring keys, by element
    alignas(64) float sum[PADDED * V];
    float largest[PADDED], total[PADDED];
};

#ifdef __AVX512BF16__
inline __m512bh dots(const void* from) { return (__m512bh)_mm512_loadu_si512(from); }
#endif

// accumulators[row][key] += query . key over one part of the keys
template <int WIDTH>
inline void dot_keys(const QUERY* query, const KV* const* key, floats (*accumulators)[KEYS]) {
#ifdef __AVX512BF16__
    if constexpr (DOT) {
        for (int d = 0; d < WIDTH; d += 2 * LANES) {
            __m512bh k[KEYS];
            for (int j = 0; j < KEYS; j++) k[j] = dots(key[j] + d);
            for (int i = 0; i < ROWS; i++) {
                __m512bh q = dots(query + i * K + d);
                for (int j = 0; j < KEYS; j++)
                    accumulators[i][j] = (floats)_mm512_dpbf16_ps((__m512)accumulators[i][j], q, k[j]);
            }
        }
        return;
    }
#endif
    for (int d = 0; d < WIDTH; d += LANES) {
        floats k[KEYS];
        for (int j = 0; j < KEYS; j++) k[j] = load(key[j] + d);
        for (int i = 0; i < ROWS; i++) {
            floats q = load(query + i * K + d);
            for (int j = 0; j < KEYS; j++) accumulators[i][j] += q * k[j];
        }
    }
}

inline void prefetch(const Arguments& a, const KV* k1, const KV* k2, const KV* v, int64_t c) {
    constexpr int line = 64 / sizeof(KV);
    for (int d = 0; d < K1; d += line) __builtin_prefetch(k1 + c * a.k1.position + d);
    for (int d = 0; d < K2; d += line) __builtin_prefetch(k2 + c * a.k2.position + d);
    if (v != k1)
        for (int d = 0; d < V; d += line) __builtin_prefetch(v + c * a.v.position + d);
}

#ifdef __AVX512BF16__
// Rearrange a block, so that a dot product's lanes are keys for scores and elements for values.
void pack(const Arguments& a, Scratch& s, const KV* k1, const KV* k2, const KV* v, int64_t first, int count) {
    for (int t = 0; t < count; t += LANES) {
        for (int d = 0; d < K; d += 2 * LANES) {
            words rows[LANES];
            for (int i = 0; i < LANES; i++) {
                int64_t c = first + std::min(t + i, count - 1);
                memcpy(&rows[i], d < K1 ? k1 + c * a.k1.position + d : k2 + c * a.k2.position + d - K1,
                       sizeof rows[i]);
            }
            transpose(rows);
            for (int i = 0; i < LANES; i++) memcpy(&s.keys[d / 2 + i][t], &rows[i], sizeof rows[i]);
        }
    }
    alignas(64) uint16_t interleaved[2 * LANES];
    for (int i = 0; i < 2 * LANES; i++) interleaved[i] = uint16_t(i / 2 + i % 2 * 2 * LANES);
    const __m512i even = _mm512_load_si512(interleaved),
                  odd = _mm512_add_epi16(even, _mm512_set1_epi16(LANES));
    for (int t = 0; t < count; t += 2) {
        const KV *lower = v + (first + t) * a.v.position,
                 *upper = v + (first + std::min(t + 1, count - 1)) * a.v.position;
        for (int d = 0; d < V; d += 2 * LANES) {
            __m512i x = _mm512_loadu_si512(lower + d), y = _mm512_loadu_si512(upper + d);
            _mm512_store_si512(&s.values[t / 2][d], _mm512_permutex2var_epi16(x, even, y));
            _mm512_store_si512(&s.values[t / 2][d + LANES], _mm512_permutex2var_epi16(x, odd, y));
        }
    }
}

// score[row][t:t + 16 * COUNT] for the ROWS rows from `row` on, over packed keys
template <int COUNT>
inline void score_packed(const Arguments& a, Scratch& s, int row, int t) {
    floats accumulators[ROWS][COUNT] = {};
    const uint32_t* query = (const uint32_t*)(s.query + row * K);
    for (int d = 0; d < K / 2; d++) {
        __m512bh k[COUNT];
        for (int j = 0; j < COUNT; j++) k[j] = dots(&s.keys[d][t + j * LANES]);
        for (int i = 0; i < ROWS; i++) {
            __m512bh q = (__m512bh)_mm512_set1_epi32(query[i * K / 2 + d]);
            for (int j = 0; j < COUNT; j++)
                accumulators[i][j] = (floats)_mm512_dpbf16_ps((__m512)accumulators[i][j], q, k[j]);
        }
    }
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < COUNT; j++) store(&s.score[row + i][t + j * LANES], accumulators[i][j] * a.scale);
}
#endif

// score[row][0:count] for the ROWS rows from `row` on
void score_block(const Arguments& a, Scratch& s, int row, const KV* k1, const KV* k2, int64_t first,
                 int count) {
#ifdef __AVX512BF16__
    if constexpr (PACK) {
        int t = 0;
        for (; t + KEYS * LANES <= COLUMNS && t < count; t += KEYS * LANES) score_packed<KEYS>(a, s, row, t);
        for (; t < count; t += LANES) score_packed<1>(a, s, row, t);
        return;
    }
#endif
    for (int t = 0; t < count; t += KEYS) {
        const KV *part1[KEYS], *part2[KEYS];
        for (int j = 0; j < KEYS; j++) {
            int64_t c = first + std::min(t + j, count - 1);
            part1[j] = k1 + c * a.k1.position;
            part2[j] = k2 + c * a.k2.position;
        }
        floats accumulators[ROWS][KEYS] = {};
        dot_keys<K1>(s.query + row * K, part1, accumulators);
        if (K2) dot_keys<K2>(s.query + row * K + K1, part2, accumulators);
        alignas(64) float total[LANES];
        store(total, sums(&accumulators[0][0]) * a.scale);
        for (int i = 0; i < ROWS; i++) memcpy(&s.score[row + i][t], total + i * KEYS, KEYS * sizeof(float));
    }
}

// Turn scores of one row into softmax weights, of which the first `visible` count.
// Returns the factor by which earlier sums shrink.
float weigh(Scratch& s, int row, int visible) {
    float* score = s.score[row];
    int padded = (visible + LANES - 1) / LANES * LANES;
    for (int t = visible; t < padded; t++) score[t] = -INFINITY;
    floats best = splat(s.largest[row]);
    for (int t = 0; t < padded; t += LANES) {
        floats x = load(score + t);
        best = x > best ? x : best;
    }
    float largest = s.largest[row];
    for (int i = 0; i < LANES; i++) largest = std::max(largest, best[i]);
    float shrink = s.largest[row] == -INFINITY ? 0.f : std::exp(s.largest[row] - largest);
    floats total = {};
    for (int t = 0; t < padded; t += LANES) {
        floats x = load(score + t);
        floats w = x == splat(-INFINITY) ? floats{} : exp_nonpositive(x - largest);
        store(score + t, w);
        total += w;
    }
    s.largest[row] = largest;
    s.total[row] = s.total[row] * shrink + sum(total);
    return shrink;
}

// sum[row][d...] = shrink[row] * sum + weights . values, COUNT vectors wide
template <int COUNT>
inline void add_values(const Arguments& a, Scratch& s, int row, int d, const float* shrink, const KV* v,
                       int count) {
    floats accumulators[ROWS][COUNT];
    float* sums = s.sum + row * V + d;
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < COUNT; j++) accumulators[i][j] = load(sums + i * V + j * LANES) * shrink[i];
#ifdef __AVX512BF16__
    if constexpr (PACK) {
        for (int t = 0; t < (count + 1) / 2; t++) {
            __m512bh x[COUNT];
            for (int j = 0; j < COUNT; j++) x[j] = dots(&s.values[t][d + j * LANES]);
            for (int i = 0; i < ROWS; i++) {
                __m512bh w = (__m512bh)_mm512_set1_epi32(s.weight[i][t]);
                for (int j = 0; j < COUNT; j++)
                    accumulators[i][j] = (floats)_mm512_dpbf16_ps((__m512)accumulators[i][j], w, x[j]);
            }
        }
    } else
#endif
        for (int t = 0; t < count; t++) {
            floats x[COUNT];
            for (int j = 0; j < COUNT; j++) x[j] = load(v + t * a.v.position + d + j * LANES);
            for (int i = 0; i < ROWS; i++) {
                floats w = splat(s.score[row + i][t]);
                for (int j = 0; j < COUNT; j++) accumulators[i][j] += w * x[j];
            }
        }
    for (int i = 0; i < ROWS; i++)
        for (int j = 0; j < COUNT; j++) store(sums + i * V + j * LANES, accumulators[i][j]);
}

// Keys that a row does not see weigh nothing; packed values take weights as pairs of bfloat16.
void finish_weights(Scratch& s, int row, const int* visible, int count) {
    for (int i = 0; i < ROWS; i++) {
        float* weight = s.score[row + i];
        for (int t = visible[i]; t < count; t++) weight[t] = 0;
#ifdef __AVX512BF16__
        if constexpr (PACK) {
            if (count % 2) weight[count] = 0;
            for (int t = 0; t < count; t += 2 * LANES)
                _mm512_store_si512(
                    &s.weight[i][t / 2],
                    (__m512i)_mm512_cvtne2ps_pbh((__m512)load(weight + t + LANES), (__m512)load(weight + t)));
        }
#endif
    }
}

// Attend `rows` query rows, from row `start` of the group on, over keys first..last.
void attend(const Arguments& a, Scratch& s, int64_t batch, int64_t group, int64_t start, int rows,
            int64_t first, int64_t last) {
    const KV* k1 = a.key1 + batch * a.k1.batch + group * a.k1.head;
    const KV* k2 = a.key2 + batch * a.k2.batch + group * a.k2.head;
    const KV* v = a.value + batch * a.v.batch + group * a.v.head;
    int padded = (rows + ROWS - 1) / ROWS * ROWS;
    int64_t limit[PADDED];  // keys that a row sees
    for (int i = 0; i < padded; i++) {
        int64_t row = start + std::min(i, rows - 1), position = row / a.shared, head = row % a.shared;
        limit[i] = a.causal ? a.keys - a.queries + position + 1 : a.keys;
        const QUERY* q =
            a.query + batch * a.q.batch + (group * a.shared + head) * a.q.head + position * a.q.position;
        memcpy(s.query + i * K, q, K * sizeof(QUERY));
        s.largest[i] = -INFINITY;
        s.total[i] = 0;
    }
    memset(s.sum, 0, sizeof(float) * padded * V);
    last = std::min(last, limit[padded - 1]);
    for (int64_t c = first; c < last; c += BLOCK) {
        int count = int(std::min<int64_t>(BLOCK, last - c));
        if (PREFETCH)
            for (int64_t ahead = c + PREFETCH; ahead < std::min(c + PREFETCH + count, last); ahead++)
                prefetch(a, k1, k2, v, ahead);
#ifdef __AVX512BF16__
        if constexpr (PACK) pack(a, s, k1, k2, v, c, count);
#endif
        for (int row = 0; row < padded; row += ROWS) {
            if (limit[row + ROWS - 1] <= c) continue;
            int visible[ROWS];
            float shrink[ROWS];
            score_block(a, s, row, k1, k2, c, count);
            for (int i = 0; i < ROWS; i++) {
                visible[i] = int(std::clamp<int64_t>(limit[row + i] - c, 0, count));
                shrink[i] = visible[i] ? weigh(s, row + i, visible[i]) : 1.f;
            }
            finish_weights(s, row, visible, count);
            int d = 0;
            for (; d + WIDE * LANES <= V; d += WIDE * LANES)
                add_values<WIDE>(a, s, row, d, shrink, v + c * a.v.position, count);
            for (; d < V; d += LANES) add_values<1>(a, s, row, d, shrink, v + c * a.v.position, count);
        }
    }
}

void write_out(const Arguments& a, const float* sum, float total, int64_t batch, int64_t group, int64_t row) {
    OUT* out = a.out + batch * a.o.batch + (group * a.shared + row % a.shared) * a.o.head +
               row / a.shared * a.o.position;
    float reciprocal = 1.f / total;
    for (int d = 0; d < V; d++) from_float(out[d], sum[d] * reciprocal);
}

constexpr int64_t PARTIAL = V + 2;  // of one row of one split: its sum, its largest score, its total

// Put the splits of one row together, weighing each by what its softmax left out.
void merge(const Arguments& a, int64_t batch, int64_t group, int64_t row, int64_t rows) {
    const float* part = a.workspace + ((batch * a.groups + group) * a.splits * rows + row) * PARTIAL;
    const int64_t next = rows * PARTIAL;
    float largest = -INFINITY, total = 0;
    for (int64_t i = 0; i < a.splits; i++) largest = std::max(largest, part[i * next + V]);
    float sum[V] = {};
    for (int64_t i = 0; i < a.splits; i++) {
        const float* split = part + i * next;
        if (split[V] == -INFINITY) continue;
        float factor = std::exp(split[V] - largest);
        total += factor * split[V + 1];
        for (int d = 0; d < V; d++) sum[d] += factor * split[d];
    }
    write_out(a, sum, total, batch, group, row);
}

}  // namespace

// Bytes that `attention` needs in `workspace`.
extern "C" int64_t attention_workspace(int64_t batch, int64_t groups, int64_t rows, int64_t splits) {
    int64_t partial = splits > 1 ? batch * groups * rows * splits * PARTIAL * int64_t(sizeof(float)) : 0;
    return omp_get_max_threads() * int64_t(sizeof(Scratch)) + partial + 64;
}

// sizes: batch, groups (key/value heads), shared (query heads of each), queries, keys, splits, causal;
// strides: batch, head, position of query, key1, key2, value, out.
extern "C" void attention(const QUERY* query, const KV* key1, const KV* key2, const KV* value, OUT* out,
                          const int64_t* sizes, const int64_t* strides, float scale, char* workspace) {
    Arguments a;
    a.query = query, a.key1 = key1, a.key2 = key2, a.value = value, a.out = out, a.scale = scale;
    a.batch = sizes[0], a.groups = sizes[1], a.shared = sizes[2], a.queries = sizes[3], a.keys = sizes[4];
    a.splits = sizes[5], a.causal = sizes[6];
    Strides* all[] = {&a.q, &a.k1, &a.k2, &a.v, &a.o};
    for (int i = 0; i < 5; i++) *all[i] = {strides[3 * i], strides[3 * i + 1], strides[3 * i + 2]};
    Scratch* scratch = (Scratch*)((uintptr_t(workspace) + 63) / 64 * 64);
    a.workspace = (float*)(scratch + omp_get_max_threads());
    const int64_t rows = a.shared * a.queries, tiles = (rows + TILE - 1) / TILE;
    const int64_t keys = ((a.keys + a.splits - 1) / a.splits + BLOCK - 1) / BLOCK * BLOCK;
#pragma omp parallel
    {
        Scratch& s = scratch[omp_get_thread_num()];
        // Last tiles of a causal prompt are the longest: take them first.
#pragma omp for schedule(dynamic, 1)
        for (int64_t item = 0; item < a.batch * a.groups * tiles * a.splits; item++) {
            int64_t split = item % a.splits, pair = item / a.splits % (a.batch * a.groups);
            int64_t tile = tiles - 1 - item / a.splits / (a.batch * a.groups);
            int64_t batch = pair / a.groups, group = pair % a.groups, start = tile * TILE;
            int count = int(std::min<int64_t>(TILE, rows - start));
            attend(a, s, batch, group, start, count, split * keys, std::min(a.keys, (split + 1) * keys));
            for (int i = 0; i < count; i++) {
                if (a.splits == 1) {
                    write_out(a, s.sum + i * V, s.total[i], batch, group, start + i);
                    continue;
                }
                float* partial = a.workspace + ((pair * a.splits + split) * rows + start + i) * PARTIAL;
                memcpy(partial, s.sum + i * V, V * sizeof(float));
                partial[V] = s.largest[i], partial[V + 1] = s.total[i];
            }
        }
        if (a.splits > 1) {
#pragma omp for schedule(static)
            for (int64_t i = 0; i < a.batch * a.groups * rows; i++)
                merge(a, i / rows / a.groups, i / rows % a.groups, i % rows, rows);
        }
    }
}
