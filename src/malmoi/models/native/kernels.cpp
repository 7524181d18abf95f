// Kernels to answer with on a processor: a matrix times few or many rows, and all of a decoder's blocks in
// one call. Compiled on the user's machine (library.py), for its processor.
//
// A matrix lies in panels of WIDE outputs. Within a panel, words of 32 bits (one input in fp32, two in bf16,
// four in 8 bits) are ordered by input, then by output, so a vector holds one word of LANES outputs, and one
// word of a row, repeated, multiplies it. Every output is summed over the inputs in their order whatever
// stands beside it, so a row's result does not depend on the other rows of a call.
//
// In 4 and 8 bits the inputs come in groups, each of which has a scale, and maybe a least value, for every
// output: w = scale * whole + least. A row is brought to 8 bits in groups of its own, so that what a group
// gives is a sum of whole numbers, and only the groups' sums are added up in fp32. Where the processor
// multiplies tiles of bf16 (Intel's AMX), many rows are brought to bf16 instead, and a panel with them.

#include "numbers.h"

#include <omp.h>

namespace {

#if defined(__AVX512F__)
constexpr int TILE = 12;      // 24 sums, 2 words of a panel and the repeated one in 32 registers
constexpr int GROUP_TILE = 8; // and 4 words where two lie in one
#else
constexpr int TILE = 6;  // 12 sums in 16 registers
constexpr int GROUP_TILE = 4;
#endif
constexpr int WIDE = 2 * LANES;
constexpr int GROUP = 32;  // inputs that a row has one scale for
constexpr int64_t SCORES = 1 << 18;  // of a block of queries at once (1 MiB), but TILE queries at least

// --- products

enum Kind : int64_t { FP32, BF16, NIBBLES, BYTES };

inline int64_t num_groups(int64_t inputs) { return (inputs + GROUP - 1) / GROUP; }

struct Matrix {
    const char* panels;
    const float* bias;   // or null
    const Matrix* next;  // whose outputs follow these; it has the same inputs, and like this one groups or none
    int64_t outputs, inputs, kind;
    int64_t group, has_least;  // NIBBLES and BYTES: inputs in a group, and whether each has a least value
    float unit;                // and what multiplies all scales and least values

    bool has_groups() const { return kind == NIBBLES || kind == BYTES; }

    int64_t words() const {
        if (has_groups()) return num_groups(inputs) * (GROUP / 4);
        int64_t in_word = kind == FP32 ? 1 : 2;
        return (inputs + in_word - 1) / in_word;
    }

    int64_t all_outputs() const { return outputs + (next ? next->all_outputs() : 0); }
};

constexpr int64_t TILE_ROWS = 16;

// Whether a product that may be in tiles is.
inline bool is_tiled(const Matrix& matrix, bool in_tiles) {
    return has_tiles && in_tiles && matrix.kind != FP32;
}

// A matrix in bf16 is multiplied with rows in bf16 where the processor does that, else with rows in fp32.
#if defined(__AVX512BF16__)
constexpr bool ROWS_IN_BF16 = true;
#else
constexpr bool ROWS_IN_BF16 = false;
#endif

// Rows as a matrix's kind takes them, or in bf16 for a product in tiles.
struct Rows {
    uint32_t* words;  // `stride` apart; where there are groups, four whole numbers from -127 to 127 each
    float* scales;    // of each group of GROUP inputs, `stride / 8` apart
    int32_t* sums;    // of the whole numbers of each half of a group, `stride / 4` apart
    int64_t stride;   // a multiple of GROUP, or in tiles of GROUP / 2

    void put(int64_t row, const float* x, const Matrix& matrix, bool in_tiles) const {
        uint32_t* to = words + row * stride;
        int64_t count = matrix.inputs;
        if (is_tiled(matrix, in_tiles)) return put_in_tiles(row, x, count);
        if (matrix.has_groups()) return put_groups(row, x, count);
        if (matrix.kind == BF16 && ROWS_IN_BF16) {
            to[count / 2] = 0;
            halve(reinterpret_cast<uint16_t*>(to), x, count);
        } else {
            std::memcpy(to, x, count * sizeof(float));
            if (count % 2) to[count] = 0;
        }
    }

    // Tiles of GROUP inputs of TILE_ROWS rows, with zeros after the last input.
    uint32_t* tiles(int64_t first_row) const { return words + first_row * stride; }

    void put_in_tiles(int64_t row, const float* x, int64_t count) const {
        uint32_t* to = tiles(row / TILE_ROWS * TILE_ROWS) + row % TILE_ROWS * (GROUP / 2);
        for (int64_t at = 0; at < count; at += GROUP, to += TILE_ROWS * GROUP / 2) {
            if (count - at < GROUP) std::memset(to, 0, GROUP / 2 * sizeof *to);
            halve(reinterpret_cast<uint16_t*>(to), x + at, std::min<int64_t>(GROUP, count - at));
        }
    }

