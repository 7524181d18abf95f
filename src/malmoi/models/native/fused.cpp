// Kernels to train with on a processor: what lies between matrix products, forward and backward, each in one
// pass over memory. They read and write fp32 or bf16 and compute in fp32. Rows are independent; what is summed
// over rows is summed in PARTS of them, so that a result does not depend on the number of threads.

#include "numbers.h"

namespace {

constexpr int64_t PARTS = 16;

// f(pointers of the type that `is_bf16` says, ...) of addresses
template <class F, class... Rest>
void typed(int64_t is_bf16, F f, const void* first, Rest... rest) {
    auto as = [](auto type, auto address) { return static_cast<decltype(type)*>(const_cast<void*>(address)); };
    if (is_bf16) f(as(uint16_t(), first), as(uint16_t(), static_cast<const void*>(rest))...);
    else f(as(float(), first), as(float(), static_cast<const void*>(rest))...);
}

// f(row) of all rows, by threads
template <class F>
void for_rows(int64_t rows, int64_t threads, F f) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t row = 0; row < rows; row++) f(row);
}

// f(row, sums[width]) of all rows; adds the sums of all parts up in `total`
template <class F>
void sum_rows(int64_t rows, int64_t width, float* total, int64_t threads, F f) {
    std::vector<float> sums(PARTS * width);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t part = 0; part < PARTS; part++)
        for (int64_t row = rows * part / PARTS; row < rows * (part + 1) / PARTS; row++)
            f(row, sums.data() + part * width);
    std::fill(total, total + width, 0.0f);
    for (int64_t part = 0; part < PARTS; part++)
        for (int64_t i = 0; i < width; i++) total[i] += sums[part * width + i];
}

inline void add_to(float* to, Floats value, int64_t count) { put(to, load_up_to(to, count) + value, count); }

// --- gated units

enum Activation : int64_t { SILU, GELU };

// The activation and its derivative.
template <Activation kind>
inline void activate(Floats x, Floats& value, Floats& slope) {
    if (kind == SILU) {
        Floats s = 1.0f / (1.0f + exponential(-x));
        value = x * s, slope = s * (1.0f + x * (1.0f - s));
    } else {
        constexpr float ROOT = 0.7978845608f, CUBE = 0.044715f;  // of 2 / pi
        Floats t = hyperbolic_tangent(ROOT * (x + CUBE * x * x * x));
        value = 0.5f * x * (1.0f + t);
        slope = 0.5f * (1.0f + t) + 0.5f * x * (1.0f - t * t) * ROOT * (1.0f + 3.0f * CUBE * x * x);
    }
}

template <Activation kind, class T>
void gate(const T* gates, T* y, int64_t rows, int64_t width, int64_t threads) {
    for_rows(rows, threads, [&](int64_t row) {
        const T *one = gates + 2 * row * width, *other = one + width;
        each(width, [&](int64_t i, int64_t some) {
            Floats value, slope;
            activate<kind>(load_up_to(one + i, some), value, slope);
            put(y + row * width + i, value * load_up_to(other + i, some), some);
        });
    });
}

template <Activation kind, class T>
void gate_gradient(const T* gates, const T* dy, T* dgates, int64_t rows, int64_t width, int64_t threads) {
    for_rows(rows, threads, [&](int64_t row) {
        const T *one = gates + 2 * row * width, *other = one + width;
        T *done = dgates + 2 * row * width, *dother = done + width;
        each(width, [&](int64_t i, int64_t some) {
            Floats value, slope, given = load_up_to(dy + row * width + i, some);
            activate<kind>(load_up_to(one + i, some), value, slope);
            put(done + i, given * load_up_to(other + i, some) * slope, some);
            put(dother + i, given * value, some);
        });
    });
}

// --- norms

template <class T>
inline float squares(const T* x, int64_t width) {
    Floats total{};
    each(width, [&](int64_t i, int64_t some) {
        Floats value = load_up_to(x + i, some);
        total += value * value;
    });
    return sum(total);
}

template <class T>
inline float unit_scale(const T* x, int64_t width, float eps) {
    return 1 / std::sqrt(squares(x, width) / width + eps);
}

template <class X, class Y>
inline void norm(const X* x, float scale, const float* weight, Y* y, int64_t width) {
    each(width, [&](int64_t i, int64_t some) {
        put(y + i, load_up_to(x + i, some) * scale * load_up_to(weight + i, some), some);
    });
}

// dx of a norm, and what each number adds to the weight's gradient in dweight (or null).
template <class X, class Y>
inline void norm_gradient(
    const X* x, float scale, const float* weight, const Y* dy, X* dx, float* dweight, int64_t width
) {
    Floats along{};
    each(width, [&](int64_t i, int64_t some) {
        along += load_up_to(dy + i, some) * load_up_to(weight + i, some) * load_up_to(x + i, some);
    });
    float back = sum(along) * scale * scale / width;
    each(width, [&](int64_t i, int64_t some) {
        Floats value = load_up_to(x + i, some), given = load_up_to(dy + i, some);
        if (dweight) add_to(dweight + i, given * value * scale, some);
        put(dx + i, scale * (given * load_up_to(weight + i, some) - back * value), some);
    });
}

