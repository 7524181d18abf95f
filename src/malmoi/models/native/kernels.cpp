// Kernels to answer with on a processor: a matrix times few or many rows, and all of a decoder's blocks in
// one call. Compiled on the user's machine (library.py), for its processor.
//
// A matrix lies in panels of WIDE outputs. Within a panel, words of 32 bits (one input in fp32, two in bf16,
// four in 8 bits) are ordered by input, then by output, so a vector holds one word of LANES outputs, and one
// word of a row, repeated, multiplies it. Every output is summed over the inputs in their order whatever
// stands beside it, so a row's result does not depend on the other rows of a call.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include <immintrin.h>
#include <omp.h>

namespace {

using std::int64_t;

#if defined(__AVX512F__)
constexpr int LANES = 16, TILE = 12;  // 24 sums, 2 words of a panel and the repeated one in 32 registers
#else
constexpr int LANES = 8, TILE = 6;  // 12 sums in 16 registers
#endif
constexpr int WIDE = 2 * LANES;
constexpr int64_t SCORES = 1 << 18;  // of a block of queries at once (1 MiB), but TILE queries at least

typedef float Floats __attribute__((vector_size(4 * LANES)));
typedef int32_t Ints __attribute__((vector_size(4 * LANES)));
typedef uint32_t Words __attribute__((vector_size(4 * LANES)));
typedef uint16_t Halves __attribute__((vector_size(2 * LANES)));

// Memory need not be aligned to vectors: everything goes through memcpy, which is one instruction then.
template <class To>
inline To read(const void* from) {
    To to;
    std::memcpy(&to, from, sizeof to);
    return to;
}

template <class To, class From>
inline To bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    return read<To>(&from);
}

// --- numbers

inline float widened(uint16_t half) { return bits<float>(uint32_t(half) << 16); }

inline uint16_t halved(float value) {  // to the nearest bf16, ties to even
    uint32_t word = bits<uint32_t>(value);
    return uint16_t((word + 0x7fff + ((word >> 16) & 1)) >> 16);
}

inline void halve(uint16_t* __restrict to, const float* __restrict from, int64_t count) {
    for (int64_t i = 0; i < count; i++) to[i] = halved(from[i]);
}

inline Floats load(const float* from) { return read<Floats>(from); }

inline Floats load(const uint16_t* from) {
    return bits<Floats>(__builtin_convertvector(read<Halves>(from), Words) << 16);
}

template <class T>
inline Floats load_some(const T* from, int64_t count) {
    T some[LANES] = {};
    std::memcpy(some, from, count * sizeof(T));
    return load(some);
}

inline float sum(Floats value) {
#if defined(__AVX512F__)
    return _mm512_reduce_add_ps(bits<__m512>(value));
#else
    auto low = bits<__m256>(value);
    auto four = _mm_add_ps(_mm256_castps256_ps128(low), _mm256_extractf128_ps(low, 1));
    auto two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
#endif
}

inline float largest(Floats value) {
    float most = value[0];
    for (int i = 1; i < LANES; i++) most = std::max(most, value[i]);
    return most;
}

// e^x within 2 units of the last place: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2] (Cephes' expf).
inline Floats exponential(Floats x) {
    x = x < -87.0f ? Floats{} - 87.0f : x;
    x = x > 88.0f ? Floats{} + 88.0f : x;
    Floats n = (x * 1.44269504f + 12582912.0f) - 12582912.0f;  // rounded: the large number has no fractions
    x = x - n * 0.693359375f - n * -2.12194440e-4f;
    Floats y = x * 1.9875691500e-4f + 1.3981999507e-3f;
    y = y * x + 8.3334519073e-3f;
    y = y * x + 4.1665795894e-2f;
    y = y * x + 1.6666665459e-1f;
    y = y * x + 5.0000001201e-1f;
    y = y * x * x + x + 1.0f;
    return y * bits<Floats>((__builtin_convertvector(n, Ints) + 127) << 23);
}

inline Floats hyperbolic_tangent(Floats x) { return 1.0f - 2.0f / (exponential(2.0f * x) + 1.0f); }

