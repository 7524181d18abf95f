// Attention to train with on a processor, forward and backward, without ever holding all scores: after
// FlashAttention (Dao et al. 2022). A query sees the keys from its `first` one to its own.
//
// A block of queries meets its keys KEYS at a time. Scores lie turned, [keys][queries], so that a query's
// largest score, its sum and its mask are the same lane of vectors. Products are of fp32, or of bf16 in tiles
// (Intel's AMX). Heads of keys and values are independent and each is computed by one thread in one order, so
// that a result does not depend on the number of threads.

#include "numbers.h"

namespace {

constexpr int64_t QUERIES = 64, KEYS = 64, VECTORS = QUERIES / LANES;
constexpr float UNSEEN = -1e30f;  // the score of a key that a query may not see

// e^x; nothing where that is so little that what it is multiplied with would be slow to compute.
inline Floats weight_of(Floats x) {
    Floats value = exponential(x);
    return x < -80.0f ? Floats{} : value;
}

inline int64_t up_to(int64_t count, int64_t multiple) { return (count + multiple - 1) / multiple * multiple; }

// The lanes of a and b, one after another, that `which` names.
inline Words lanes_of(Words a, Words b, Ints which) {
#if defined(__AVX512F__)
    return bits<Words>(_mm512_permutex2var_epi32(bits<__m512i>(a), bits<__m512i>(which), bits<__m512i>(b)));
#else
    auto one = _mm256_permutevar8x32_epi32(bits<__m256i>(a), bits<__m256i>(which));
    auto other = _mm256_permutevar8x32_epi32(bits<__m256i>(b), bits<__m256i>(which));
    return which < LANES ? bits<Words>(one) : bits<Words>(other);
#endif
}

template <int STEP>
inline void exchange(Words* rows) {
    Ints low, high;
    for (int i = 0; i < LANES; i++) {
        low[i] = i & STEP ? LANES + i - STEP : i;
        high[i] = i & STEP ? LANES + i : i + STEP;
    }
    for (int i = 0; i < LANES; i++) {
        if (i & STEP) continue;
        Words one = rows[i], other = rows[i + STEP];
        rows[i] = lanes_of(one, other, low), rows[i + STEP] = lanes_of(one, other, high);
    }
    if constexpr (STEP > 1) exchange<STEP / 2>(rows);
}

// to[columns][rows] = from[rows][columns], both multiples of LANES; of numbers of 32 bits
template <class T>
void turn(const T* from, int64_t from_stride, T* to, int64_t to_stride, int64_t rows, int64_t columns) {
    for (int64_t r = 0; r < rows; r += LANES)
        for (int64_t c = 0; c < columns; c += LANES) {
            Words some[LANES];
            for (int i = 0; i < LANES; i++) some[i] = read<Words>(from + (r + i) * from_stride + c);
            exchange<LANES / 2>(some);
            for (int i = 0; i < LANES; i++) std::memcpy(to + (c + i) * to_stride + r, some + i, sizeof *some);
        }
}

// --- products of fp32

struct Plain {
    static constexpr int64_t STEP = LANES;  // queries and widths are multiples of it
    static constexpr int64_t PAIR = 2;      // and keys of this
#if defined(__AVX512F__)
    static constexpr int TALL = 12;  // 24 sums of vectors, 2 vectors of the right and a number of the left
#else
    static constexpr int TALL = 6;
#endif

    struct Left {
        const float* at;
        int64_t row, depth;  // strides
    };

    struct Right {
        const float* at;
        int64_t depth;
    };

    struct Config {
        Config() {}  // so that one is not unused
    };

    // Vectors of a head, and zeros behind them.
    class Matrix {
      public:
        template <class T>
        void pack(const T* from, int64_t stride, int64_t count, int64_t size) {
            width = up_to(size, STEP), rows_up = up_to(count, STEP);
            rows_at = room(rows_memory, (rows_up + STEP) * width);
            for (int64_t r = 0; r < count; r++)
                map(rows_at + r * width, width, [&](int64_t i, int64_t) {
                    return i + LANES <= size ? load(from + r * stride + i)
                                             : load_some(from + r * stride + i, size - i);
                });
            std::memset(rows_at + count * width, 0, (rows_up + STEP - count) * width * sizeof(float));
        }

        void make_columns() {}
        void make_down() {}

        void make_across() {
            across_at = room(across_memory, width * QUERIES);
            turn(rows_at, width, across_at, QUERIES, rows_up, width);
        }

