// Vectors of numbers in fp32 and bf16, for the kernels beside this file.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <type_traits>
#include <vector>

#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace {

using std::int64_t;

#if defined(__AVX512F__)
constexpr int LANES = 16;
#else
constexpr int LANES = 8;
#endif

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

// Room for so many, from the beginning of a line of the caches; the same one until more is asked for.
template <class T>
T* room(std::vector<T>& of, int64_t count) {
    constexpr size_t LINE = 64;
    size_t size = count * sizeof(T), space = size + LINE;
    if (of.size() * sizeof(T) < space) of.resize((space + sizeof(T) - 1) / sizeof(T));
    void* begin = of.data();
    return static_cast<T*>(std::align(LINE, size, begin, space));
}

// --- numbers

inline float widened(uint16_t half) { return bits<float>(uint32_t(half) << 16); }

// The bf16 that is nearest to an fp32, ties to even, of its bits; NaN may become something else.
template <class Word>
inline Word nearest_half(Word word) {
    return (word + 0x7fff + ((word >> 16) & 1)) >> 16;
}

inline uint16_t halved(float value) { return uint16_t(nearest_half(bits<uint32_t>(value))); }

inline void halve(uint16_t* __restrict to, const float* __restrict from, int64_t count) {
    for (int64_t i = 0; i < count; i++) to[i] = halved(from[i]);
}

inline Floats load(const float* from) { return read<Floats>(from); }

// Each in a word of its own; by name, for GCC takes vectors of 64 bytes apart for it.
inline Words words_of(Halves halves) {
#if defined(__AVX512F__)
    return bits<Words>(_mm512_cvtepu16_epi32(bits<__m256i>(halves)));
#else
    return bits<Words>(_mm256_cvtepu16_epi32(bits<__m128i>(halves)));
#endif
}

inline Floats load(const uint16_t* from) { return bits<Floats>(words_of(read<Halves>(from)) << 16); }

template <class T>
inline Floats load_some(const T* from, int64_t count) {
    T some[LANES] = {};
    std::memcpy(some, from, count * sizeof(T));
    return load(some);
}

// To memory, in its numbers.
inline void put(float* to, Floats value, int64_t count) { std::memcpy(to, &value, count * sizeof *to); }

inline void put(uint16_t* to, Floats value, int64_t count) {  // NaN stays NaN
    Words rounded = value == value ? nearest_half(bits<Words>(value)) : Words{} + 0x7fc0;
    Halves halves = __builtin_convertvector(rounded, Halves);
    std::memcpy(to, &halves, count * sizeof *to);
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

// --- tiles

#if defined(__AMX_BF16__)
// Linux gives a process the tiles' registers when it asks (ARCH_REQ_XCOMP_PERM of XFEATURE_XTILEDATA).
const bool has_tiles = syscall(SYS_arch_prctl, 0x1023, 18) == 0;
#else
constexpr bool has_tiles = false;
#endif

// All eight tiles are of 16 rows of 64 bytes.
struct TileShapes {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

}  // namespace