// f(first, count) for vectors of `count` numbers, all but the last one full
template <class F>
inline void each(int64_t count, F f) {
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) f(i, int64_t(LANES));
    if (i < count) f(i, count - i);
}

// to[i] = f(i)
template <class F>
inline void map(float* to, int64_t count, F f) {
    each(count, [&](int64_t i, int64_t some) {
        Floats value = f(i, some);
        std::memcpy(to + i, &value, some == LANES ? sizeof value : some * sizeof(float));
    });
}

template <class T>
inline Floats load_up_to(const T* from, int64_t count) {
    return count == LANES ? load(from) : load_some(from, count);
}

inline float dot(const float* a, const float* b, int64_t count) {
    Floats total{};
    each(count, [&](int64_t i, int64_t some) { total += load_up_to(a + i, some) * load_up_to(b + i, some); });
    return sum(total);
}

// The last of V vectors of `count` numbers is not full, unless `full` says so.
template <int V, bool full, class T>
inline Floats vector_of(const T* from, int v, int64_t count) {
    return full || v < V - 1 ? load(from + v * LANES) : load_some(from + v * LANES, count - v * LANES);
}

template <int V, bool full, class T>
inline float dot_of(const float* a, const T* b, int64_t count) {
    Floats total{};
    for (int v = 0; v < V; v++) total += vector_of<V, full>(a, v, count) * vector_of<V, full>(b, v, count);
    return sum(total);
}

template <int V, bool full, class T>
inline void add_vectors(Floats* totals, float weight, const T* from, int64_t count) {
    for (int v = 0; v < V; v++) totals[v] += weight * vector_of<V, full>(from, v, count);
}

// f(vectors, whether the last is full, first, count) for parts of four vectors and what is left, so that
// loops over few vectors are unrolled
template <class F>
inline void in_vectors(int64_t count, F f) {
    auto part = [&](auto vectors, int64_t first, int64_t some) {
        if (some == vectors * LANES) f(vectors, std::true_type(), first, some);
        else f(vectors, std::false_type(), first, some);
    };
    for (int64_t first = 0; first < count; first += 4 * LANES) {
        int64_t some = std::min<int64_t>(4 * LANES, count - first);
        switch ((some + LANES - 1) / LANES) {
            case 1: part(std::integral_constant<int, 1>(), first, some); break;
            case 2: part(std::integral_constant<int, 2>(), first, some); break;
            case 3: part(std::integral_constant<int, 3>(), first, some); break;
            default: part(std::integral_constant<int, 4>(), first, some);
        }
    }
}

// --- products

enum Kind : int64_t { FP32, BF16, INT8 };

struct Matrix {
    const char* panels;
    const float* scales;  // INT8: of each output
    const int32_t* sums;  // INT8: 128 times the sum of each output's weights
    const float* bias;    // or null
    int64_t outputs, inputs, kind;

    int64_t words() const {
        int64_t group = kind == FP32 ? 1 : kind == BF16 ? 2 : 4;
        return (inputs + group - 1) / group;
    }
};

// Rows brought to a matrix's kind.
struct Rows {
    uint32_t* words;  // `stride` apart
    float* largest;   // INT8: each row's largest magnitude / 127
    int64_t stride;

    void put(int64_t row, const float* x, const Matrix& matrix) const {
        uint32_t* to = words + row * stride;
        int64_t count = matrix.inputs;
        to[matrix.words() - 1] = 0;
        if (matrix.kind == FP32) {
            std::memcpy(to, x, count * sizeof(float));
        } else if (matrix.kind == BF16) {
            halve(reinterpret_cast<uint16_t*>(to), x, count);
        } else {
            Floats magnitudes{};
            each(count, [&](int64_t i, int64_t some) {
                Floats value = load_up_to(x + i, some);
                value = value < 0 ? -value : value;
                magnitudes = value > magnitudes ? value : magnitudes;
            });
            float most = ::largest(magnitudes), factor = most > 0 ? 127 / most : 0;
            auto* bytes = reinterpret_cast<uint8_t*>(to);
            // rounded as in `exponential`; 128 more, for the products take bytes without a sign
            for (int64_t i = 0; i < count; i++)
                bytes[i] = uint8_t(bits<int32_t>(x[i] * factor + 12582912.0f) + 128);
            largest[row] = most / 127;
        }
    }
};

