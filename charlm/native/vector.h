// Vectors of floats and of 32-bit integers, and the activation functions of an LSTM, for one instruction set.
// CHARLM_LEVEL selects it when a file is compiled:
//
//     0 portable C++    1 AVX2 with FMA    2 AVX-512 F, BW, DQ and VL    3 also BF16 and VNNI    4 also AMX tiles
//
// Everything is in an unnamed namespace and nothing comes from the standard library. Otherwise the linker could merge a
// function that was compiled for a newer processor with its copy that must run everywhere.
#pragma once

#include <cstdint>
#include <cstring>

#ifndef CHARLM_LEVEL
#error "define CHARLM_LEVEL, as isa_*.cpp do"
#endif

#if CHARLM_LEVEL > 0
#include <immintrin.h>
#endif

#define CHARLM_INLINE inline __attribute__((always_inline))

namespace {

constexpr float kLog2E = 1.44269504f;

#if CHARLM_LEVEL >= 2

using Floats = __m512;
using Ints = __m512i;
constexpr long kLanes = 16;

CHARLM_INLINE Floats load(const float* p) { return _mm512_loadu_ps(p); }
CHARLM_INLINE void store(float* p, Floats v) { _mm512_storeu_ps(p, v); }
CHARLM_INLINE Floats broadcast(float x) { return _mm512_set1_ps(x); }
CHARLM_INLINE Ints broadcast_int(int32_t x) { return _mm512_set1_epi32(x); }
CHARLM_INLINE Ints load_ints(const void* p) { return _mm512_loadu_si512(p); }
CHARLM_INLINE void store_ints(void* p, Ints v) { _mm512_storeu_si512(p, v); }
CHARLM_INLINE Floats as_floats(Ints v) { return _mm512_castsi512_ps(v); }
CHARLM_INLINE Ints as_ints(Floats v) { return _mm512_castps_si512(v); }
CHARLM_INLINE Floats to_floats(Ints v) { return _mm512_cvtepi32_ps(v); }
CHARLM_INLINE Ints round_to_int(Floats v) { return _mm512_cvtps_epi32(v); }
CHARLM_INLINE Floats multiply_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
CHARLM_INLINE Floats subtract_product(Floats c, Floats a, Floats b) { return _mm512_fnmadd_ps(a, b, c); }
// The limit is the first operand, because the instructions return the second one if either is NaN: NaN must propagate.
CHARLM_INLINE Floats clamp_max(float limit, Floats v) { return _mm512_min_ps(_mm512_set1_ps(limit), v); }
CHARLM_INLINE Floats clamp_min(float limit, Floats v) { return _mm512_max_ps(_mm512_set1_ps(limit), v); }
CHARLM_INLINE Floats round_to_nearest(Floats v) {
  return _mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
CHARLM_INLINE Floats times_power_of_two(Floats v, Floats n) { return _mm512_scalef_ps(v, n); }
template <bool precise>
CHARLM_INLINE Floats reciprocal(Floats v) {
  if constexpr (precise) return _mm512_div_ps(_mm512_set1_ps(1.0f), v);
  return _mm512_rcp14_ps(v);
}
CHARLM_INLINE Ints shift_left_16(Ints v) { return _mm512_slli_epi32(v, 16); }
CHARLM_INLINE Ints high_half(Ints v) { return _mm512_and_si512(v, _mm512_set1_epi32(int32_t(0xffff0000u))); }
CHARLM_INLINE Floats load_bf16(const uint16_t* p) {
  return _mm512_castsi512_ps(
      _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))), 16));
}
CHARLM_INLINE void store_low_bytes(uint8_t* p, Ints v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(v));
}
CHARLM_INLINE void store_low_halves(uint16_t* p, Ints v) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi32_epi16(v));
}
CHARLM_INLINE Ints shift_right_logical(Ints v, int by) { return _mm512_srl_epi32(v, _mm_cvtsi32_si128(by)); }
CHARLM_INLINE Ints add(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
CHARLM_INLINE Ints bitwise_and(Ints a, Ints b) { return _mm512_and_si512(a, b); }

#elif CHARLM_LEVEL == 1

using Floats = __m256;
using Ints = __m256i;
constexpr long kLanes = 8;

CHARLM_INLINE Floats load(const float* p) { return _mm256_loadu_ps(p); }
CHARLM_INLINE void store(float* p, Floats v) { _mm256_storeu_ps(p, v); }
CHARLM_INLINE Floats broadcast(float x) { return _mm256_set1_ps(x); }
CHARLM_INLINE Ints broadcast_int(int32_t x) { return _mm256_set1_epi32(x); }
CHARLM_INLINE Ints load_ints(const void* p) { return _mm256_loadu_si256(static_cast<const __m256i*>(p)); }
CHARLM_INLINE void store_ints(void* p, Ints v) { _mm256_storeu_si256(static_cast<__m256i*>(p), v); }
CHARLM_INLINE Floats as_floats(Ints v) { return _mm256_castsi256_ps(v); }
CHARLM_INLINE Ints as_ints(Floats v) { return _mm256_castps_si256(v); }
CHARLM_INLINE Floats to_floats(Ints v) { return _mm256_cvtepi32_ps(v); }
CHARLM_INLINE Ints round_to_int(Floats v) { return _mm256_cvtps_epi32(v); }
CHARLM_INLINE Floats multiply_add(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
CHARLM_INLINE Floats subtract_product(Floats c, Floats a, Floats b) { return _mm256_fnmadd_ps(a, b, c); }
CHARLM_INLINE Floats clamp_max(float limit, Floats v) { return _mm256_min_ps(_mm256_set1_ps(limit), v); }
CHARLM_INLINE Floats clamp_min(float limit, Floats v) { return _mm256_max_ps(_mm256_set1_ps(limit), v); }
CHARLM_INLINE Floats round_to_nearest(Floats v) {
  return _mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
CHARLM_INLINE Floats times_power_of_two(Floats v, Floats n) {
  const Ints exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
  return _mm256_mul_ps(v, _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23)));
}
template <bool>
CHARLM_INLINE Floats reciprocal(Floats v) {
  return _mm256_div_ps(_mm256_set1_ps(1.0f), v);
}
CHARLM_INLINE Ints shift_left_16(Ints v) { return _mm256_slli_epi32(v, 16); }
CHARLM_INLINE Ints high_half(Ints v) { return _mm256_and_si256(v, _mm256_set1_epi32(int32_t(0xffff0000u))); }
CHARLM_INLINE Floats load_bf16(const uint16_t* p) {
  return _mm256_castsi256_ps(
      _mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))), 16));
}
CHARLM_INLINE void store_low_bytes(uint8_t* p, Ints v) {
  const __m128i halves = _mm_packus_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(halves, halves));
}
CHARLM_INLINE void store_low_halves(uint16_t* p, Ints v) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                   _mm_packus_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1)));
}
CHARLM_INLINE Ints shift_right_logical(Ints v, int by) { return _mm256_srl_epi32(v, _mm_cvtsi32_si128(by)); }
CHARLM_INLINE Ints add(Ints a, Ints b) { return _mm256_add_epi32(a, b); }
CHARLM_INLINE Ints bitwise_and(Ints a, Ints b) { return _mm256_and_si256(a, b); }

