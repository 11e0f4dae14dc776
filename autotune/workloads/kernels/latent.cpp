// The two ends of multi-head latent attention in its absorbed form (DeepSeek-V2, arXiv:2405.04434): queries
// into the latent space, and what was attended to there back into values. Weights are read as checkpoints
// store them.
//
// Fixed at compile time:
//   TYPE              storage type of queries, weights and values: float, bfloat16 or _Float16
//   NOPE, ROPE, V     widths of a head: of the query without and with rotary embedding, of the value
//   RANK              width of the latent; a multiple of 16
//   SEQUENCES         sequences in a register tile: 1, 2 or 4

#include "vector.hpp"

#include <algorithm>

namespace {

constexpr int ROWS = LANES / SEQUENCES;  // weight rows in a register tile of `expand_values`
constexpr int FOLDED = 4;                // weight rows added at once in `absorb`

}  // namespace

// query (batch, heads, RANK + ROPE), float: [nope . weight[:NOPE], rope];
// nope (batch, heads, NOPE), rope (batch, heads, ROPE), weight (heads, NOPE + V, RANK).
extern "C" void absorb(const TYPE* nope, const TYPE* rope, const TYPE* weight, float* query, int64_t batch,
                       int64_t heads) {
#pragma omp parallel for schedule(static)
    for (int64_t h = 0; h < heads; h++) {
        const TYPE* rows = weight + h * (NOPE + V) * RANK;
        for (int64_t b = 0; b < batch; b++) {
            float* to = query + (b * heads + h) * (RANK + ROPE);
            for (int r = 0; r < RANK; r++) to[r] = 0;
            for (int r = 0; r < ROPE; r++) to[RANK + r] = to_float(rope[(b * heads + h) * ROPE + r]);
        }
        for (int n = 0; n < NOPE; n += FOLDED)
            for (int64_t b = 0; b < batch; b++) {
                const TYPE* from = nope + (b * heads + h) * NOPE;
                float* to = query + (b * heads + h) * (RANK + ROPE);
                for (int r = 0; r < RANK; r += LANES) {
                    floats total = load(to + r);
                    for (int i = n; i < std::min(NOPE, n + FOLDED); i++)
                        total += to_float(from[i]) * load(rows + i * RANK + r);
                    store(to + r, total);
                }
            }
    }
}

// out (batch, heads, V) = weight[NOPE:] . latent, for latent (batch, heads, RANK), float.
extern "C" void expand_values(const float* latent, const TYPE* weight, TYPE* out, int64_t batch,
                              int64_t heads) {
#pragma omp parallel for schedule(static)
    for (int64_t h = 0; h < heads; h++) {
        const TYPE* rows = weight + (h * (NOPE + V) + NOPE) * RANK;
        for (int v = 0; v < V; v += ROWS)
            for (int64_t first = 0; first < batch; first += SEQUENCES) {
                floats total[ROWS][SEQUENCES] = {};
                for (int r = 0; r < RANK; r += LANES) {
                    floats x[SEQUENCES];
                    for (int j = 0; j < SEQUENCES; j++)
                        x[j] = load(latent + (std::min(first + j, batch - 1) * heads + h) * RANK + r);
                    for (int i = 0; i < ROWS; i++) {
                        floats w = load(rows + std::min(v + i, V - 1) * RANK + r);
                        for (int j = 0; j < SEQUENCES; j++) total[i][j] += w * x[j];
                    }
                }
                alignas(64) float products[LANES];
                store(products, sums(&total[0][0]));
                for (int i = 0; i < std::min(ROWS, V - v); i++)
                    for (int j = 0; j < SEQUENCES && first + j < batch; j++)
                        from_float(out[((first + j) * heads + h) * V + v + i], products[i * SEQUENCES + j]);
            }
    }
}