struct Fp32 {
    using Sums = Floats;
    static void add(Sums& total, uint32_t word, Words panel) {
        total += bits<float>(word) * bits<Floats>(panel);
    }
};

struct Bf16 {
    using Sums = Floats;
    static void add(Sums& total, uint32_t word, Words panel) {
#if defined(__AVX512BF16__)
        total = _mm512_dpbf16_ps(total, bits<__m512bh>(panel), bits<__m512bh>(Words{} + word));
#else
        total += bits<float>(word << 16) * bits<Floats>(panel << 16);
        total += bits<float>(word & 0xffff0000u) * bits<Floats>(panel & 0xffff0000u);
#endif
    }
};

#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
constexpr int MOST = 127;
#else
constexpr int MOST = 63;  // pairs of products are summed in 16 bits
#endif

struct Int8 {
    using Sums = Ints;
    static void add(Sums& total, uint32_t word, Words panel) {
#if defined(__AVX512VNNI__)
        auto four = _mm512_set1_epi32(word);
        total = bits<Ints>(_mm512_dpbusd_epi32(bits<__m512i>(total), four, bits<__m512i>(panel)));
#elif defined(__AVX512BW__)
        __m512i pairs = _mm512_maddubs_epi16(_mm512_set1_epi32(word), bits<__m512i>(panel));
        total += bits<Ints>(_mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
#elif defined(__AVXVNNI__)
        auto four = _mm256_set1_epi32(word);
        total = bits<Ints>(_mm256_dpbusd_avx_epi32(bits<__m256i>(total), four, bits<__m256i>(panel)));
#else
        __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi32(word), bits<__m256i>(panel));
        total += bits<Ints>(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
#endif
    }
};

// What a tile asks the caches for while it computes: at each word two lines, the next ones `step` bytes on.
struct Ahead {
    const char* from;
    int64_t step;
};

// out[R][WIDE] of R rows and one panel, or what is laid out like one.
template <class Op, int R, bool fetches>
void tile(const uint32_t* x, int64_t stride, const char* panel, int64_t words, void* out, Ahead ahead) {
    typename Op::Sums totals[R][2] = {};
    for (int64_t k = 0; k < words; k++, panel += 4 * WIDE) {
        if (fetches) {
            __builtin_prefetch(ahead.from + k * ahead.step, 0, 2);
            __builtin_prefetch(ahead.from + k * ahead.step + 64, 0, 2);
        }
        Words first = read<Words>(panel), second = read<Words>(panel + 4 * LANES);
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
            uint32_t word = x[r * stride + k];
            Op::add(totals[r][0], word, first);
            Op::add(totals[r][1], word, second);
        }
    }
    std::memcpy(out, totals, sizeof totals);
}

// The tile of that many rows, R at most.
template <class Op, bool fetches = false, int R = TILE>
void tile_of(
    int64_t rows, const uint32_t* x, int64_t stride, const void* panel, int64_t words, void* out,
    Ahead ahead = {}
) {
    if (rows == R) return tile<Op, R, fetches>(x, stride, static_cast<const char*>(panel), words, out, ahead);
    if constexpr (R > 1) tile_of<Op, fetches, R - 1>(rows, x, stride, panel, words, out, ahead);
}

inline int64_t num_tiles(int64_t rows) { return (rows + TILE - 1) / TILE; }

// f(first, count) for tiles of nearly equal height
template <class F>
inline void in_tiles(int64_t rows, F f) {
    int64_t tiles = num_tiles(rows);
    for (int64_t t = 0; t < tiles; t++) f(rows * t / tiles, rows * (t + 1) / tiles - rows * t / tiles);
}