  private:
    void put_groups(int64_t row, const float* x, int64_t count) const {
        auto* bytes = reinterpret_cast<int8_t*>(words + row * stride);
        for (int64_t g = 0; g < num_groups(count); g++) {
            float group[GROUP] = {};
            std::memcpy(group, x + g * GROUP, std::min<int64_t>(GROUP, count - g * GROUP) * sizeof(float));
            Floats magnitudes{};
            for (int i = 0; i < GROUP; i += LANES) {
                Floats value = load(group + i);
                value = value < 0 ? -value : value;
                magnitudes = value > magnitudes ? value : magnitudes;
            }
            float most = largest(magnitudes), factor = most > 1e-30f ? 127 / most : 0;
            int32_t whole[GROUP];  // rounded as in `exponential`
            for (int i = 0; i < GROUP; i++)
                whole[i] = bits<int32_t>(group[i] * factor + 12582912.0f) - 0x4b400000;
            for (int i = 0; i < GROUP; i++) bytes[g * GROUP + i] = int8_t(whole[i]);
            for (int half = 0; half < 2; half++) {
                int32_t total = 0;
                for (int i = 0; i < GROUP / 2; i++) total += whole[half * GROUP / 2 + i];
                sums[row * (stride / 4) + 2 * g + half] = total;
            }
            scales[row * (stride / 8) + g] = most / 127;
        }
    }
};

// What is multiplied with a panel's word: as many of a row's.
struct Fp32 {
    using Sums = Floats;
    static constexpr int ROW_WORDS = 1;

    static void add(Sums& total, const uint32_t* x, Words panel) {
        total += bits<float>(*x) * bits<Floats>(panel);
    }
};

struct Bf16 {
    using Sums = Floats;
    static constexpr int ROW_WORDS = ROWS_IN_BF16 ? 1 : 2;

    static void add(Sums& total, const uint32_t* x, Words panel) {
#if defined(__AVX512BF16__)
        total = _mm512_dpbf16_ps(total, bits<__m512bh>(panel), bits<__m512bh>(Words{} + *x));
#else
        total += bits<float>(x[0]) * bits<Floats>(panel << 16);
        total += bits<float>(x[1]) * bits<Floats>(panel & 0xffff0000u);
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
            const uint32_t* of = x + r * stride + k * Op::ROW_WORDS;
            Op::add(totals[r][0], of, first);
            Op::add(totals[r][1], of, second);
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

template <int most = TILE>
inline int64_t num_tiles(int64_t rows) {
    return (rows + most - 1) / most;
}

// f(first, count) for tiles of nearly equal height, `most` rows at most
template <int most = TILE, class F>
inline void in_tiles(int64_t rows, F f) {
    int64_t tiles = num_tiles<most>(rows);
    for (int64_t t = 0; t < tiles; t++) f(rows * t / tiles, rows * (t + 1) / tiles - rows * t / tiles);
}

// What the p-th panel gives a row, with its bias.
template <class Put>
void finish(const Matrix& matrix, int64_t row, int64_t p, float* values, Put put) {
    int64_t begin = p * WIDE, count = std::min<int64_t>(WIDE, matrix.outputs - begin);
    if (matrix.bias)
        for (int64_t i = 0; i < count; i++) values[i] += matrix.bias[begin + i];
    if (count == WIDE) put(row, begin, std::integral_constant<int64_t, WIDE>(), values);
    else put(row, begin, count, values);
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
        in_tiles(rows, [&](int64_t first, int64_t height) {
            alignas(64) int32_t out[TILE][WIDE];
            tile_of<Op, fetches>(height, x.words + first * x.stride, x.stride, panel, words, out, ahead);
            ahead.from += words * ahead.step;
            for (int64_t r = 0; r < height; r++) {
                float values[WIDE];
                std::memcpy(values, out[r], sizeof values);
                finish(matrix, first + r, p, values, put);
            }
        });
    }
}

// --- products in groups

#if defined(__AVX512F__)
using Vector = __m512i;
inline Floats from_halves(const char* from) { return bits<Floats>(_mm512_cvtph_ps(read<__m256i>(from))); }
#else
using Vector = __m256i;
inline Floats from_halves(const char* from) { return bits<Floats>(_mm256_cvtph_ps(read<__m128i>(from))); }
#endif

inline Floats multiply_add(Floats a, Floats b, Floats c) {  // rounded once in every build
#if defined(__AVX512F__)
    return bits<Floats>(_mm512_fmadd_ps(bits<__m512>(a), bits<__m512>(b), bits<__m512>(c)));
#else
    return bits<Floats>(_mm256_fmadd_ps(bits<__m256>(a), bits<__m256>(b), bits<__m256>(c)));
#endif
}

#if defined(__AVX512VNNI__)
constexpr bool HAS_VNNI = true;
inline Vector add_products(Vector total, Vector whole, Vector x) { return _mm512_dpbusd_epi32(total, whole, x); }
#elif defined(__AVX512F__)
constexpr bool HAS_VNNI = false;
inline Vector pairs_of(Vector whole, Vector x) { return _mm512_maddubs_epi16(whole, x); }
inline Vector add_pairs(Vector a, Vector b) { return _mm512_add_epi16(a, b); }
inline Vector fours_of(Vector pairs) { return _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)); }
inline Vector magnitude(Vector w) { return _mm512_abs_epi8(w); }
inline Vector signed_by(Vector x, Vector w) {
    return _mm512_mask_sub_epi8(x, _mm512_movepi8_mask(w), _mm512_setzero_si512(), x);
}
#elif defined(__AVXVNNI__)
constexpr bool HAS_VNNI = true;
inline Vector add_products(Vector total, Vector whole, Vector x) {
    return _mm256_dpbusd_avx_epi32(total, whole, x);
}
#else
constexpr bool HAS_VNNI = false;
inline Vector pairs_of(Vector whole, Vector x) { return _mm256_maddubs_epi16(whole, x); }
inline Vector add_pairs(Vector a, Vector b) { return _mm256_add_epi16(a, b); }
inline Vector fours_of(Vector pairs) { return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)); }
inline Vector magnitude(Vector w) { return _mm256_abs_epi8(w); }
inline Vector signed_by(Vector x, Vector w) { return _mm256_sign_epi8(x, w); }
#endif