        Left rows(int64_t first) const { return {rows_at + first * width, width, 1}; }
        Left columns(int64_t first) const { return {rows_at + first * width, 1, width}; }
        Right down(int64_t first) const { return {rows_at + first * width, width}; }
        Right across(int64_t first) const { return {across_at + first, QUERIES}; }

        int64_t width = 0;

      private:
        std::vector<float> rows_memory, across_memory;
        float *rows_at = nullptr, *across_at = nullptr;
        int64_t rows_up = 0;
    };

    // What scores become, [keys][queries].
    class Weights {
      public:
        template <bool, bool>
        void put(int64_t key, int64_t query, Floats value, Floats next) {
            std::memcpy(numbers + key * QUERIES + query, &value, sizeof value);
            std::memcpy(numbers + (key + 1) * QUERIES + query, &next, sizeof next);
        }

        Left rows(int64_t query) const { return {numbers + query, QUERIES, 1}; }
        Right down(int64_t query) const { return {numbers + query, QUERIES}; }

      private:
        alignas(64) float numbers[KEYS * QUERIES];
    };

    template <int R, int V, bool along>
    static void product(Left a, Right b, float* c, int64_t stride, int64_t depth, bool adds) {
        Floats sums[R][V];
        for (int r = 0; r < R; r++)
            for (int v = 0; v < V; v++) sums[r][v] = adds ? load(c + r * stride + v * LANES) : Floats{};
        for (int64_t d = 0; d < depth; d++) {
            Floats x[V];
            for (int v = 0; v < V; v++) x[v] = load(b.at + d * b.depth + v * LANES);
            for (int r = 0; r < R; r++) {
                float left = along ? a.at[r * a.row + d] : a.at[r + d * a.depth];
                for (int v = 0; v < V; v++) sums[r][v] += left * x[v];
            }
        }
        for (int r = 0; r < R; r++)
            for (int v = 0; v < V; v++) std::memcpy(c + r * stride + v * LANES, &sums[r][v], sizeof(Floats));
    }

    template <int V, bool along, int R = TALL>
    static void product_of(int64_t rows, Left a, Right b, float* c, int64_t stride, int64_t depth, bool adds) {
        if (rows == R) return product<R, V, along>(a, b, c, stride, depth, adds);
        if constexpr (R > 1) product_of<V, along, R - 1>(rows, a, b, c, stride, depth, adds);
    }

    // c = a b, or c += a b
    static void multiply(
        Left a, Right b, float* c, int64_t stride, int64_t rows, int64_t columns, int64_t depth, bool adds
    ) {
        int64_t parts = (rows + TALL - 1) / TALL;
        for (int64_t j = 0; j < columns; j += 2 * LANES)
            for (int64_t p = 0; p < parts; p++) {
                int64_t r = rows * p / parts, count = rows * (p + 1) / parts - r;
                auto part = [&](auto vectors) {
                    Left left{a.at + r * a.row, a.row, a.depth};
                    Right right{b.at + j, b.depth};
                    float* to = c + r * stride + j;
                    if (a.depth == 1) product_of<vectors, true>(count, left, right, to, stride, depth, adds);
                    else product_of<vectors, false>(count, left, right, to, stride, depth, adds);
                };
                if (columns - j > LANES) part(std::integral_constant<int, 2>());
                else part(std::integral_constant<int, 1>());
            }
    }
};

// --- products in tiles of bf16

#if defined(__AMX_BF16__) && defined(__AVX512BF16__)
struct Tiles {
    static constexpr int64_t STEP = 32, PAIR = 32, HALF = 16;

    struct Left {
        const uint16_t* at;
        int64_t row;
    };

    struct Right {  // each word holds numbers of two depths
        const uint32_t* at;
        int64_t depth;
    };

    class Config {
      public:
        Config() {
            TileShapes shapes;
            _tile_loadconfig(&shapes);
        }
        ~Config() { _tile_release(); }
    };

    class Matrix {
      public:
        void pack(const uint16_t* from, int64_t stride, int64_t count, int64_t size) {
            width = up_to(size, STEP), rows_up = up_to(count, STEP) + STEP;
            rows_at = room(rows_memory, rows_up * width);
            for (int64_t r = 0; r < count; r++)
                for (int64_t i = 0; i < width; i += STEP) {
                    Words some{};
                    if (i + STEP <= size) some = read<Words>(from + r * stride + i);
                    else std::memcpy(&some, from + r * stride + i, (size - i) * sizeof *from);
                    std::memcpy(rows_at + r * width + i, &some, sizeof some);
                }
            std::memset(rows_at + count * width, 0, (rows_up - count) * width * sizeof *from);
        }