template <class Op, bool fetches, class Put>
void product_of(const Matrix& matrix, const Rows& x, int64_t rows, Put put) {
    int64_t words = matrix.words(), panels = (matrix.outputs + WIDE - 1) / WIDE;
    int64_t chunk = std::max<int64_t>(1, panels / (4 * omp_get_num_threads()));
    int64_t step = 4 * WIDE, bytes = words * step, tiles = num_tiles(rows);
#pragma omp for schedule(dynamic, chunk)
    for (int64_t p = 0; p < panels; p++) {
        const char* panel = matrix.panels + p * bytes;
        // each tile fetches a part of the next panel
        Ahead ahead = p + 1 == panels ? Ahead{panel, 0} : Ahead{panel + bytes, step / tiles};
        int64_t begin = p * WIDE, count = std::min<int64_t>(WIDE, matrix.outputs - begin);
        in_tiles(rows, [&](int64_t first, int64_t height) {
            alignas(64) int32_t out[TILE][WIDE];
            tile_of<Op, fetches>(height, x.words + first * x.stride, x.stride, panel, words, out, ahead);
            ahead.from += words * ahead.step;
            for (int64_t r = 0; r < height; r++) {
                float values[WIDE];
                if constexpr (std::is_same_v<Op, Int8>) {
                    const float* scales = matrix.scales + begin;
                    float largest = x.largest[first + r];
                    const int32_t* sums = matrix.sums + begin;
                    for (int64_t i = 0; i < count; i++)
                        values[i] = float(out[r][i] - sums[i]) * scales[i] * largest;
                } else {
                    std::memcpy(values, out[r], sizeof values);
                }
                if (matrix.bias)
                    for (int64_t i = 0; i < count; i++) values[i] += matrix.bias[begin + i];
                put(first + r, begin, count, values);
            }
        });
    }
}

// put(row, first output, count, values) for all of x W^T + bias; to be called by all threads
template <class Put>
void product(const Matrix& matrix, const Rows& x, int64_t rows, Put put) {
    if (rows == 0) return;
    auto run = [&](auto op) {
        using Op = decltype(op);
        // Very few rows leave so little to compute that the processor itself fetches as fast as memory gives,
        // and with very many a panel is read from memory once in a long while.
        if (rows > 8 && num_tiles(rows) <= 2) product_of<Op, true>(matrix, x, rows, put);
        else product_of<Op, false>(matrix, x, rows, put);
    };
    if (matrix.kind == FP32) run(Fp32());
    else if (matrix.kind == BF16) run(Bf16());
    else run(Int8());
}

auto into(float* y, int64_t stride) {
    return [=](int64_t row, int64_t begin, int64_t count, const float* values) {
        std::memcpy(y + row * stride + begin, values, count * sizeof(float));
    };
}

auto added_to(float* y, int64_t stride) {
    return [=](int64_t row, int64_t begin, int64_t count, const float* values) {
        float* to = y + row * stride + begin;
        for (int64_t i = 0; i < count; i++) to[i] += values[i];
    };
}

// --- a decoder's blocks

struct Norm {
    const float* weight;  // null: there is no norm
    const float* bias;    // or null
    int64_t is_layer;     // LayerNorm takes the mean away; RMSNorm does not
};

struct Layer {
    Norm attention_norm, attention_post_norm, feed_forward_norm, feed_forward_post_norm, q_norm, k_norm;
    Matrix qkv, out, up, down;
    int64_t window;  // the most keys that a query sees; 0: all earlier ones
    int64_t turn;    // which tables turn queries and keys by position; -1: none
};

enum FeedForward : int64_t { SWIGLU, GEGLU, GELU };

struct Decoder {
    const Layer* layers;
    Norm norm;
    Matrix head;
    int64_t num_layers, width, heads, kv_heads, head_width, ff_width, feed_forward;
    float eps, scale, softcap;  // softcap 0: none
};

// New tokens, one row's after the other's, and the cache that they continue.
struct Batch {
    int64_t rows, num_tokens, num_wanted, threads;
    const int64_t *counts, *lengths;  // of each row: new tokens, cached ones
    const int64_t* wanted;            // the tokens whose logits are asked for
    float* x;                         // [tokens][width], overwritten
    const float *cos[2], *sin[2];     // [tokens][head_width]
    void *keys, *values;              // [layers][rooms][kv_heads][capacity][head_width]
    int64_t layer_stride, row_stride, head_stride, is_bf16;
    float* logits;  // [wanted][vocabulary]
};

struct Task {
    int64_t row, kv_head, token, position, count;  // of the queries: the first one's token and position
};