#else

// Vectors of GCC and Clang, which the compiler maps to SSE2, NEON or scalar registers.
typedef float Floats __attribute__((vector_size(16)));
typedef int32_t Ints __attribute__((vector_size(16)));
typedef uint32_t UnsignedInts __attribute__((vector_size(16)));
constexpr long kLanes = 4;

CHARLM_INLINE Floats broadcast(float x) { return Floats{x, x, x, x}; }
CHARLM_INLINE Ints broadcast_int(int32_t x) { return Ints{x, x, x, x}; }
CHARLM_INLINE Floats load(const float* p) {
  Floats v;
  memcpy(&v, p, sizeof v);
  return v;
}
CHARLM_INLINE void store(float* p, Floats v) { memcpy(p, &v, sizeof v); }
CHARLM_INLINE Ints load_ints(const void* p) {
  Ints v;
  memcpy(&v, p, sizeof v);
  return v;
}
CHARLM_INLINE void store_ints(void* p, Ints v) { memcpy(p, &v, sizeof v); }
CHARLM_INLINE Floats as_floats(Ints v) { return reinterpret_cast<Floats>(v); }
CHARLM_INLINE Ints as_ints(Floats v) { return reinterpret_cast<Ints>(v); }
CHARLM_INLINE Floats to_floats(Ints v) { return __builtin_convertvector(v, Floats); }
CHARLM_INLINE Floats multiply_add(Floats a, Floats b, Floats c) { return a * b + c; }
CHARLM_INLINE Floats subtract_product(Floats c, Floats a, Floats b) { return c - a * b; }
CHARLM_INLINE Floats clamp_max(float limit, Floats v) {
  const Ints above = v > broadcast(limit);  // false where v is NaN, which propagates
  return as_floats((above & as_ints(broadcast(limit))) | (~above & as_ints(v)));
}
CHARLM_INLINE Floats clamp_min(float limit, Floats v) {
  const Ints below = v < broadcast(limit);
  return as_floats((below & as_ints(broadcast(limit))) | (~below & as_ints(v)));
}
// Adding 1.5 * 2^23 leaves no bits for a fraction, so the processor rounds to nearest. Valid for |v| < 2^22.
CHARLM_INLINE Floats round_to_nearest(Floats v) { return (v + broadcast(12582912.0f)) - broadcast(12582912.0f); }
CHARLM_INLINE Ints round_to_int(Floats v) { return as_ints(v + broadcast(12582912.0f)) - broadcast_int(0x4b400000); }
CHARLM_INLINE Floats times_power_of_two(Floats v, Floats n) {
  return v * as_floats((round_to_int(n) + broadcast_int(127)) << 23);
}
template <bool>
CHARLM_INLINE Floats reciprocal(Floats v) {
  return broadcast(1.0f) / v;
}
CHARLM_INLINE Ints shift_left_16(Ints v) { return reinterpret_cast<Ints>(reinterpret_cast<UnsignedInts>(v) << 16); }
CHARLM_INLINE Ints high_half(Ints v) { return v & broadcast_int(int32_t(0xffff0000u)); }
CHARLM_INLINE Floats load_bf16(const uint16_t* p) {
  return as_floats(Ints{int32_t(uint32_t(p[0]) << 16), int32_t(uint32_t(p[1]) << 16), int32_t(uint32_t(p[2]) << 16),
                        int32_t(uint32_t(p[3]) << 16)});
}
CHARLM_INLINE void store_low_bytes(uint8_t* p, Ints v) {
  for (int j = 0; j < 4; ++j) p[j] = uint8_t(v[j]);
}
CHARLM_INLINE void store_low_halves(uint16_t* p, Ints v) {
  for (int j = 0; j < 4; ++j) p[j] = uint16_t(v[j]);
}
CHARLM_INLINE Ints shift_right_logical(Ints v, int by) {
  return reinterpret_cast<Ints>(reinterpret_cast<UnsignedInts>(v) >> by);
}
CHARLM_INLINE Ints add(Ints a, Ints b) { return a + b; }
CHARLM_INLINE Ints bitwise_and(Ints a, Ints b) { return a & b; }

