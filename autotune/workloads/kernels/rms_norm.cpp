// y = x / sqrt(mean(x^2) + epsilon) * weight for each row, after adding a residual: one pass over memory.
//
// STORED is the storage type of all tensors: bfloat16, _Float16 or float.

#include <cmath>

#include <omp.h>

#include "vector.hpp"

namespace {

inline floats input(const STORED* x, const STORED* residual, int64_t column, int64_t hidden) {
    floats value = load(x + column, hidden - column);
    return residual ? value + load(residual + column, hidden - column) : value;
}

void normalise(const STORED* x, const STORED* residual, const STORED* weight, STORED* y, STORED* sum_out, int64_t hidden, float epsilon) {
    // Four sums: one would wait for each addition.
    floats squares[4] = {};
    for (int64_t c = 0; c < hidden; c += 4 * LANES)
        for (int j = 0; j < 4 && c + j * LANES < hidden; j++) {
            floats value = input(x, residual, c + j * LANES, hidden);
            squares[j] += value * value;
            if (sum_out) store(sum_out + c + j * LANES, value, hidden - c - j * LANES);
        }
    const float mean = sum(squares[0] + squares[1] + (squares[2] + squares[3])) / float(hidden);
    const float scale = 1.f / std::sqrt(mean + epsilon);
    // The row is in the first-level cache by now.
    for (int64_t c = 0; c < hidden; c += LANES)
        store(y + c, input(x, residual, c, hidden) * scale * load(weight + c, hidden - c), hidden - c);
}

}  // namespace

// `residual` and `sum_out` are null where nothing is added.
extern "C" void rms_norm(const STORED* x, const STORED* residual, const STORED* weight, STORED* y, STORED* sum_out, int64_t rows,
                         int64_t hidden, float epsilon, int64_t threads) {
#pragma omp parallel for schedule(static) num_threads(int(threads)) if (threads > 1)
    for (int64_t row = 0; row < rows; row++) {
        const int64_t at = row * hidden;
        normalise(x + at, residual ? residual + at : nullptr, weight, y + at, sum_out ? sum_out + at : nullptr, hidden, epsilon);
    }
}