        void make_down() {
            down_at = room(down_memory, rows_up / 2 * width);
            for (int64_t r = 0; r < rows_up; r += 2)
                for (int64_t i = 0; i < width; i += LANES) {
                    const uint16_t *low = rows_at + r * width + i, *high = low + width;
                    Words pair = words_of(read<Halves>(low)) | words_of(read<Halves>(high)) << 16;
                    std::memcpy(down_at + r / 2 * width + i, &pair, sizeof pair);
                }
        }

        void make_columns() {
            make_down();
            columns_stride = (rows_up / STEP | 1) * HALF;  // an odd number of lines, which share no place
            columns_at = room(columns_memory, width * columns_stride);
            turn(down_at, width, columns_at, columns_stride, rows_up / 2, width);
        }

        void make_across() {
            across_at = room(across_memory, width / 2 * QUERIES);
            auto* words = reinterpret_cast<const uint32_t*>(rows_at);
            turn(words, width / 2, across_at, QUERIES, rows_up - STEP, width / 2);
        }

        Left rows(int64_t first) const { return {rows_at + first * width, width}; }
        Left columns(int64_t first) const {
            return {reinterpret_cast<const uint16_t*>(columns_at) + first, 2 * columns_stride};
        }
        Right down(int64_t first) const { return {down_at + first / 2 * width, width}; }
        Right across(int64_t first) const { return {across_at + first, QUERIES}; }

        int64_t width = 0;

      private:
        std::vector<uint16_t> rows_memory;
        std::vector<uint32_t> down_memory, columns_memory, across_memory;
        uint16_t* rows_at = nullptr;
        uint32_t *down_at = nullptr, *columns_at = nullptr, *across_at = nullptr;
        int64_t rows_up = 0, columns_stride = 0;
    };

    class Weights {
      public:
        template <bool has_rows, bool has_down>
        void put(int64_t key, int64_t query, Floats value, Floats next) {
            auto one = bits<Halves>(_mm512_cvtneps_pbh(bits<__m512>(value)));
            auto other = bits<Halves>(_mm512_cvtneps_pbh(bits<__m512>(next)));
            if constexpr (has_rows) {
                std::memcpy(halves + key * QUERIES + query, &one, sizeof one);
                std::memcpy(halves + (key + 1) * QUERIES + query, &other, sizeof other);
            }
            if constexpr (has_down) {
                Words pair = words_of(one) | words_of(other) << 16;
                std::memcpy(words + key / 2 * QUERIES + query, &pair, sizeof pair);
            }
        }

        Left rows(int64_t query) const { return {halves + query, QUERIES}; }
        Right down(int64_t query) const { return {words + query, QUERIES}; }

      private:
        alignas(64) uint16_t halves[KEYS * QUERIES];
        alignas(64) uint32_t words[KEYS / 2 * QUERIES];
    };

    static void multiply(
        Left a, Right b, float* c, int64_t stride, int64_t rows, int64_t columns, int64_t depth, bool adds
    ) {
        int64_t left_bytes = a.row * sizeof *a.at, right_bytes = b.depth * sizeof *b.at, bytes = 4 * stride;
        for (int64_t j = 0; j < columns; j += STEP)
            for (int64_t i = 0; i < rows; i += STEP) {
                float *to = c + i * stride + j, *below = to + HALF * stride;
                if (adds) {
                    _tile_loadd(0, to, bytes);
                    _tile_loadd(1, to + HALF, bytes);
                    _tile_loadd(2, below, bytes);
                    _tile_loadd(3, below + HALF, bytes);
                } else {
                    _tile_zero(0);
                    _tile_zero(1);
                    _tile_zero(2);
                    _tile_zero(3);
                }
                for (int64_t d = 0; d < depth; d += STEP) {
                    _tile_loadd(4, a.at + i * a.row + d, left_bytes);
                    _tile_loadd(6, b.at + d / 2 * b.depth + j, right_bytes);
                    _tile_dpbf16ps(0, 4, 6);
                    _tile_loadd(7, b.at + d / 2 * b.depth + j + HALF, right_bytes);
                    _tile_dpbf16ps(1, 4, 7);
                    _tile_loadd(5, a.at + (i + HALF) * a.row + d, left_bytes);
                    _tile_dpbf16ps(2, 5, 6);
                    _tile_dpbf16ps(3, 5, 7);
                }
                _tile_stored(0, to, bytes);
                _tile_stored(1, to + HALF, bytes);
                _tile_stored(2, below, bytes);
                _tile_stored(3, below + HALF, bytes);
            }
    }
};
#else
using Tiles = Plain;
#endif

// --- attention

struct View {  // of numbers [rows][heads][length][width]; those of a position lie side by side
    void* at;
    int64_t row, head, position;  // strides
};

struct AttentionCall {
    View q, k, v, y, dq, dk, dv, dy;
    float* log_sums;       // [rows][heads][length]: of the exponentials of a query's scores
    const int64_t* first;  // [length], `first_stride` apart from row to row: a query's first key, never falling
    int64_t rows, heads, kv_heads, length, width, value_width, first_stride, is_bf16;
    float scale;
};

template <class T>
struct Head {  // vectors, `stride` apart
    T* at;
    int64_t stride;

