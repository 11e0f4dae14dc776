// y = silu(gate) * up for each row of x = (gate, up): one pass over memory.
//
// STORED is the storage type of x and y: bfloat16, _Float16 or float.

#include <omp.h>

#include "vector.hpp"

namespace {

inline floats silu(floats x) {
    const floats zero = {};
    // exp of a number that is not positive cannot overflow.
    const floats shrunk = exp_nonpositive(x < zero ? x : -x);
    return x * (x < zero ? shrunk : splat(1.f)) / (shrunk + 1.f);
}

}  // namespace

extern "C" void silu_and_mul(const STORED* x, STORED* y, int64_t rows, int64_t width, int64_t threads) {
    // Spans of columns, so that a single wide row keeps all threads busy.
    constexpr int64_t SPAN = 1024;
    const int64_t spans = (width + SPAN - 1) / SPAN;
#pragma omp parallel for schedule(static) num_threads(int(threads)) if (threads > 1)
    for (int64_t item = 0; item < rows * spans; item++) {
        const int64_t row = item / spans, first = item % spans * SPAN;
        const int64_t last = first + SPAN < width ? first + SPAN : width;
        const STORED *gate = x + row * 2 * width, *up = gate + width;
        for (int64_t c = first; c < last; c += LANES)
            store(y + row * width + c, silu(load(gate + c, last - c)) * load(up + c, last - c), last - c);
    }
}