#endif

// Stores floats as bfloat16, rounded to nearest even. NaN stays NaN.
CHARLM_INLINE void store_bf16(uint16_t* p, Floats v) {
#if CHARLM_LEVEL >= 3
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), reinterpret_cast<__m256i>(_mm512_cvtneps_pbh(v)));
#else
  const Ints bits = as_ints(v);
  const Ints odd = bitwise_and(shift_right_logical(bits, 16), broadcast_int(1));
  const Ints up = add(bits, add(odd, broadcast_int(0x7fff)));
  store_low_halves(p, shift_right_logical(up, 16));
  for (long j = 0; j < kLanes; ++j) {
    float x;
    memcpy(&x, reinterpret_cast<const char*>(&v) + 4 * j, 4);
    if (x != x) p[j] = 0x7fc0;
  }
#endif
}

CHARLM_INLINE uint16_t to_bf16(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  if (x != x) return 0x7fc0;
  return uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// 2^r - 1 for r in [-1/2, 1/2], by a minimax polynomial for the relative error of 2^r with 2^0 exactly 1. The error is
// 2e-9 plus the rounding of floats, or 1e-4 if not `precise`, which is far below the resolution of bfloat16 and int8.
template <bool precise>
CHARLM_INLINE Floats exp2_minus_one(Floats r) {
  Floats p;
  if constexpr (precise) {
    p = broadcast(0.000153533612f);
    p = multiply_add(p, r, broadcast(0.00133988747f));
    p = multiply_add(p, r, broadcast(0.00961843736f));
    p = multiply_add(p, r, broadcast(0.0555033247f));
    p = multiply_add(p, r, broadcast(0.240226479f));
    p = multiply_add(p, r, broadcast(0.693147203f));
  } else {
    p = broadcast(0.055008916f);
    p = multiply_add(p, r, broadcast(0.242210964f));
    p = multiply_add(p, r, broadcast(0.69328293f));
  }
  return p * r;
}

// Limits t so that 2^t is a normal number.
CHARLM_INLINE Floats clamp_exponent(Floats t) {
#if CHARLM_LEVEL < 2
  return clamp_min(-126.0f, clamp_max(126.0f, t));
#else
  return t;  // AVX-512's scalef saturates
#endif
}

// 2^t for any t.
template <bool precise>
CHARLM_INLINE Floats exp2_approximation(Floats t) {
  t = clamp_exponent(t);
  const Floats n = round_to_nearest(t);
  return times_power_of_two(exp2_minus_one<precise>(t - n) + broadcast(1.0f), n);
}

CHARLM_INLINE Floats exponential(Floats x) { return exp2_approximation<true>(x * broadcast(kLog2E)); }

template <bool precise>
CHARLM_INLINE Floats sigmoid(Floats x) {
  return reciprocal<precise>(broadcast(1.0f) + exp2_approximation<precise>(x * broadcast(-kLog2E)));
}

// tanh x = (e^2x - 1) / (e^2x + 1). The precise version computes e^2x - 1 without cancellation, for accuracy near 0.
template <bool precise>
CHARLM_INLINE Floats hyperbolic_tangent(Floats x) {
  Floats t = x * broadcast(2.0f * kLog2E);
  if constexpr (!precise) {
    return subtract_product(broadcast(1.0f), broadcast(2.0f),
                            reciprocal<false>(broadcast(1.0f) + exp2_approximation<false>(t)));
  } else {
    t = clamp_exponent(clamp_max(126.0f, t));
    const Floats n = round_to_nearest(t), power = times_power_of_two(broadcast(1.0f), n);
    const Floats exp_minus_one = multiply_add(power, exp2_minus_one<true>(t - n), power - broadcast(1.0f));
    return exp_minus_one * reciprocal<true>(exp_minus_one + broadcast(2.0f));
  }
}

CHARLM_INLINE float sum_lanes(Floats v) {
  float lanes[kLanes], sum = 0.0f;
  store(lanes, v);
  for (long j = 0; j < kLanes; ++j) sum += lanes[j];
  return sum;
}

}  // namespace