    Head(const View& view, int64_t row, int64_t head)
        : at(static_cast<T*>(view.at) + row * view.row + head * view.head), stride(view.position) {}

    T* operator[](int64_t position) const { return at + position * stride; }
};

// Queries from `begin` on, and what they see.
struct Block {
    const int64_t* first;  // of the row
    int64_t begin, count;
    alignas(64) Ints own[VECTORS] = {}, firsts[VECTORS] = {};

    Block(const int64_t* first, int64_t begin, int64_t count) : first(first), begin(begin), count(count) {
        alignas(64) int32_t positions[QUERIES], seen[QUERIES];
        for (int64_t i = 0; i < QUERIES; i++) {
            positions[i] = i < count ? begin + i : -1;
            seen[i] = i < count ? first[begin + i] : 0;
        }
        std::memcpy(own, positions, sizeof positions), std::memcpy(firsts, seen, sizeof seen);
    }

    // f(first key, number of keys, first and last query of those that see any of them, whether some do not see
    // some)
    template <class Engine, class F>
    void each_keys(F f) const {
        int64_t end = begin + count;
        for (int64_t key = first[begin]; key < end; key += KEYS) {
            int64_t keys = up_to(std::min(KEYS, end - key), Engine::PAIR), last = key + keys - 1, to = count;
            while (first[begin + to - 1] > last) to--;
            int64_t from = std::max<int64_t>(0, key - begin) / Engine::STEP * Engine::STEP;
            bool masked = last > begin + from || first[begin + to - 1] > key;
            f(key, keys, from, up_to(to, Engine::STEP), masked);
        }
    }

