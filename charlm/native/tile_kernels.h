// Training kernels for bfloat16 on the tiles of Intel AMX, which multiply a matrix of 16 x 32 numbers by one of 32 x 16
// in one instruction. They replace recurrence, recurrence_gradient, interleave and weight_gradient of
// training_kernels.h.
//
// Tiles 0 to 3 hold the sums, one for each vector of a block. Tile 4 holds up to 16 rows of 32 inputs. The others hold
// weights: a tile is 16 words of one vector of a packed block, as it is in memory. Sums are moved between tiles and
// vectors through memory. Tiles are configured for the actual number of rows, so that nothing beyond them is read or
// written. Widths that are not multiples of a tile are left to the vector kernels.
#pragma once

#include "training_kernels.h"

#if CHARLM_LEVEL < 4
#error "tiles require AMX"
#endif

namespace {

constexpr long kTileRows = 16;
constexpr long kTileInputs = 32;
constexpr long kBlockColumns = kGates * kLanes;

// Configures the tiles of inputs and sums for `rows` rows, and sets all tiles to zero.
CHARLM_INLINE void configure_tiles(long rows) {
  struct alignas(64) {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t bytes[16] = {};
    uint8_t rows[16] = {};
  } layout;
  for (int tile = 0; tile < 8; ++tile) {
    layout.bytes[tile] = 64;
    layout.rows[tile] = uint8_t(tile < 5 ? rows : kTileRows);
  }
  __asm__ volatile("ldtilecfg %0" : : "m"(layout));
}

// Configured tiles. They are released at the end of each kernel, because tiles in use make context switches expensive.
struct Tiles {
  long rows = kTileRows;
  Tiles() { configure_tiles(rows); }
  ~Tiles() { _tile_release(); }
  void set_rows(long count) {
    if (count != rows) configure_tiles(rows = count);
  }
};

// Makes the compiler complete all stores, because it does not know what memory the tile loads read.
CHARLM_INLINE void compiler_fence() { __asm__ volatile("" : : : "memory"); }

CHARLM_INLINE void load_sums(const float* sums, long stride) {
  compiler_fence();
  const long bytes = stride * long(sizeof(float));
  _tile_loadd(0, sums, bytes);
  _tile_loadd(1, sums + kLanes, bytes);
  _tile_loadd(2, sums + 2 * kLanes, bytes);
  _tile_loadd(3, sums + 3 * kLanes, bytes);
}

CHARLM_INLINE void store_sums(float* sums, long stride) {
  const long bytes = stride * long(sizeof(float));
  _tile_stored(0, sums, bytes);
  _tile_stored(1, sums + kLanes, bytes);
  _tile_stored(2, sums + 2 * kLanes, bytes);
  _tile_stored(3, sums + 3 * kLanes, bytes);
}

// Adds to the sums the product of `tiles` tiles of x and their weights. Rows of a tile are `stride` numbers apart,
// consecutive tiles `next` numbers.
CHARLM_INLINE void multiply_tiles(const uint16_t* x, long stride, long next, long tiles, const uint16_t* weights) {
  constexpr long width = kLanes * Bf16::kGroup, row_bytes = kGates * width * long(sizeof(uint16_t));
  const long x_bytes = stride * long(sizeof(uint16_t));
  for (long k = 0; k < tiles; ++k, x += next, weights += kTileRows * kGates * width) {
    _tile_loadd(4, x, x_bytes);
    _tile_loadd(5, weights, row_bytes);
    _tile_dpbf16ps(0, 4, 5);
    _tile_loadd(6, weights + width, row_bytes);
    _tile_dpbf16ps(1, 4, 6);
    _tile_loadd(7, weights + 2 * width, row_bytes);
    _tile_dpbf16ps(2, 4, 7);
    _tile_loadd(5, weights + 3 * width, row_bytes);
    _tile_dpbf16ps(3, 4, 5);
  }
}

// Calls work(row, rows) for each tile of up to 16 rows, which begins at `row`.
template <class Work>
CHARLM_INLINE void for_row_tiles(Tiles& tiles, long first, long last, const Work& work) {
  for (long row = first; row < last; row += kTileRows) {
    const long rows = last - row < kTileRows ? last - row : kTileRows;
    tiles.set_rows(rows);
    work(row, rows);
  }
}

void recurrence_on_tiles(const Recurrence& args, long first_row, long last_row) {
  const long H = args.H;
  if (H % kTileInputs || (args.x && args.input_width % kTileInputs)) return recurrence<Bf16>(args, first_row, last_row);
  Tiles tiles;
  alignas(64) float sums[kTileRows][kBlockColumns];
  for (long t = 0; t < args.T; ++t)
    for (long unit = 0; unit < H / kLanes; ++unit) {
      const ForwardBlock<Bf16> block{args, t, unit};
      const auto add_product = [&](const uint16_t* x, const void* weights, long width) {
        multiply_tiles(x, width, kTileInputs, width / kTileInputs,
                       static_cast<const uint16_t*>(weights) + unit * block_size<Bf16>(width));
      };
      for_row_tiles(tiles, first_row, last_row, [&](long row, long rows) {
        for (long r = 0; r < rows; ++r)
          for (int g = 0; g < 4; ++g) store(sums[r] + g * kLanes, block.initial_sum(row + r, g));
        load_sums(sums[0], kBlockColumns);
        if (args.x)
          add_product(static_cast<const uint16_t*>(args.x) + (t * args.B + row) * args.input_width, args.weight_ih,
                      args.input_width);
        add_product(static_cast<const uint16_t*>(args.hidden) + (t * args.B + row) * H, args.weight_hh, H);
        store_sums(sums[0], kBlockColumns);
        for (long r = 0; r < rows; ++r)
          block.update_state(row + r, load(sums[r]), load(sums[r] + kLanes), load(sums[r] + 2 * kLanes),
                             load(sums[r] + 3 * kLanes));
      });
    }
}

void recurrence_gradient_on_tiles(const RecurrenceGradient& args, long first_row, long last_row) {
  const long H = args.H, G = kGates * H;
  Tiles tiles;
  alignas(64) float sums[kTileRows][kBlockColumns];
  for (long t = args.T - 1; t >= 0; --t)
    for (long number = 0; number < ceil_divide(H, kBlockColumns); ++number) {
      const BackwardBlock<Bf16> block{args, t, number};
      const int vectors = block.vectors();
      for_row_tiles(tiles, first_row, last_row, [&](long row, long rows) {
        for (long r = 0; r < rows; ++r)
          for (int v = 0; v < 4; ++v)
            store(sums[r] + v * kLanes, v < vectors ? block.initial_gradient(row + r, v) : broadcast(0.0f));
        if (t < args.T - 1) {
          load_sums(sums[0], kBlockColumns);
          multiply_tiles(static_cast<const uint16_t*>(args.d_gates) + ((t + 1) * args.B + row) * G, G, kTileInputs,
                         G / kTileInputs,
                         static_cast<const uint16_t*>(args.weight_hh_transposed) + number * block_size<Bf16>(G));
          store_sums(sums[0], kBlockColumns);
        }
        for (long r = 0; r < rows; ++r)
          for (int v = 0; v < vectors; ++v) block.update_gradients(row + r, v, load(sums[r] + v * kLanes));
      });
    }
}

// ------------------------------------------------------------------------------------------------- weight gradient

// Interleaves 16 columns of two rows into words, the first row in the lower halves. A null second row stands for zeros.
CHARLM_INLINE __m512i interleave_two_rows(const uint16_t* first, const uint16_t* second) {
  const auto widen = [](const uint16_t* p) {
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  };
  return second ? _mm512_or_si512(widen(first), _mm512_slli_epi32(widen(second), 16)) : widen(first);
}

// Exchanges lane j of words[i] and lane i of words[j], for all i and j.
CHARLM_INLINE void transpose(__m512i (&words)[16]) {
  __m512i pairs[16], fours[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    pairs[i] = _mm512_unpacklo_epi32(words[i], words[i + 1]);
    pairs[i + 1] = _mm512_unpackhi_epi32(words[i], words[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    fours[i] = _mm512_unpacklo_epi64(pairs[i], pairs[i + 2]);
    fours[i + 1] = _mm512_unpackhi_epi64(pairs[i], pairs[i + 2]);
    fours[i + 2] = _mm512_unpacklo_epi64(pairs[i + 1], pairs[i + 3]);
    fours[i + 3] = _mm512_unpackhi_epi64(pairs[i + 1], pairs[i + 3]);
  }
#pragma GCC unroll 4
  for (int c = 0; c < 4; ++c) {
    const __m512i even0 = _mm512_shuffle_i32x4(fours[c], fours[4 + c], 0x88),
                  even1 = _mm512_shuffle_i32x4(fours[8 + c], fours[12 + c], 0x88),
                  odd0 = _mm512_shuffle_i32x4(fours[c], fours[4 + c], 0xdd),
                  odd1 = _mm512_shuffle_i32x4(fours[8 + c], fours[12 + c], 0xdd);
    words[c] = _mm512_shuffle_i32x4(even0, even1, 0x88);
    words[4 + c] = _mm512_shuffle_i32x4(odd0, odd1, 0x88);
    words[8 + c] = _mm512_shuffle_i32x4(even0, even1, 0xdd);
    words[12 + c] = _mm512_shuffle_i32x4(odd0, odd1, 0xdd);
  }
}

// Transposes 16 columns of up to 32 rows n of x into a tile [16 columns][32 rows]. Rows beyond the last are zero.
CHARLM_INLINE void to_tile(const uint16_t* x, long rows, long stride, uint16_t* tile) {
  __m512i words[16];
#pragma GCC unroll 16
  for (int w = 0; w < 16; ++w)
    words[w] = 2 * w < rows
                   ? interleave_two_rows(x + 2 * w * stride, 2 * w + 1 < rows ? x + (2 * w + 1) * stride : nullptr)
                   : _mm512_setzero_si512();
  transpose(words);
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) store_ints(tile + i * kTileInputs, words[i]);
}

// Each chunk consists of transposed tiles [16 columns][32 rows], those of the first 16 columns first.
void interleave_on_tiles(const void* x, long N, long columns, void* tiles, long first_chunk, long last_chunk) {
  constexpr long size = kTileRows * kTileInputs;
  if (columns % kTileRows) return interleave<Bf16>(x, N, columns, tiles, first_chunk, last_chunk);
  for (long chunk = first_chunk; chunk < last_chunk; ++chunk) {
    const long begin = chunk * kChunkRows, rows = N - begin < kChunkRows ? N - begin : kChunkRows;
    const auto* from = static_cast<const uint16_t*>(x) + begin * columns;
    auto* to = static_cast<uint16_t*>(tiles) + begin * (columns + kUnitPadding);
    for (long column = 0; column < columns; column += kTileRows)
      for (long n = 0; n < rows; n += kTileInputs, to += size)
        to_tile(from + n * columns + column, rows - n, columns, to);
  }
}

void weight_gradient_on_tiles(const WeightGradient& args, void* scratch, long first_block, long last_block,
                              long first_input, long last_input) {
  if (args.inputs % kTileRows)
    return weight_gradient<Bf16>(args, scratch, first_block, last_block, first_input, last_input);
  Tiles tiles;
  auto* d_words = static_cast<uint16_t*>(scratch);
  for (long k = first_input; k < last_input; ++k)
    memset(args.gradient + k * args.columns + first_block * kBlockColumns, 0,
           size_t((last_block - first_block) * kBlockColumns) * sizeof(float));
  for (long begin = 0; begin < args.N; begin += kChunkRows) {
    const long rows = args.N - begin < kChunkRows ? args.N - begin : kChunkRows, steps = ceil_divide(rows, kTileInputs);
    const auto* x = static_cast<const uint16_t*>(args.x_words) + begin * (args.inputs + kUnitPadding);
    for (long block = first_block; block < last_block; ++block) {
      const auto* d = static_cast<const uint16_t*>(args.d_gates) + begin * args.columns + block * kBlockColumns;
      for (long w = 0; w < steps * kTileRows; ++w)
        for (long v = 0; v < kGates; ++v) {
          const uint16_t* first = d + 2 * w * args.columns + v * kLanes;
          store_ints(d_words + (w * kGates + v) * kLanes * 2,
                     2 * w < rows ? interleave_two_rows(first, 2 * w + 1 < rows ? first + args.columns : nullptr)
                                  : broadcast_int(0));
        }
      for (long input = first_input; input < last_input; input += kTileRows) {
        float* sums = args.gradient + input * args.columns + block * kBlockColumns;
        load_sums(sums, args.columns);
        multiply_tiles(x + input * steps * kTileInputs, kTileInputs, kTileRows * kTileInputs, steps, d_words);
        store_sums(sums, args.columns);
      }
    }
  }
}

}  // namespace