// --- heads

struct Heads {
    const void *qkv, *q, *k, *v;  // [rows][length][heads + 2 kv_heads][width]; [rows][heads][length][width]
    const float *cos, *sin;       // [length][width], `table_stride` apart from row to row; null: not turned
    const float *q_weight, *k_weight;  // of norms; null: there are none
    float *dq_weight, *dk_weight;
    int64_t rows, length, heads, kv_heads, width, table_stride, is_bf16;
    float eps;
};

constexpr int64_t WIDEST = 1024;  // head

// to = from cos + (second half, first half) sin, or turned back
template <class From, class To>
inline void turn(const From* from, const float* cos, const float* sin, float sign, To* to, int64_t width) {
    int64_t half = width / 2;
    each(half, [&](int64_t i, int64_t some) {
        Floats one = load_up_to(from + i, some), other = load_up_to(from + half + i, some);
        Floats first = one * load_up_to(cos + i, some) + sign * other * load_up_to(sin + i, some);
        Floats second =
            other * load_up_to(cos + half + i, some) + sign * one * load_up_to(sin + half + i, some);
        put(to + i, first, some), put(to + half + i, second, some);
    });
}

// f(vector of qkv, vector of q, k or v, norm's weight or null, its gradient's place in sums, whether it is
// turned) of all heads at one position
template <class T, class F>
inline void each_head(const Heads& h, int64_t at, F f) {
    int64_t row = at / h.length, t = at % h.length, all = h.heads + 2 * h.kv_heads;
    T* of = static_cast<T*>(const_cast<void*>(h.qkv)) + at * all * h.width;
    auto some = [&](const void* to, int64_t heads, const float* weight, int64_t place, bool turned) {
        for (int64_t j = 0; j < heads; j++, of += h.width)
            f(of, static_cast<T*>(const_cast<void*>(to)) + ((row * heads + j) * h.length + t) * h.width, weight,
              place, turned && h.cos);
    };
    some(h.q, h.heads, h.q_weight, 0, true);
    some(h.k, h.kv_heads, h.k_weight, h.width, true);
    some(h.v, h.kv_heads, nullptr, 0, false);
}

inline int64_t table_at(const Heads& h, int64_t at) {
    return at / h.length * h.table_stride + at % h.length * h.width;
}

template <class T>
void split_heads(const Heads& h, int64_t threads) {
    for_rows(h.rows * h.length, threads, [&](int64_t at) {
        const float *cos = h.cos + table_at(h, at), *sin = h.sin + table_at(h, at);
        each_head<T>(h, at, [&](T* from, T* to, const float* weight, int64_t, bool turned) {
            float scale = weight ? unit_scale(from, h.width, h.eps) : 1, normed[WIDEST];
            if (weight && turned) {
                norm(from, scale, weight, normed, h.width);
                turn(normed, cos, sin, 1, to, h.width);
            } else if (weight) norm(from, scale, weight, to, h.width);
            else if (turned) turn(from, cos, sin, 1, to, h.width);
            else std::memcpy(to, from, h.width * sizeof(T));
        });
    });
}

// q, k and v hold gradients, qkv what was split; the gradient of that is written to dqkv.
template <class T>
void split_heads_gradient(const Heads& h, T* dqkv, int64_t threads) {
    std::vector<float> sums(2 * h.width);
    const T* qkv = static_cast<const T*>(h.qkv);
    sum_rows(h.rows * h.length, 2 * h.width, sums.data(), threads, [&](int64_t at, float* part) {
        const float *cos = h.cos + table_at(h, at), *sin = h.sin + table_at(h, at);
        each_head<T>(h, at, [&](T* from, T* given, const float* weight, int64_t place, bool turned) {
            float scale = weight ? unit_scale(from, h.width, h.eps) : 1, back[WIDEST];
            T* to = dqkv + (from - qkv);
            float* sums = part + place;
            if (weight && turned) {
                turn(given, cos, sin, -1, back, h.width);
                norm_gradient(from, scale, weight, back, to, sums, h.width);
            } else if (weight) norm_gradient(from, scale, weight, given, to, sums, h.width);
            else if (turned) turn(given, cos, sin, -1, to, h.width);
            else std::memcpy(to, given, h.width * sizeof(T));
        });
    });
    if (h.dq_weight) {
        std::copy_n(sums.data(), h.width, h.dq_weight);
        std::copy_n(sums.data() + h.width, h.width, h.dk_weight);
    }
}

// --- cross-entropy