    Ints sees(int64_t key, int64_t query) const {
        Ints at = Ints{} + int32_t(key);
        return (own[query / LANES] >= at) & (firsts[query / LANES] <= at);
    }
};

// f(block) of all queries; none holds queries of two documents
template <class F>
void each_block(const int64_t* first, int64_t length, F f) {
    for (int64_t begin = 0, end; begin < length; begin = end) {
        end = begin + 1;
        while (end < std::min(begin + QUERIES, length) && first[end] < end) end++;
        f(Block(first, begin, end - begin));
    }
}

// What a thread computes in.
template <class Engine>
struct Work {
    typename Engine::Matrix keys, values, queries, given;
    typename Engine::Weights weights, slopes;
    alignas(64) float scores[KEYS * QUERIES], changes[KEYS * QUERIES];
    std::vector<float> out_memory, dk_memory, dv_memory;
};

// Vectors of a block from out[width][QUERIES], each times its factor.
template <class T>
void put_turned(
    const float* out, const float* factors, const Head<T>& to, const Block& block, int64_t width
) {
    for (int64_t q = 0; q < block.count; q += LANES)
        for (int64_t i = 0; i < width; i += LANES) {
            float some[LANES][LANES];
            turn(out + i * QUERIES + q, QUERIES, some[0], LANES, LANES, LANES);
            int64_t rows = std::min<int64_t>(LANES, block.count - q), columns = std::min<int64_t>(LANES, width - i);
            for (int64_t r = 0; r < rows; r++)
                put(to[block.begin + q + r] + i, load(some[r]) * factors[q + r], columns);
        }
}

template <class Engine, class T>
void forward(const AttentionCall& a, Work<Engine>& w, int64_t row, int64_t head) {
    int64_t kv_head = head * a.kv_heads / a.heads;
    Head<T> q(a.q, row, head), y(a.y, row, head), k(a.k, row, kv_head), v(a.v, row, kv_head);
    w.keys.pack(k.at, k.stride, a.length, a.width);
    w.values.pack(v.at, v.stride, a.length, a.value_width);
    w.values.make_columns();
    float* log_sums = a.log_sums + (row * a.heads + head) * a.length;
    float* out = room(w.out_memory, w.values.width * QUERIES);
    each_block(a.first + row * a.first_stride, a.length, [&](const Block& block) {
        w.queries.pack(q[block.begin], q.stride, block.count, a.width);
        w.queries.make_across();
        std::memset(out, 0, w.values.width * QUERIES * sizeof *out);
        Floats most[VECTORS], totals[VECTORS] = {};
        for (Floats& one : most) one = Floats{} + UNSEEN / 2;
        block.each_keys<Engine>([&](int64_t key, int64_t keys, int64_t from, int64_t to, bool masked) {
            Engine::multiply(
                w.keys.rows(key), w.queries.across(from), w.scores + from, QUERIES, keys, to - from,
                w.keys.width, false
            );
            for (int64_t i = from; i < to; i += LANES) {
                float* scores = w.scores + i;
                Floats high = most[i / LANES];
                for (int64_t s = 0; s < keys; s++) {
                    Floats score = load(scores + s * QUERIES);
                    if (masked) {
                        score = block.sees(key + s, i) ? score : Floats{} + UNSEEN;
                        std::memcpy(scores + s * QUERIES, &score, sizeof score);
                    }
                    high = score > high ? score : high;
                }
                Floats factor = exponential((most[i / LANES] - high) * a.scale), total{};
                auto weight = [&](int64_t s) {
                    return weight_of((load(scores + s * QUERIES) - high) * a.scale);
                };
                for (int64_t s = 0; s < keys; s += 2) {
                    Floats one = weight(s), next = weight(s + 1);
                    total += one + next;
                    w.weights.template put<false, true>(s, i, one, next);
                }
                most[i / LANES] = high;
                totals[i / LANES] = totals[i / LANES] * factor + total;
                for (int64_t c = 0; c < w.values.width && key > block.first[block.begin]; c++) {
                    Floats scaled = load(out + c * QUERIES + i) * factor;
                    std::memcpy(out + c * QUERIES + i, &scaled, sizeof scaled);
                }
            }
            Engine::multiply(
                w.values.columns(key), w.weights.down(from), out + from, QUERIES, w.values.width, to - from,
                keys, true
            );
        });
        float factors[QUERIES], sums[QUERIES], highs[QUERIES];
        std::memcpy(sums, totals, sizeof sums), std::memcpy(highs, most, sizeof highs);
        for (int64_t i = 0; i < block.count; i++) {
            factors[i] = 1 / sums[i];
            log_sums[block.begin + i] = highs[i] * a.scale + std::log(sums[i]);
        }
        put_turned(out, factors, y, block, a.value_width);
    });
}

template <class T>
inline float dot(const T* one, const T* other, int64_t count) {
    Floats total{};
    each(count, [&](int64_t i, int64_t some) {
        total += load_up_to(one + i, some) * load_up_to(other + i, some);
    });
    return sum(total);
}

template <class Engine, class T>
void backward(const AttentionCall& a, Work<Engine>& w, int64_t row, int64_t kv_head) {
    Head<T> k(a.k, row, kv_head), v(a.v, row, kv_head), dk(a.dk, row, kv_head), dv(a.dv, row, kv_head);
    w.keys.pack(k.at, k.stride, a.length, a.width);
    w.keys.make_columns();
    w.values.pack(v.at, v.stride, a.length, a.value_width);
    int64_t width = w.keys.width, value_width = w.values.width, rows = a.length + Engine::PAIR;
    float* dk_sums = room(w.dk_memory, rows * width);
    float* dv_sums = room(w.dv_memory, rows * value_width);
    std::memset(dk_sums, 0, rows * width * sizeof *dk_sums);
    std::memset(dv_sums, 0, rows * value_width * sizeof *dv_sums);
    float* out = room(w.out_memory, width * QUERIES);
    int64_t group = a.heads / a.kv_heads;
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; head++) {
        Head<T> q(a.q, row, head), y(a.y, row, head), dy(a.dy, row, head), dq(a.dq, row, head);
        const float* log_sums = a.log_sums + (row * a.heads + head) * a.length;
        each_block(a.first + row * a.first_stride, a.length, [&](const Block& block) {
            w.queries.pack(q[block.begin], q.stride, block.count, a.width);
            w.queries.make_across();
            w.queries.make_down();
            w.given.pack(dy[block.begin], dy.stride, block.count, a.value_width);
            w.given.make_across();
            w.given.make_down();
            std::memset(out, 0, width * QUERIES * sizeof *out);
            float sums[QUERIES] = {}, along[QUERIES] = {}, factors[QUERIES];
            for (int64_t i = 0; i < block.count; i++) {
                sums[i] = log_sums[block.begin + i];
                along[i] = dot(y[block.begin + i], dy[block.begin + i], a.value_width);
                factors[i] = a.scale;
            }
            block.each_keys<Engine>([&](int64_t key, int64_t keys, int64_t from, int64_t to, bool masked) {
                int64_t count = to - from;
                Engine::multiply(
                    w.keys.rows(key), w.queries.across(from), w.scores + from, QUERIES, keys, count, width,
                    false
                );
                Engine::multiply(
                    w.values.rows(key), w.given.across(from), w.changes + from, QUERIES, keys, count,
                    value_width, false
                );
                for (int64_t i = from; i < to; i += LANES) {
                    Floats total = load(sums + i), mean = load(along + i);
                    auto weight = [&](int64_t s) {
                        Floats value = weight_of(load(w.scores + s * QUERIES + i) * a.scale - total);
                        return masked ? (block.sees(key + s, i) ? value : Floats{}) : value;
                    };
                    for (int64_t s = 0; s < keys; s += 2) {
                        Floats one = weight(s), next = weight(s + 1);
                        const float* changes = w.changes + s * QUERIES + i;
                        w.weights.template put<true, false>(s, i, one, next);
                        w.slopes.template put<true, true>(
                            s, i, one * (load(changes) - mean), next * (load(changes + QUERIES) - mean)
                        );
                    }
                }
                Engine::multiply(
                    w.weights.rows(from), w.given.down(from), dv_sums + key * value_width, value_width, keys,
                    value_width, count, true
                );
                Engine::multiply(
                    w.slopes.rows(from), w.queries.down(from), dk_sums + key * width, width, keys, width, count,
                    true
                );
                Engine::multiply(
                    w.keys.columns(key), w.slopes.down(from), out + from, QUERIES, width, count, keys, true
                );
            });
            put_turned(out, factors, dq, block, a.width);
        });
    }
    for (int64_t t = 0; t < a.length; t++) {
        each(a.width, [&](int64_t i, int64_t some) {
            put(dk[t] + i, load(dk_sums + t * width + i) * a.scale, some);
        });
        each(a.value_width, [&](int64_t i, int64_t some) {
            put(dv[t] + i, load(dv_sums + t * value_width + i), some);
        });
    }
}

