// How numbers are stored, and the products that each way of storing allows.
//
// A storage has `kGroup` numbers of one row side by side in a 32-bit word. `spread` copies such a word of an input row
// to all lanes; `dot` adds, lane by lane, its product with a word of weights. Sums are float, for int8 exact integers,
// so that int8 gives the same integers on every processor. Activations of a `kFine` storage are computed to a float's
// last place.
#pragma once

#include "vector.h"

namespace {

struct Fp32 {
  using Value = float;
  using Weight = float;
  using Sum = Floats;
  using Spread = Floats;
  using Loaded = Floats;
  static constexpr long kGroup = 1;
  static constexpr bool kFine = true;
  static constexpr bool kInteger = false;
  static CHARLM_INLINE Spread spread(const Value* p) { return all(*p); }
  static CHARLM_INLINE Loaded weights(const Weight* p) { return load(p); }
  static CHARLM_INLINE Sum dot(Sum sum, const Spread& x, const Loaded& w) { return multiply_add(x, w, sum); }
  static CHARLM_INLINE Floats load_values(const Value* p) { return load(p); }
  static CHARLM_INLINE void store_values(Value* p, Floats v) { store(p, v); }
  static CHARLM_INLINE Weight weight(float w, float) { return w; }
};

struct Bf16 {
  using Value = uint16_t;
  using Weight = uint16_t;
  using Sum = Floats;
  static constexpr long kGroup = 2;
  static constexpr bool kFine = false;
  static constexpr bool kInteger = false;
#if CHARLM_LEVEL >= 3
  using Spread = __m512bh;
  using Loaded = __m512bh;
  static CHARLM_INLINE Spread spread(const Value* p) {
    int32_t word;
    memcpy(&word, p, 4);
    return reinterpret_cast<__m512bh>(_mm512_set1_epi32(word));
  }
  static CHARLM_INLINE Loaded weights(const Weight* p) { return reinterpret_cast<__m512bh>(_mm512_loadu_si512(p)); }
  static CHARLM_INLINE Sum dot(Sum sum, const Spread& x, const Loaded& w) { return _mm512_dpbf16_ps(sum, x, w); }
#else
  struct Pair {
    Floats first, second;
  };
  using Spread = Pair;
  using Loaded = Pair;
  static CHARLM_INLINE Pair halves(Ints words) {
    return {as_floats(shift_left_16(words)), as_floats(high_half(words))};
  }
  static CHARLM_INLINE Spread spread(const Value* p) {
    int32_t word;
    memcpy(&word, p, 4);
    return halves(all_bits(word));
  }
  static CHARLM_INLINE Loaded weights(const Weight* p) { return halves(load_bits(p)); }
  static CHARLM_INLINE Sum dot(Sum sum, const Spread& x, const Loaded& w) {
    return multiply_add(x.second, w.second, multiply_add(x.first, w.first, sum));
  }
#endif
  static CHARLM_INLINE Floats load_values(const Value* p) { return load_bf16(p); }
  static CHARLM_INLINE void store_values(Value* p, Floats v) { store_bf16(p, v); }
  static CHARLM_INLINE Weight weight(float w, float) { return to_bf16(w); }
};

// Activations lie in -1 to 1 and are stored as round(127 h) + 128; the 128 is taken off again by what a sum begins
// with.
struct Int8 {
  using Value = uint8_t;
  using Weight = int8_t;
  using Sum = Ints;
  static constexpr long kGroup = 4;
  static constexpr bool kFine = false;
  static constexpr bool kInteger = true;
#if CHARLM_LEVEL >= 3
  using Spread = Ints;
  using Loaded = Ints;
  static CHARLM_INLINE Spread spread(const Value* p) {
    int32_t word;
    memcpy(&word, p, 4);
    return all_bits(word);
  }
  static CHARLM_INLINE Loaded weights(const Weight* p) { return load_bits(p); }
  static CHARLM_INLINE Sum dot(Sum sum, const Spread& x, const Loaded& w) { return _mm512_dpbusd_epi32(sum, x, w); }
#elif CHARLM_LEVEL > 0
  struct Pair {
    Ints even, odd;  // 16-bit numbers made of the bytes at even and at odd places
  };
  using Spread = Pair;
  using Loaded = Pair;
#if CHARLM_LEVEL == 2
  static CHARLM_INLINE Loaded weights(const Weight* p) {
    const Ints w = load_bits(p);
    return {_mm512_srai_epi16(_mm512_slli_epi16(w, 8), 8), _mm512_srai_epi16(w, 8)};
  }
  static CHARLM_INLINE Sum dot(Sum sum, const Spread& x, const Loaded& w) {
    return plus(sum, plus(_mm512_madd_epi16(x.even, w.even), _mm512_madd_epi16(x.odd, w.odd)));
  }
#else
  static CHARLM_INLINE Loaded weights(const Weight* p) {
    const Ints w = load_bits(p);
    return {_mm256_srai_epi16(_mm256_slli_epi16(w, 8), 8), _mm256_srai_epi16(w, 8)};
  }
  static CHARLM_INLINE Sum dot(Sum sum, const Spread& x, const Loaded& w) {
    return plus(sum, plus(_mm256_madd_epi16(x.even, w.even), _mm256_madd_epi16(x.odd, w.odd)));
  }
#endif
  static CHARLM_INLINE Spread spread(const Value* p) {
    return {all_bits(p[0] | p[2] << 16), all_bits(p[1] | p[3] << 16)};
  }
#else
  struct Bytes {
    int32_t byte[4];
  };
  using Spread = Bytes;
  using Loaded = const Weight*;
  static CHARLM_INLINE Spread spread(const Value* p) { return {{p[0], p[1], p[2], p[3]}}; }
  static CHARLM_INLINE Loaded weights(const Weight* p) { return p; }
  static CHARLM_INLINE Sum dot(Sum sum, const Spread& x, const Loaded& w) {
    for (int k = 0; k < 4; ++k) sum += x.byte[k] * Ints{w[k], w[4 + k], w[8 + k], w[12 + k]};
    return sum;
  }
#endif
  static CHARLM_INLINE void store_values(Value* p, Floats v) {
    store_low_bytes(p, plus(rounded(v * all(127.0f)), all_bits(128)));
  }
  static CHARLM_INLINE Weight weight(float w, float scale) { return Weight(__builtin_lrintf(w * scale)); }
};

}  // namespace