inline Vector repeated(uint32_t word) { return bits<Vector>(Words{} + word); }

// Adds the products of a group's words to dots[R][2]: `x` has R rows, `from` the words of WIDE outputs.

// Two words in one, 0 to 15: the low halves of bytes are the first words, the high ones those half a group on.
struct Nibbles {
    static constexpr int64_t bytes_of(int64_t group) { return group / 2 * WIDE; }
    static constexpr int32_t offset(bool has_least) { return has_least ? 0 : 8; }

    template <int WORDS>
    static Words word(const char* from, int k) {
        Words both = read<Words>(from + k % (WORDS / 2) * 4 * WIDE);
        return (k < WORDS / 2 ? both : both >> 4) & 0x0f0f0f0fu;
    }

    template <int R, int WORDS>
    static void dot(const uint32_t* x, int64_t stride, const char* from, Vector (&dots)[R][2]) {
        constexpr int apart = WORDS / 2;
        const Words low = Words{} + 0x0f0f0f0fu;
#if defined(__AVX512VNNI__) || (defined(__AVXVNNI__) && !defined(__AVX512F__))
        for (int k = 0; k < apart; k++, from += 4 * WIDE) {
            Words first = read<Words>(from), second = read<Words>(from + 4 * LANES);
            Vector near[2] = {bits<Vector>(first & low), bits<Vector>(second & low)};
            Vector far[2] = {bits<Vector>(first >> 4 & low), bits<Vector>(second >> 4 & low)};
#pragma GCC unroll 16
            for (int r = 0; r < R; r++) {
                Vector a = repeated(x[r * stride + k]), b = repeated(x[r * stride + k + apart]);
                for (int v = 0; v < 2; v++)
                    dots[r][v] = add_products(add_products(dots[r][v], near[v], a), far[v], b);
            }
        }
#else
        Vector pairs[R][2] = {};  // at most 32 * 15 * 127 / 2 each, which 16 bits hold
        for (int k = 0; k < apart; k++, from += 4 * WIDE) {
            Words first = read<Words>(from), second = read<Words>(from + 4 * LANES);
            Vector near[2] = {bits<Vector>(first & low), bits<Vector>(second & low)};
            Vector far[2] = {bits<Vector>(first >> 4 & low), bits<Vector>(second >> 4 & low)};
#pragma GCC unroll 16
            for (int r = 0; r < R; r++) {
                Vector a = repeated(x[r * stride + k]), b = repeated(x[r * stride + k + apart]);
                for (int v = 0; v < 2; v++)
                    pairs[r][v] = add_pairs(pairs[r][v], add_pairs(pairs_of(near[v], a), pairs_of(far[v], b)));
            }
        }
        for (int r = 0; r < R; r++)
            for (int v = 0; v < 2; v++)
                dots[r][v] = bits<Vector>(bits<Ints>(dots[r][v]) + bits<Ints>(fours_of(pairs[r][v])));
#endif
    }
};

// Bytes from -128 to 127, 128 more in memory.
struct Bytes {
    static constexpr int64_t bytes_of(int64_t group) { return group * WIDE; }
    static constexpr int32_t offset(bool) { return HAS_VNNI ? 128 : 0; }

    template <int WORDS>
    static Words word(const char* from, int k) {
        return read<Words>(from + k * 4 * WIDE);
    }

    template <int R, int WORDS>
    static void dot(const uint32_t* x, int64_t stride, const char* from, Vector (&dots)[R][2]) {
        for (int k = 0; k < WORDS; k++, from += 4 * WIDE) {
            Words first = read<Words>(from), second = read<Words>(from + 4 * LANES);
#if defined(__AVX512VNNI__) || (defined(__AVXVNNI__) && !defined(__AVX512F__))
            Vector whole[2] = {bits<Vector>(first), bits<Vector>(second)};
#pragma GCC unroll 16
            for (int r = 0; r < R; r++) {
                Vector a = repeated(x[r * stride + k]);
                for (int v = 0; v < 2; v++) dots[r][v] = add_products(dots[r][v], whole[v], a);
            }
#else
            // pairs of products are summed in 16 bits, which hold two of 128 * 127
            Vector whole[2] = {bits<Vector>(first ^ 0x80808080u), bits<Vector>(second ^ 0x80808080u)};
            Vector magnitudes[2] = {magnitude(whole[0]), magnitude(whole[1])};
#pragma GCC unroll 16
            for (int r = 0; r < R; r++) {
                Vector a = repeated(x[r * stride + k]);
                for (int v = 0; v < 2; v++) {
                    Vector fours = fours_of(pairs_of(magnitudes[v], signed_by(a, whole[v])));
                    dots[r][v] = bits<Vector>(bits<Ints>(dots[r][v]) + bits<Ints>(fours));
                }
            }
#endif
        }
    }
};