// f(work, row, head) of all rows' heads, by threads
template <class Engine, class F>
void for_heads(int64_t rows, int64_t heads, int64_t threads, F f) {
#pragma omp parallel num_threads(threads)
    {
        thread_local std::unique_ptr<Work<Engine>> work;
        if (!work) work = std::make_unique<Work<Engine>>();
        typename Engine::Config config;
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < rows * heads; i++) f(*work, i / heads, i % heads);
    }
}

// f(type of engine, type of numbers)
template <class F>
void by_numbers(const AttentionCall& a, F f) {
    if (!a.is_bf16) f(Plain(), float());
    else if (has_tiles) f(Tiles(), uint16_t());
    else f(Plain(), uint16_t());
}

}  // namespace

extern "C" {

// y and log_sums
void malmoi_attention(const AttentionCall* a, int64_t threads) {
    by_numbers(*a, [&](auto engine, auto number) {
        using Engine = decltype(engine);
        for_heads<Engine>(a->rows, a->heads, threads, [&](Work<Engine>& work, int64_t row, int64_t head) {
            forward<Engine, decltype(number)>(*a, work, row, head);
        });
    });
}

// dq, dk and dv
void malmoi_attention_gradient(const AttentionCall* a, int64_t threads) {
    by_numbers(*a, [&](auto engine, auto number) {
        using Engine = decltype(engine);
        for_heads<Engine>(a->rows, a->kv_heads, threads, [&](Work<Engine>& work, int64_t row, int64_t head) {
            backward<Engine, decltype(number)>(*a, work, row, head);
        });
    });
}
}
