// The types in which weights and activations are stored, and the dot products of each.
//
// A word is 32 bits that hold kGroup consecutive numbers of one row. `broadcast_word` copies a word of an input row to
// all lanes, and `dot` adds to each lane the product with a word of weights:
//
//     sum[lane] += x[0] * w[lane][0] + ... + x[kGroup - 1] * w[lane][kGroup - 1]
//
// Sums are floats. For int8 they are exact integers, so every processor computes the same sums. Activation functions
// are computed to float precision if kPrecise, and otherwise only as precisely as the storage needs.
#pragma once

#include "vector.h"

namespace {

struct Fp32 {
  using Value = float;
  using Weight = float;
  using Sum = Floats;
  using Broadcast = Floats;
  using Loaded = Floats;
  static constexpr long kGroup = 1;
  static constexpr bool kPrecise = true;
  static constexpr bool kInteger = false;
  static CHARLM_INLINE Broadcast broadcast_word(const Value* p) { return broadcast(*p); }
  static CHARLM_INLINE Loaded weights(const Weight* p) { return load(p); }
  static CHARLM_INLINE Sum dot(Sum sum, const Broadcast& x, const Loaded& w) { return multiply_add(x, w, sum); }
  static CHARLM_INLINE Floats load_values(const Value* p) { return load(p); }
  static CHARLM_INLINE void store_values(Value* p, Floats v) { store(p, v); }
  static CHARLM_INLINE Weight weight(float w, float) { return w; }
};

struct Bf16 {
  using Value = uint16_t;
  using Weight = uint16_t;
  using Sum = Floats;
  static constexpr long kGroup = 2;
  static constexpr bool kPrecise = false;
  static constexpr bool kInteger = false;
#if CHARLM_LEVEL >= 3
  using Broadcast = __m512bh;
  using Loaded = __m512bh;
  static CHARLM_INLINE Broadcast broadcast_word(const Value* p) {
    int32_t word;
    memcpy(&word, p, 4);
    return reinterpret_cast<__m512bh>(_mm512_set1_epi32(word));
  }
  static CHARLM_INLINE Loaded weights(const Weight* p) { return reinterpret_cast<__m512bh>(_mm512_loadu_si512(p)); }
  static CHARLM_INLINE Sum dot(Sum sum, const Broadcast& x, const Loaded& w) { return _mm512_dpbf16_ps(sum, x, w); }
#else
  struct Pair {
    Floats first, second;
  };
  using Broadcast = Pair;
  using Loaded = Pair;
  static CHARLM_INLINE Pair halves(Ints words) {
    return {as_floats(shift_left_16(words)), as_floats(high_half(words))};
  }
  static CHARLM_INLINE Broadcast broadcast_word(const Value* p) {
    int32_t word;
    memcpy(&word, p, 4);
    return halves(broadcast_int(word));
  }
  static CHARLM_INLINE Loaded weights(const Weight* p) { return halves(load_ints(p)); }
  static CHARLM_INLINE Sum dot(Sum sum, const Broadcast& x, const Loaded& w) {
    return multiply_add(x.second, w.second, multiply_add(x.first, w.first, sum));
  }
#endif
  static CHARLM_INLINE Floats load_values(const Value* p) { return load_bf16(p); }
  static CHARLM_INLINE void store_values(Value* p, Floats v) { store_bf16(p, v); }
  static CHARLM_INLINE Weight weight(float w, float) { return to_bf16(w); }
};

// Activations are in [-1, 1] and are stored as round(127 h) + 128, because the instructions multiply unsigned by signed
// bytes. The initial value of a sum compensates for the 128.
struct Int8 {
  using Value = uint8_t;
  using Weight = int8_t;
  using Sum = Ints;
  static constexpr long kGroup = 4;
  static constexpr bool kPrecise = false;
  static constexpr bool kInteger = true;
#if CHARLM_LEVEL >= 3
  using Broadcast = Ints;
  using Loaded = Ints;
  static CHARLM_INLINE Broadcast broadcast_word(const Value* p) {
    int32_t word;
    memcpy(&word, p, 4);
    return broadcast_int(word);
  }
  static CHARLM_INLINE Loaded weights(const Weight* p) { return load_ints(p); }
  static CHARLM_INLINE Sum dot(Sum sum, const Broadcast& x, const Loaded& w) { return _mm512_dpbusd_epi32(sum, x, w); }
#elif CHARLM_LEVEL > 0
  struct Pair {
    Ints even, odd;  // the bytes at even and at odd positions, widened to 16 bits
  };
  using Broadcast = Pair;
  using Loaded = Pair;
#if CHARLM_LEVEL == 2
  static CHARLM_INLINE Loaded weights(const Weight* p) {
    const Ints w = load_ints(p);
    return {_mm512_srai_epi16(_mm512_slli_epi16(w, 8), 8), _mm512_srai_epi16(w, 8)};
  }
  static CHARLM_INLINE Sum dot(Sum sum, const Broadcast& x, const Loaded& w) {
    return add(sum, add(_mm512_madd_epi16(x.even, w.even), _mm512_madd_epi16(x.odd, w.odd)));
  }
#else
  static CHARLM_INLINE Loaded weights(const Weight* p) {
    const Ints w = load_ints(p);
    return {_mm256_srai_epi16(_mm256_slli_epi16(w, 8), 8), _mm256_srai_epi16(w, 8)};
  }
  static CHARLM_INLINE Sum dot(Sum sum, const Broadcast& x, const Loaded& w) {
    return add(sum, add(_mm256_madd_epi16(x.even, w.even), _mm256_madd_epi16(x.odd, w.odd)));
  }
#endif
  static CHARLM_INLINE Broadcast broadcast_word(const Value* p) {
    return {broadcast_int(p[0] | p[2] << 16), broadcast_int(p[1] | p[3] << 16)};
  }
#else
  struct Bytes {
    int32_t byte[4];
  };
  using Broadcast = Bytes;
  using Loaded = const Weight*;
  static CHARLM_INLINE Broadcast broadcast_word(const Value* p) { return {{p[0], p[1], p[2], p[3]}}; }
  static CHARLM_INLINE Loaded weights(const Weight* p) { return p; }
  static CHARLM_INLINE Sum dot(Sum sum, const Broadcast& x, const Loaded& w) {
    for (int k = 0; k < 4; ++k) sum += x.byte[k] * Ints{w[k], w[4 + k], w[8 + k], w[12 + k]};
    return sum;
  }
#endif
  static CHARLM_INLINE void store_values(Value* p, Floats v) {
    store_low_bytes(p, add(round_to_int(v * broadcast(127.0f)), broadcast_int(128)));
  }
  static CHARLM_INLINE Weight weight(float w, float scale) { return Weight(__builtin_lrintf(w * scale)); }
};

}  // namespace