// out[R][WIDE] of R rows, from the `first` on, and one panel: of each group the scales, the least values if
// it has some, both in fp16, and its words.
template <class Op, int R, int INPUTS, bool has_least>
void group_tile(
    const Rows& rows, int64_t first, const char* panel, int64_t groups, float (*out)[WIDE], Ahead ahead
) {
    constexpr int WORDS = INPUTS / 4, PARTS = GROUP / INPUTS;  // a row's group has PARTS of the matrix's
    const uint32_t* x = rows.words + first * rows.stride;
    const float* scales = rows.scales + first * (rows.stride / 8);
    const int32_t* sums = rows.sums + first * (rows.stride / 4);
    Floats totals[R][2] = {};
    for (int64_t g = 0; g < groups; g++) {
        for (int64_t at = 0; at < ahead.step; at += 64) __builtin_prefetch(ahead.from + at, 0, 2);
        ahead.from += ahead.step;
        Floats factors[2] = {from_halves(panel), from_halves(panel + 2 * LANES)}, least[2];
        panel += 2 * WIDE;
        if (has_least) {
            least[0] = from_halves(panel), least[1] = from_halves(panel + 2 * LANES);
            panel += 2 * WIDE;
        }
        Vector dots[R][2];
        int32_t whole[R];
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
            const int32_t* halves = sums + r * (rows.stride / 4);
            whole[r] = PARTS == 2 ? halves[g] : halves[2 * g] + halves[2 * g + 1];
            dots[r][0] = dots[r][1] = repeated(uint32_t(-Op::offset(has_least) * whole[r]));
        }
        Op::template dot<R, WORDS>(x + g * WORDS, rows.stride, panel, dots);
        panel += Op::bytes_of(INPUTS);
#pragma GCC unroll 16
        for (int r = 0; r < R; r++) {
            float scale = scales[r * (rows.stride / 8) + g / PARTS];
            for (int v = 0; v < 2; v++) {
                Floats dot = __builtin_convertvector(bits<Ints>(dots[r][v]), Floats);
                totals[r][v] = multiply_add(dot, factors[v] * scale, totals[r][v]);
                if (has_least)
                    totals[r][v] = multiply_add(least[v], Floats{} + scale * float(whole[r]), totals[r][v]);
            }
        }
    }
    std::memcpy(out, totals, sizeof totals);
}

template <class Op, int INPUTS, bool has_least, int R = GROUP_TILE>
void group_tile_of(
    int64_t height, const Rows& rows, int64_t first, const char* panel, int64_t groups, float (*out)[WIDE],
    Ahead ahead
) {
    if (height == R) return group_tile<Op, R, INPUTS, has_least>(rows, first, panel, groups, out, ahead);
    if constexpr (R > 1)
        group_tile_of<Op, INPUTS, has_least, R - 1>(height, rows, first, panel, groups, out, ahead);
}

// f(operation, inputs of a group, whether it has a least value) of a matrix in groups
template <class F>
void by_layout(const Matrix& matrix, F f) {
    using std::integral_constant, std::bool_constant;
    auto of = [&](auto op, auto inputs) {
        if (matrix.has_least) f(op, inputs, bool_constant<true>());
        else f(op, inputs, bool_constant<false>());
    };
    auto of_size = [&](auto op) {
        if (matrix.group == GROUP) of(op, integral_constant<int, GROUP>());
        else of(op, integral_constant<int, GROUP / 2>());
    };
    if (matrix.kind == NIBBLES) of_size(Nibbles());
    else of_size(Bytes());
}

template <class Op, int INPUTS, bool has_least>
constexpr int64_t GROUP_BYTES = (has_least ? 4 : 2) * WIDE + Op::bytes_of(INPUTS);

template <class Op, int INPUTS, bool has_least, class Put>
void group_product(const Matrix& matrix, const Rows& x, int64_t rows, Put put) {
    int64_t panels = (matrix.outputs + WIDE - 1) / WIDE, groups = num_groups(matrix.inputs) * (GROUP / INPUTS);
    int64_t step = GROUP_BYTES<Op, INPUTS, has_least>, bytes = groups * step;
    int64_t tiles = num_tiles<GROUP_TILE>(rows);
    int64_t chunk = std::max<int64_t>(1, panels / (4 * omp_get_num_threads()));
#pragma omp for schedule(dynamic, chunk)
    for (int64_t p = 0; p < panels; p++) {
        const char* panel = matrix.panels + p * bytes;
        // each tile fetches a part of the next panel
        Ahead ahead = p + 1 == panels || tiles > 4 ? Ahead{panel, 0} : Ahead{panel + bytes, step / tiles};
        in_tiles<GROUP_TILE>(rows, [&](int64_t first, int64_t height) {
            alignas(64) float out[GROUP_TILE][WIDE];
            group_tile_of<Op, INPUTS, has_least>(height, x, first, panel, groups, out, ahead);
            ahead.from += groups * ahead.step;
            for (int64_t r = 0; r < height; r++) {
                for (int64_t i = 0; i < WIDE; i++) out[r][i] *= matrix.unit;
                finish(matrix, first + r, p, out[r], put);
            }
        });
    }
}