struct Scratch {
    std::vector<float> qkv, attended, hidden, added, largest;
    std::vector<uint32_t> words;
    std::vector<Task> tasks;
    std::vector<int64_t> row_of, position_of;

    template <class T>
    static T* room(std::vector<T>& of, int64_t count) {
        if (int64_t(of.size()) < count) of.resize(count);
        return of.data();
    }
};

thread_local Scratch scratch;  // of the thread that calls
thread_local std::vector<float> thread_scores, thread_panel, thread_row;

class Forward {
  public:
    Forward(const Decoder& decoder, const Batch& batch) : d(decoder), b(batch) {
        groups = d.heads / d.kv_heads;
        qkv_width = (d.heads + 2 * d.kv_heads) * d.head_width;
        attended_width = d.heads * d.head_width;
        up_width = d.feed_forward == GELU ? d.ff_width : 2 * d.ff_width;
        qkv = Scratch::room(scratch.qkv, b.num_tokens * qkv_width);
        attended = Scratch::room(scratch.attended, b.num_tokens * attended_width);
        hidden = Scratch::room(scratch.hidden, b.num_tokens * up_width);
        added = Scratch::room(scratch.added, b.num_tokens * d.width);
        int64_t widest = std::max({d.width, attended_width, d.ff_width});
        int64_t most = std::max(b.num_tokens, b.num_wanted);
        rows = {Scratch::room(scratch.words, most * widest), Scratch::room(scratch.largest, most), widest};
        lay_out();
    }

    void run() {
#pragma omp parallel num_threads(b.threads)
        {
            for (int64_t l = 0; l < d.num_layers; l++) block(d.layers[l], l);
#pragma omp for
            for (int64_t i = 0; i < b.num_wanted; i++)
                rows.put(i, normed(d.norm, b.x + b.wanted[i] * d.width), d.head);
            product(d.head, rows, b.num_wanted, into(b.logits, d.head.outputs));
        }
    }

  private:
    const Decoder& d;
    const Batch& b;
    int64_t groups, qkv_width, attended_width, up_width;
    float *qkv, *attended, *hidden, *added;
    Rows rows;
    const Task* tasks;
    int64_t num_tasks;
    const int64_t *row_of, *position_of;

    void lay_out() {
        scratch.tasks.clear();
        scratch.row_of.clear();
        scratch.position_of.clear();
        int64_t token = 0;
        for (int64_t r = 0; r < b.rows; r++) {
            if (b.counts[r] == 0) continue;
            int64_t most = std::max<int64_t>(TILE, SCORES / (b.lengths[r] + b.counts[r]));
            int64_t blocks = (b.counts[r] + most - 1) / most;
            for (int64_t i = 0; i < blocks; i++) {
                int64_t begin = b.counts[r] * i / blocks, end = b.counts[r] * (i + 1) / blocks;
                for (int64_t j = 0; j < d.kv_heads; j++)
                    scratch.tasks.push_back({r, j, token + begin, b.lengths[r] + begin, end - begin});
            }
            for (int64_t i = 0; i < b.counts[r]; i++) {
                scratch.row_of.push_back(r);
                scratch.position_of.push_back(b.lengths[r] + i);
            }
            token += b.counts[r];
        }
        tasks = scratch.tasks.data(), num_tasks = int64_t(scratch.tasks.size());
        row_of = scratch.row_of.data(), position_of = scratch.position_of.data();
    }

    void block(const Layer& layer, int64_t l) {
#pragma omp for
        for (int64_t n = 0; n < b.num_tokens; n++)
            rows.put(n, normed(layer.attention_norm, b.x + n * d.width), layer.qkv);
        product(layer.qkv, rows, b.num_tokens, into(qkv, qkv_width));
#pragma omp for
        for (int64_t n = 0; n < b.num_tokens; n++)
            b.is_bf16 ? remember<uint16_t>(layer, l, n) : remember<float>(layer, l, n);
        int64_t chunk = std::clamp<int64_t>(num_tasks / (4 * omp_get_num_threads()), 1, d.kv_heads);
#pragma omp for schedule(dynamic, chunk)
        for (int64_t t = 0; t < num_tasks; t++)
            b.is_bf16 ? attend<uint16_t>(layer, l, tasks[t]) : attend<float>(layer, l, tasks[t]);
#pragma omp for
        for (int64_t n = 0; n < b.num_tokens; n++) rows.put(n, attended + n * attended_width, layer.out);
        add_product(layer.out, layer.attention_post_norm);
#pragma omp for
        for (int64_t n = 0; n < b.num_tokens; n++)
            rows.put(n, normed(layer.feed_forward_norm, b.x + n * d.width), layer.up);
        product(layer.up, rows, b.num_tokens, into(hidden, up_width));
#pragma omp for
        for (int64_t n = 0; n < b.num_tokens; n++) rows.put(n, activated(hidden + n * up_width), layer.down);
        add_product(layer.down, layer.feed_forward_post_norm);
    }