// The loss of a row, whose logits become their gradient. softcap: 0, or what logits are bounded by.
template <class T>
float cross_entropy(T* logits, int64_t target, int64_t width, float softcap) {
    if (target < 0) {
        std::fill(logits, logits + width, T(0));
        return 0;
    }
    auto bounded = [&](Floats x) { return softcap ? softcap * hyperbolic_tangent(x / softcap) : x; };
    Floats most = Floats{} - INFINITY, total{};
    int64_t whole = width / LANES * LANES;
    for (int64_t i = 0; i < whole; i += LANES) {
        Floats x = load(logits + i);
        most = x > most ? x : most;
    }
    float highest = largest(most);
    for (int64_t i = whole; i < width; i++) highest = std::max(highest, load_some(logits + i, 1)[0]);
    highest = bounded(Floats{} + highest)[0];
    float aim = bounded(load_some(logits + target, 1))[0];
    for (int64_t i = 0; i < whole; i += LANES) total += exponential(bounded(load(logits + i)) - highest);
    float rest = 0;
    for (int64_t i = whole; i < width; i++)
        rest += exponential(bounded(load_some(logits + i, 1)) - highest)[0];
    float all = sum(total) + rest, share = 1 / all;
    each(width, [&](int64_t i, int64_t some) {
        Floats x = bounded(load_up_to(logits + i, some)), p = exponential(x - highest) * share;
        if (target >= i && target < i + some) p[target - i] -= 1;
        put(logits + i, softcap ? p * (1.0f - x / softcap * (x / softcap)) : p, some);
    });
    return std::log(all) + highest - aim;
}

}  // namespace

extern "C" {

// y[rows][width] = activation(first half) * second half, of gates[rows][2 width]
void malmoi_gate(
    int64_t kind, int64_t is_bf16, const void* gates, void* y, int64_t rows, int64_t width, int64_t threads
) {
    typed(is_bf16, [&](auto* gates, auto* y) {
        if (kind == SILU) gate<SILU>(gates, y, rows, width, threads);
        else gate<GELU>(gates, y, rows, width, threads);
    }, gates, y);
}

void malmoi_gate_gradient(
    int64_t kind, int64_t is_bf16, const void* gates, const void* dy, void* dgates, int64_t rows, int64_t width,
    int64_t threads
) {
    typed(is_bf16, [&](auto* gates, auto* dy, auto* dgates) {
        if (kind == SILU) gate_gradient<SILU>(gates, dy, dgates, rows, width, threads);
        else gate_gradient<GELU>(gates, dy, dgates, rows, width, threads);
    }, gates, dy, dgates);
}

// y = x scale weight, with 1 / sqrt(mean(x^2) + eps) of each row in scales
void malmoi_norm(
    const void* x, int64_t x_is_bf16, const float* weight, void* y, int64_t y_is_bf16, float* scales,
    int64_t rows, int64_t width, float eps, int64_t threads
) {
    typed(x_is_bf16, [&](auto* x) {
        typed(y_is_bf16, [&](auto* y) {
            for_rows(rows, threads, [&](int64_t row) {
                scales[row] = unit_scale(x + row * width, width, eps);
                norm(x + row * width, scales[row], weight, y + row * width, width);
            });
        }, y);
    }, x);
}

// dweight: null where it is not wanted
void malmoi_norm_gradient(
    const void* x, int64_t x_is_bf16, const float* weight, const float* scales, const void* dy,
    int64_t dy_is_bf16, void* dx, float* dweight, int64_t rows, int64_t width, int64_t threads
) {
    typed(x_is_bf16, [&](auto* x, auto* dx) {
        typed(dy_is_bf16, [&](auto* dy) {
            auto row_of = [&](int64_t row, float* sums) {
                int64_t at = row * width;
                norm_gradient(x + at, scales[row], weight, dy + at, dx + at, sums, width);
            };
            if (dweight) sum_rows(rows, width, dweight, threads, row_of);
            else for_rows(rows, threads, [&](int64_t row) { row_of(row, nullptr); });
        }, dy);
    }, x, dx);
}

void malmoi_split_heads(const Heads* heads, int64_t threads) {
    if (heads->is_bf16) split_heads<uint16_t>(*heads, threads);
    else split_heads<float>(*heads, threads);
}

void malmoi_split_heads_gradient(const Heads* heads, void* dqkv, int64_t threads) {
    typed(heads->is_bf16, [&](auto* dqkv) { split_heads_gradient(*heads, dqkv, threads); }, dqkv);
}

// losses[rows] of logits[rows][width], which become their gradients; a target below 0 is none
void malmoi_cross_entropy(
    void* logits, int64_t is_bf16, const int64_t* targets, float* losses, int64_t rows, int64_t width,
    float softcap, int64_t threads
) {
    typed(is_bf16, [&](auto* logits) {
        for_rows(rows, threads, [&](int64_t row) {
            losses[row] = cross_entropy(logits + row * width, targets[row], width, softcap);
        });
    }, logits);
}
}