// --- products in tiles

#if defined(__AMX_BF16__)
static_assert(HAS_VNNI && LANES == 16);

// Words of two inputs of all outputs, in the nearest bf16, a half up.
inline Words two_halves(Floats first, Floats second) {
    return (bits<Words>(first) + 0x8000u) >> 16 | ((bits<Words>(second) + 0x8000u) & 0xffff0000u);
}

// A panel in groups brought to bf16.
template <class Op, int INPUTS, bool has_least>
void widen(const char* panel, int64_t groups, float unit, uint32_t* to) {
    constexpr int WORDS = INPUTS / 4;
    const char* words = panel + (has_least ? 4 : 2) * WIDE;
    for (int64_t g = 0; g < groups; g++) {
        for (int v = 0; v < 2; v++) {
            Floats scale = from_halves(panel + 2 * LANES * v) * unit;
            Floats zero = scale * float(-Op::offset(has_least));
            if (has_least) zero += from_halves(panel + 2 * WIDE + 2 * LANES * v) * unit;
#pragma GCC unroll 8
            for (int k = 0; k < WORDS; k++) {
                Words four = Op::template word<WORDS>(words + 4 * LANES * v, k);
                Floats w[4];
                for (int i = 0; i < 4; i++) {
                    Floats whole = __builtin_convertvector(bits<Ints>(four >> 8 * i & 0xffu), Floats);
                    w[i] = multiply_add(whole, scale, zero);
                }
                for (int i = 0; i < 2; i++) {
                    Words pair = two_halves(w[2 * i], w[2 * i + 1]);
                    std::memcpy(to + (2 * k + i) * WIDE + v * LANES, &pair, sizeof pair);
                }
            }
        }
        panel += GROUP_BYTES<Op, INPUTS, has_least>;
        words += GROUP_BYTES<Op, INPUTS, has_least>;
        to += INPUTS / 2 * WIDE;
    }
}

// A matrix's p-th panel in bf16, with zeros up to whole groups; in `to` where it does not lie so.
const uint32_t* panel_in_bf16(const Matrix& matrix, int64_t p, uint32_t* to) {
    int64_t groups = num_groups(matrix.inputs), words = matrix.words();
    if (matrix.kind == BF16) {
        auto* panel = reinterpret_cast<const uint32_t*>(matrix.panels) + p * words * WIDE;
        if (words == groups * (GROUP / 2)) return panel;
        std::memcpy(to, panel, words * 4 * WIDE);
        std::memset(to + words * WIDE, 0, (groups * (GROUP / 2) - words) * 4 * WIDE);
    } else {
        by_layout(matrix, [&](auto op, auto inputs, auto has_least) {
            int64_t parts = groups * (GROUP / inputs);
            const char* panel = matrix.panels + p * parts * GROUP_BYTES<decltype(op), inputs, has_least>;
            widen<decltype(op), inputs, has_least>(panel, parts, matrix.unit, to);
        });
    }
    return to;
}

// out[one or both tiles' rows][WIDE]; what is behind the last row is not to be read
template <bool both>
void tiled(const uint32_t* x, const uint32_t* next, const uint32_t* panel, int64_t groups, float (*out)[WIDE]) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    constexpr int64_t words = TILE_ROWS * GROUP / 2;
    for (int64_t g = 0; g < groups; g++, x += words, next += words, panel += GROUP / 2 * WIDE) {
        _tile_loadd(6, panel, 4 * WIDE);
        _tile_loadd(7, panel + LANES, 4 * WIDE);
        _tile_loadd(4, x, 4 * LANES);
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        if constexpr (both) {
            _tile_loadd(5, next, 4 * LANES);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, out[0], sizeof *out);
    _tile_stored(1, out[0] + LANES, sizeof *out);
    if constexpr (both) {
        _tile_stored(2, out[TILE_ROWS], sizeof *out);
        _tile_stored(3, out[TILE_ROWS] + LANES, sizeof *out);
    }
}

// put(row, values) for what a panel gives all rows
template <class Put>
void tiled_panel(const Rows& x, int64_t rows, const uint32_t* panel, int64_t groups, Put put) {
    for (int64_t first = 0; first < rows; first += 2 * TILE_ROWS) {
        alignas(64) float out[2 * TILE_ROWS][WIDE];
        const uint32_t *tiles = x.tiles(first), *next = x.tiles(first + TILE_ROWS);
        if (rows - first > TILE_ROWS) tiled<true>(tiles, next, panel, groups, out);
        else tiled<false>(tiles, next, panel, groups, out);
        for (int64_t r = 0; r < std::min(2 * TILE_ROWS, rows - first); r++) put(first + r, out[r]);
    }
}

thread_local std::vector<uint32_t> thread_unpacked;