    // x += norm(product)
    void add_product(const Matrix& matrix, const Norm& norm) {
        if (!norm.weight) return product(matrix, rows, b.num_tokens, added_to(b.x, d.width));
        product(matrix, rows, b.num_tokens, into(added, d.width));
#pragma omp for
        for (int64_t n = 0; n < b.num_tokens; n++) {
            const float* y = normed(norm, added + n * d.width);
            for (int64_t i = 0; i < d.width; i++) b.x[n * d.width + i] += y[i];
        }
    }

    const float* normed(const Norm& norm, const float* x) const {
        float* to = Scratch::room(thread_row, rows.stride);
        apply(norm, x, d.width, to);
        return to;
    }

    void apply(const Norm& norm, const float* x, int64_t count, float* to) const {
        if (norm.is_layer) {
            Floats total{};
            each(count, [&](int64_t i, int64_t some) { total += load_up_to(x + i, some); });
            float mean = sum(total) / count;
            for (int64_t i = 0; i < count; i++) to[i] = x[i] - mean;
            x = to;
        }
        float scale = 1 / std::sqrt(dot(x, x, count) / count + d.eps);
        for (int64_t i = 0; i < count; i++) to[i] = x[i] * scale * norm.weight[i];
        if (norm.bias)
            for (int64_t i = 0; i < count; i++) to[i] += norm.bias[i];
    }

    const float* activated(const float* up) const {
        float* to = Scratch::room(thread_row, rows.stride);
        const float* other = up + d.ff_width;
        map(to, d.ff_width, [&](int64_t i, int64_t some) {
            Floats x = load_up_to(up + i, some);
            if (d.feed_forward == SWIGLU) return x / (1.0f + exponential(-x)) * load_up_to(other + i, some);
            Floats y = 0.5f * x * (1.0f + hyperbolic_tangent(0.7978845608f * (x + 0.044715f * x * x * x)));
            return d.feed_forward == GELU ? y : y * load_up_to(other + i, some);
        });
        return to;
    }

    template <class T>
    T* cached(void* cache, int64_t l, int64_t row, int64_t kv_head) const {
        return static_cast<T*>(cache) + l * b.layer_stride + row * b.row_stride + kv_head * b.head_stride;
    }

    // Norm and turn a token's queries and keys; write its keys and values into the cache.
    template <class T>
    void remember(const Layer& layer, int64_t l, int64_t n) {
        float* heads = qkv + n * qkv_width;
        for (int64_t h = 0; h < d.heads + d.kv_heads; h++) {
            const Norm& norm = h < d.heads ? layer.q_norm : layer.k_norm;
            float* head = heads + h * d.head_width;
            if (norm.weight) apply(norm, head, d.head_width, head);
            if (layer.turn >= 0) turn(head, n, layer.turn);
        }
        const float* keys = heads + attended_width;
        const float* values = keys + d.kv_heads * d.head_width;
        for (int64_t j = 0; j < d.kv_heads; j++) {
            int64_t place = position_of[n] * d.head_width;
            write(cached<T>(b.keys, l, row_of[n], j) + place, keys + j * d.head_width);
            write(cached<T>(b.values, l, row_of[n], j) + place, values + j * d.head_width);
        }
    }

    void write(float* to, const float* from) const { std::memcpy(to, from, d.head_width * sizeof(float)); }

    void write(uint16_t* to, const float* from) const { halve(to, from, d.head_width); }

    void turn(float* __restrict head, int64_t n, int64_t table) const {
        int64_t half = d.head_width / 2;
        const float* __restrict cos = b.cos[table] + n * d.head_width;
        const float* __restrict sin = b.sin[table] + n * d.head_width;  // its first half is negated
        for (int64_t i = 0; i < half; i++) {
            float first = head[i], second = head[half + i];
            head[i] = first * cos[i] + second * sin[i];
            head[half + i] = second * cos[half + i] + first * sin[half + i];
        }
    }

    template <class T>
    void attend(const Layer& layer, int64_t l, const Task& task) {
        const T* keys = cached<T>(b.keys, l, task.row, task.kv_head);
        const T* values = cached<T>(b.values, l, task.row, task.kv_head);
        for (int64_t g = 0; g < groups; g++) {
            if (task.count == 1) attend_once(task, g, keys, values, first_seen(layer, task.position));
            else attend_block(layer, task, g, keys, values);
        }
    }

    // The first key that a query at this position sees.
    static int64_t first_seen(const Layer& layer, int64_t position) {
        return layer.window ? std::max<int64_t>(0, position + 1 - layer.window) : 0;
    }

    float* query(const Task& task, int64_t g) const {
        return qkv + task.token * qkv_width + (task.kv_head * groups + g) * d.head_width;
    }

    float* answer(const Task& task, int64_t g) const {
        return attended + task.token * attended_width + (task.kv_head * groups + g) * d.head_width;
    }

    // While the keys are read, the caches fetch the values; while these are, the next head's keys.
    template <class T>
    void attend_once(const Task& task, int64_t g, const T* keys, const T* values, int64_t begin) {
        int64_t count = task.position + 1 - begin, width = d.head_width;
        float* weights = Scratch::room(thread_scores, count);
        const T* next = (task.kv_head + 1 < d.kv_heads ? keys + b.head_stride : keys) + begin * width;
        keys += begin * width, values += begin * width;
        in_vectors(width, [&](auto vectors, auto is_full, int64_t c, int64_t some) {
            const float* part = query(task, g) + c;
            for (int64_t s = 0; s < count; s++) {
                fetch(values + s * width + c, some);
                float score = dot_of<vectors, is_full>(part, keys + s * width + c, some);
                weights[s] = c ? weights[s] + score : score;
            }
        });
        soften(weights, count);
        in_vectors(width, [&](auto vectors, auto is_full, int64_t c, int64_t some) {
            Floats totals[vectors] = {};
            for (int64_t s = 0; s < count; s++) {
                fetch(next + s * width + c, some);
                add_vectors<vectors, is_full>(totals, weights[s], values + s * width + c, some);
            }
            std::memcpy(answer(task, g) + c, totals, some * sizeof(float));
        });
    }

    template <class T>
    static void fetch(const T* from, int64_t count) {
        for (size_t at = 0; at < count * sizeof(T); at += 64)
            __builtin_prefetch(reinterpret_cast<const char*>(from) + at);
    }

    // Softmax of what a query scores.
    void soften(float* scores, int64_t count) const {
        Floats mosts = Floats{} - INFINITY;
        map(scores, count, [&](int64_t i, int64_t some) {
            Floats y = load_up_to(scores + i, some) * d.scale;
            if (d.softcap > 0) y = d.softcap * hyperbolic_tangent(y / d.softcap);
            Floats known = y;
            for (int64_t k = some; k < LANES; k++) known[k] = -INFINITY;
            mosts = known > mosts ? known : mosts;
            return y;
        });
        float most = largest(mosts);
        Floats total{};
        map(scores, count, [&](int64_t i, int64_t some) {
            Floats y = exponential(load_up_to(scores + i, some) - most);
            for (int64_t k = some; k < LANES; k++) y[k] = 0;
            total += y;
            return y;
        });
        float factor = 1 / sum(total);
        for (int64_t i = 0; i < count; i++) scores[i] *= factor;
    }