template <class Put>
void tiled_product(const Matrix& matrix, const Rows& x, int64_t rows, Put put) {
    int64_t panels = (matrix.outputs + WIDE - 1) / WIDE, groups = num_groups(matrix.inputs);
    int64_t chunk = std::max<int64_t>(1, panels / (8 * omp_get_num_threads()));
    uint32_t* unpacked = room(thread_unpacked, groups * (GROUP / 2) * WIDE);
    TileShapes shapes;
    _tile_loadconfig(&shapes);
#pragma omp for schedule(dynamic, chunk)
    for (int64_t p = 0; p < panels; p++) {
        const uint32_t* panel = panel_in_bf16(matrix, p, unpacked);
        tiled_panel(x, rows, panel, groups, [&](int64_t row, float* values) {
            finish(matrix, row, p, values, put);
        });
    }
    _tile_release();
}
#else
template <class Put>
void tiled_product(const Matrix&, const Rows&, int64_t, Put) {}
#endif

// put(row, first output, count, values) for all of x W^T + bias; to be called by all threads
template <class Put>
void product(const Matrix& matrix, const Rows& x, int64_t rows, bool in_tiles, Put put) {
    if (rows == 0) return;
    int64_t before = 0;
    auto put_here = [&](int64_t row, int64_t begin, auto count, const float* values) {
        put(row, before + begin, count, values);
    };
    auto run = [&](const Matrix& part, auto op) {
        using Op = decltype(op);
        // Very few rows leave so little to compute that the processor itself fetches as fast as memory gives,
        // and with very many a panel is read from memory once in a long while.
        if (rows > 8 && num_tiles(rows) <= 2) product_of<Op, true>(part, x, rows, put_here);
        else product_of<Op, false>(part, x, rows, put_here);
    };
    for (const Matrix* part = &matrix; part; before += part->outputs, part = part->next) {
        if (is_tiled(*part, in_tiles)) tiled_product(*part, x, rows, put_here);
        else if (part->kind == FP32) run(*part, Fp32());
        else if (part->kind == BF16) run(*part, Bf16());
        else
            by_layout(*part, [&](auto op, auto inputs, auto has_least) {
                group_product<decltype(op), inputs, has_least>(*part, x, rows, put_here);
            });
    }
}

auto into(float* y, int64_t stride) {
    return [=](int64_t row, int64_t begin, auto count, const float* values) {
        std::memcpy(y + row * stride + begin, values, count * sizeof(float));
    };
}

auto added_to(float* y, int64_t stride) {
    return [=](int64_t row, int64_t begin, auto count, const float* values) {
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
    int64_t tiles_blocks, tiles_head;  // whether products of the blocks and of the head may be in tiles
    int64_t one_by_one;                // whether every token attends as in a call of its own: to the bit
    float* logits;                     // [wanted][vocabulary]
};

struct Task {
    int64_t row, kv_head, token, position, count;  // of the queries: the first one's token and position
};

struct Scratch {
    std::vector<float> qkv, attended, hidden, added, scales;
    std::vector<uint32_t> words;
    std::vector<int32_t> sums;
    std::vector<Task> tasks;
    std::vector<int64_t> row_of, position_of;
};

thread_local Scratch scratch;  // of the thread that calls

// Room for rows of `inputs` inputs, and for those that fill the last tile.
Rows rows_of(int64_t count, int64_t inputs) {
    int64_t stride = num_groups(inputs) * GROUP;
    count = (count + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS;
    return {
        room(scratch.words, count * stride), room(scratch.scales, count * stride / 8),
        room(scratch.sums, count * stride / 4), stride
    };
}

thread_local std::vector<float> thread_scores, thread_panel, thread_row;
thread_local std::vector<uint32_t> thread_keys, thread_values, thread_queries, thread_weights;

class Forward {
  public:
    Forward(const Decoder& decoder, const Batch& batch) : d(decoder), b(batch) {
        groups = d.heads / d.kv_heads;
        qkv_width = (d.heads + 2 * d.kv_heads) * d.head_width;
        attended_width = d.heads * d.head_width;
        up_width = d.feed_forward == GELU ? d.ff_width : 2 * d.ff_width;
        qkv = room(scratch.qkv, b.num_tokens * qkv_width);
        attended = room(scratch.attended, b.num_tokens * attended_width);
        hidden = room(scratch.hidden, b.num_tokens * up_width);
        added = room(scratch.added, b.num_tokens * d.width);
        int64_t widest = std::max({d.width, attended_width, d.ff_width});
        rows = rows_of(std::max(b.num_tokens, b.num_wanted), widest);
        lay_out();
    }

    void run() {
#pragma omp parallel num_threads(b.threads)
        {
            for (int64_t l = 0; l < d.num_layers; l++) block(d.layers[l], l);
#pragma omp for
            for (int64_t i = 0; i < b.num_wanted; i++)
                rows.put(i, normed(d.norm, b.x + b.wanted[i] * d.width), d.head, b.tiles_head);
            product(d.head, rows, b.num_wanted, b.tiles_head, into(b.logits, d.head.outputs));
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
            int64_t blocks = b.one_by_one ? b.counts[r] : (b.counts[r] + most - 1) / most;
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
            put_row(n, normed(layer.attention_norm, b.x + n * d.width), layer.qkv);
        multiply(layer.qkv, into(qkv, qkv_width));
#pragma omp for
        for (int64_t n = 0; n < b.num_tokens; n++)
            b.is_bf16 ? remember<uint16_t>(layer, l, n) : remember<float>(layer, l, n);
        int64_t chunk = std::clamp<int64_t>(num_tasks / (4 * omp_get_num_threads()), 1, d.kv_heads);
#pragma omp for schedule(dynamic, chunk)
        for (int64_t t = 0; t < num_tasks; t++)
            b.is_bf16 ? attend<uint16_t>(layer, l, tasks[t]) : attend<float>(layer, l, tasks[t]);
#pragma omp for
        for (int64_t n = 0; n < b.num_tokens; n++) put_row(n, attended + n * attended_width, layer.out);
        add_product(layer.out, layer.attention_post_norm);
#pragma omp for
        for (int64_t n = 0; n < b.num_tokens; n++)
            put_row(n, normed(layer.feed_forward_norm, b.x + n * d.width), layer.up);
        multiply(layer.up, into(hidden, up_width));
#pragma omp for
        for (int64_t n = 0; n < b.num_tokens; n++) put_row(n, activated(hidden + n * up_width), layer.down);
        add_product(layer.down, layer.feed_forward_post_norm);
    }

    void put_row(int64_t n, const float* x, const Matrix& matrix) const {
        rows.put(n, x, matrix, b.tiles_blocks);
    }

    template <class Put>
    void multiply(const Matrix& matrix, Put put) const {
        product(matrix, rows, b.num_tokens, b.tiles_blocks, put);
    }

    // x += norm(product)
    void add_product(const Matrix& matrix, const Norm& norm) {
        if (!norm.weight) return multiply(matrix, added_to(b.x, d.width));
        multiply(matrix, into(added, d.width));
#pragma omp for
        for (int64_t n = 0; n < b.num_tokens; n++) {
            const float* y = normed(norm, added + n * d.width);
            for (int64_t i = 0; i < d.width; i++) b.x[n * d.width + i] += y[i];
        }
    }

    const float* normed(const Norm& norm, const float* x) const {
        float* to = room(thread_row, rows.stride);
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
        float* to = room(thread_row, rows.stride);
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
        if constexpr (std::is_same_v<T, uint16_t>)
            if (has_tiles && b.tiles_blocks && d.head_width % GROUP == 0)
                return attend_in_tiles(layer, task, keys, values);
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
        float* weights = room(thread_scores, count);
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
        float* scores = room(thread_scores, task.count * stride);
        score(task, g, keys, origin, scores, stride);
        soften_block(layer, task, origin, scores, stride);
        gather(task, g, values, origin, scores, stride);
    }

    // Weights in place of scores; 0 for keys that a query does not see.
    void soften_block(const Layer& layer, const Task& task, int64_t origin, float* scores, int64_t stride) const {
        for (int64_t q = 0; q < task.count; q++) {
            float* of = scores + q * stride;
            int64_t begin = first_seen(layer, task.position + q) - origin;
            int64_t end = task.position + q + 1 - origin;
            soften(of + begin, end - begin);
            std::fill(of, of + begin, 0.0f);
            std::fill(of + end, of + stride, 0.0f);
        }
    }

    // Scores of all queries with the keys that any of them sees, panel by panel.
    template <class T>
    void score(const Task& task, int64_t g, const T* keys, int64_t origin, float* scores, int64_t stride) {
        float* panel = room(thread_panel, d.head_width * WIDE);
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
        float* panel = room(thread_panel, seen * WIDE);
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

#if defined(__AMX_BF16__)
    // All heads' blocks of queries, which share the keys and values; these, queries and weights are in bf16.
    void attend_in_tiles(const Layer& layer, const Task& task, const uint16_t* keys, const uint16_t* values) {
        int64_t width = d.head_width, origin = first_seen(layer, task.position);
        int64_t seen = task.position + task.count - origin, groups_seen = num_groups(seen);
        int64_t stride = groups_seen * GROUP;
        static_assert(GROUP == WIDE);
        uint32_t* key_panels = room(thread_keys, stride * width / 2);
        uint32_t* value_panels = room(thread_values, stride * width / 2);
        for (int64_t p = 0; p < groups_seen; p++)
            put_keys(keys + origin * width, p * WIDE, seen, key_panels + p * WIDE * width / 2);
        for (int64_t c = 0; c < width; c += WIDE)
            put_values(values + origin * width + c, seen, value_panels + c * stride / 2);
        float* scores = room(thread_scores, task.count * stride);
        int64_t tiled_rows = (task.count + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS;
        Rows queries{room(thread_queries, tiled_rows * width / 2), nullptr, nullptr, width / 2};
        Rows weights{room(thread_weights, tiled_rows * stride / 2), nullptr, nullptr, stride / 2};
        TileShapes shapes;
        _tile_loadconfig(&shapes);
        for (int64_t g = 0; g < groups; g++) {
            for (int64_t q = 0; q < task.count; q++)
                queries.put_in_tiles(q, query(task, g) + q * qkv_width, width);
            for (int64_t p = 0; p < groups_seen; p++)
                tiled_panel(
                    queries, task.count, key_panels + p * WIDE * width / 2, width / GROUP,
                    [&](int64_t q, const float* of) {
                        std::memcpy(scores + q * stride + p * WIDE, of, WIDE * sizeof *of);
                    }
                );
            soften_block(layer, task, origin, scores, stride);
            for (int64_t q = 0; q < task.count; q++) weights.put_in_tiles(q, scores + q * stride, stride);
            for (int64_t c = 0; c < width; c += WIDE)
                tiled_panel(
                    weights, task.count, value_panels + c * stride / 2, groups_seen,
                    [&](int64_t q, const float* of) {
                        std::memcpy(answer(task, g) + q * attended_width + c, of, WIDE * sizeof *of);
                    }
                );
        }
        _tile_release();
    }

    // A panel of keys from `first` on; of those that are not there, the last one stands for all.
    void put_keys(const uint16_t* keys, int64_t first, int64_t seen, uint32_t* to) const {
        for (int64_t v = 0; v < WIDE; v += LANES) {
            Ints halves;
            for (int64_t i = 0; i < LANES; i++)
                halves[i] = int32_t(std::min(first + v + i, seen - 1) * d.head_width);
            for (int64_t k = 0; k < d.head_width / 2; k++) {
                auto words = _mm512_i32gather_epi32(bits<__m512i>(halves), keys + 2 * k, 2);
                std::memcpy(to + k * WIDE + v, &words, sizeof words);
            }
        }
    }

    // A panel of WIDE numbers of all values, two values in a word.
    void put_values(const uint16_t* values, int64_t seen, uint32_t* to) const {
        for (int64_t s = 0; s < num_groups(seen) * GROUP; s += 2, to += WIDE)
            for (int64_t v = 0; v < WIDE; v += LANES) {
                auto of = [&](int64_t at) {
                    const uint16_t* value = values + std::min(at, seen - 1) * d.head_width + v;
                    return __builtin_convertvector(read<Halves>(value), Words);
                };
                Words two = of(s) | of(s + 1) << 16;
                std::memcpy(to + v, &two, sizeof two);
            }
    }
#else
    void attend_in_tiles(const Layer&, const Task&, const uint16_t*, const uint16_t*) {}
#endif

    static float plain(float value) { return value; }
    static float plain(uint16_t value) { return widened(value); }
};

}  // namespace

extern "C" {

int64_t malmoi_wide() { return WIDE; }

// Whether products can be in tiles.
int64_t malmoi_has_tiles() { return has_tiles; }

// Puts rows in groups into a matrix's panels, from output `first` on, which begins one. scales and least (or
// null): [rows][groups], to be multiplied by `factor`; numbers: [rows][inputs].
void malmoi_pack(
    const Matrix* matrix, char* panels, int64_t first, int64_t rows, const int8_t* numbers, const float* scales,
    const float* least, float factor, int64_t threads
) {
    int64_t size = matrix->group, inputs = matrix->inputs, groups = num_groups(inputs) * (GROUP / size);
    int64_t given = (inputs + size - 1) / size, head = (least ? 4 : 2) * WIDE;
    bool are_bytes = matrix->kind == BYTES;
    int64_t bytes = head + (are_bytes ? size : size / 2) * WIDE;
    int64_t words = size / 4, apart = words / 2;
#pragma omp parallel for num_threads(threads)
    for (int64_t panel = 0; panel < (rows + WIDE - 1) / WIDE; panel++)
        for (int64_t i = 0; i < WIDE; i++)
            for (int64_t g = 0; g < groups; g++) {
                int64_t row = panel * WIDE + i, begin = g * size;
                int64_t count = row < rows ? std::clamp<int64_t>(inputs - begin, 0, size) : 0;
                char* to = panels + ((first / WIDE + panel) * groups + g) * bytes;
                uint32_t group[GROUP / 4] = {};
                std::memcpy(group, numbers + row * inputs + begin, count);
                bool is_there = row < rows && g < given;
                uint16_t half = _cvtss_sh(is_there ? scales[row * given + g] * factor : 0, 0);
                std::memcpy(to + 2 * i, &half, 2);
                if (least) {
                    half = _cvtss_sh(is_there ? least[row * given + g] * factor : 0, 0);
                    std::memcpy(to + 2 * WIDE + 2 * i, &half, 2);
                }
                for (int64_t k = 0; k < (are_bytes ? words : apart); k++) {  // 128 or 8 more, of each byte
                    uint32_t word = group[k] ^ 0x80808080u, more = least ? 0 : 0x08080808u;
                    if (!are_bytes)
                        word = ((group[k] & 0x0f0f0f0fu) ^ more) | ((group[k + apart] & 0x0f0f0f0fu) ^ more) << 4;
                    std::memcpy(to + head + 4 * (k * WIDE + i), &word, 4);
                }
            }
}

// y[rows][outputs] = x[rows][inputs] W^T + bias
void malmoi_linear(
    const Matrix* matrix, const float* x, int64_t num_rows, float* y, int64_t in_tiles, int64_t threads
) {
    Rows rows = rows_of(num_rows, matrix->inputs);
#pragma omp parallel num_threads(threads)
    {
#pragma omp for
        for (int64_t r = 0; r < num_rows; r++) rows.put(r, x + r * matrix->inputs, *matrix, in_tiles);
        product(*matrix, rows, num_rows, in_tiles, into(y, matrix->all_outputs()));
    }
}

void malmoi_forward(const Decoder* decoder, const Batch* batch) { Forward(*decoder, *batch).run(); }
}