    // A head's block of queries; scores are kept from `origin` on, the panel of the first key that any sees.
    template <class T>
    void attend_block(const Layer& layer, const Task& task, int64_t g, const T* keys, const T* values) {
        int64_t origin = first_seen(layer, task.position) / WIDE * WIDE, length = task.position + task.count;
        int64_t stride = (length - origin + WIDE - 1) / WIDE * WIDE;
        float* scores = Scratch::room(thread_scores, task.count * stride);
        score(task, g, keys, origin, scores, stride);
        for (int64_t q = 0; q < task.count; q++) {
            float* of = scores + q * stride;
            int64_t begin = first_seen(layer, task.position + q) - origin;
            int64_t end = task.position + q + 1 - origin;
            soften(of + begin, end - begin);
            std::fill(of, of + begin, 0.0f);
            std::fill(of + end, of + stride, 0.0f);
        }
        gather(task, g, values, origin, scores, stride);
    }

    // Scores of all queries with the keys that any of them sees, panel by panel.
    template <class T>
    void score(const Task& task, int64_t g, const T* keys, int64_t origin, float* scores, int64_t stride) {
        float* panel = Scratch::room(thread_panel, d.head_width * WIDE);
        int64_t length = task.position + task.count;
        for (int64_t first = origin; first < length; first += WIDE) {
            for (int64_t s = 0; s < WIDE; s++) {
                const T* key = keys + (first + s) * d.head_width;
                bool is_there = first + s < length;
                for (int64_t c = 0; c < d.head_width; c++) panel[c * WIDE + s] = is_there ? plain(key[c]) : 0;
            }
            in_tiles(task.count, [&](int64_t q, int64_t height) {
                if (task.position + q + height <= first) return;  // all of these queries come before
                alignas(64) float out[TILE][WIDE];
                auto* x = reinterpret_cast<const uint32_t*>(query(task, g) + q * qkv_width);
                tile_of<Fp32>(height, x, qkv_width, panel, d.head_width, out);
                float* to = scores + q * stride + first - origin;
                for (int64_t r = 0; r < height; r++) std::memcpy(to + r * stride, out[r], sizeof out[r]);
            });
        }
    }

    // What the queries read from the values.
    template <class T>
    void gather(
        const Task& task, int64_t g, const T* values, int64_t origin, const float* weights, int64_t stride
    ) {
        int64_t seen = task.position + task.count - origin;
        float* panel = Scratch::room(thread_panel, seen * WIDE);
        for (int64_t first = 0; first < d.head_width; first += WIDE) {
            int64_t count = std::min<int64_t>(WIDE, d.head_width - first);
            for (int64_t s = 0; s < seen; s++) {
                const T* value = values + (origin + s) * d.head_width + first;
                for (int64_t i = 0; i < WIDE; i++) panel[s * WIDE + i] = i < count ? plain(value[i]) : 0;
            }
            in_tiles(task.count, [&](int64_t q, int64_t height) {
                alignas(64) float out[TILE][WIDE];
                auto* x = reinterpret_cast<const uint32_t*>(weights + q * stride);
                int64_t seen_by_last = task.position + q + height - origin;
                tile_of<Fp32>(height, x, stride, panel, seen_by_last, out);
                float* to = answer(task, g) + q * attended_width + first;
                for (int64_t r = 0; r < height; r++)
                    std::memcpy(to + r * attended_width, out[r], count * sizeof(float));
            });
        }
    }

    static float plain(float value) { return value; }
    static float plain(uint16_t value) { return widened(value); }
};

}  // namespace

extern "C" {

int64_t malmoi_wide() { return WIDE; }

int64_t malmoi_most() { return MOST; }

// y[rows][outputs] = x[rows][inputs] W^T + bias
void malmoi_linear(const Matrix* matrix, const float* x, int64_t num_rows, float* y, int64_t threads) {
    int64_t words = matrix->words();
    Rows rows = {
        Scratch::room(scratch.words, num_rows * words), Scratch::room(scratch.largest, num_rows), words
    };
#pragma omp parallel num_threads(threads)
    {
#pragma omp for
        for (int64_t r = 0; r < num_rows; r++) rows.put(r, x + r * matrix->inputs, *matrix);
        product(*matrix, rows, num_rows, into(y, matrix->outputs));
    }
}

void malmoi_forward(const Decoder* decoder, const Batch* batch) { Forward(*decoder, *batch).run(); }
}
