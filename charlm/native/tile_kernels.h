// The training kernels for bfloat16 on tiles (Intel AMX): a processor multiplies 16 x 32 numbers by 32 x 16 at once.
//
// A tile of weights is a part of a packed block as it is: 16 words of one vector. A tile of an input is up to 16 rows
// of 32 numbers. Sums lie in tiles 0 to 3, one for each vector of a block, and are brought there and taken away through
// memory. Fewer rows than 16 are said to the processor, so that nothing beside them is read or written. Widths that
// tiles do not divide are left to the vectors.
#pragma once

#include "training_kernels.h"

#if CHARLM_LEVEL < 4
#error "tiles need AMX"
#endif

namespace {

constexpr long kTileRows = 16;
constexpr long kTileInputs = 32;
constexpr long kBlockColumns = kGates * kLanes;

// Has the processor take `rows` rows of inputs and sums at a time, until `release`. Empties all tiles.
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

// Tiles for as long as this lives: a thread that keeps them makes each change of threads dearer.
struct Tiles {
  long rows = kTileRows;
  Tiles() { configure_tiles(rows); }
  ~Tiles() { _tile_release(); }
  void take(long wanted) {
    if (wanted != rows) configure_tiles(rows = wanted);
  }
};

// The compiler does not know what memory the instructions for tiles read.
CHARLM_INLINE void finish_writing() { __asm__ volatile("" : : : "memory"); }

CHARLM_INLINE void load_sums(const float* sums, long stride) {
  finish_writing();
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

// Adds to the sums the rows x[r * stride ...] of `tiles` tiles, each `next` numbers after the one before, times
// weights.
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

// Calls work(first row, rows) for the rows of each tile.
template <class Work>
CHARLM_INLINE void for_row_tiles(Tiles& tiles, long first, long last, const Work& work) {
  for (long row = first; row < last; row += kTileRows) {
    const long rows = last - row < kTileRows ? last - row : kTileRows;
    tiles.take(rows);
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
      const auto add = [&](const uint16_t* x, const void* weights, long width) {
        multiply_tiles(x, width, kTileInputs, width / kTileInputs,
                       static_cast<const uint16_t*>(weights) + unit * block_size<Bf16>(width));
      };
      for_row_tiles(tiles, first_row, last_row, [&](long row, long rows) {
        for (long r = 0; r < rows; ++r)
          for (int g = 0; g < 4; ++g) store(sums[r] + g * kLanes, block.start(row + r, g));
        load_sums(sums[0], kBlockColumns);
        if (args.x)
          add(static_cast<const uint16_t*>(args.x) + (t * args.B + row) * args.input_width, args.weight_ih,
              args.input_width);
        add(static_cast<const uint16_t*>(args.hidden) + (t * args.B + row) * H, args.weight_hh, H);
        store_sums(sums[0], kBlockColumns);
        for (long r = 0; r < rows; ++r)
          block.finish(row + r, load(sums[r]), load(sums[r] + kLanes), load(sums[r] + 2 * kLanes),
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
          for (int v = 0; v < 4; ++v) store(sums[r] + v * kLanes, v < vectors ? block.start(row + r, v) : all(0.0f));
        if (t < args.T - 1) {
          load_sums(sums[0], kBlockColumns);
          multiply_tiles(static_cast<const uint16_t*>(args.d_gates) + ((t + 1) * args.B + row) * G, G, kTileInputs,
                         G / kTileInputs,
                         static_cast<const uint16_t*>(args.weight_hh_transposed) + number * block_size<Bf16>(G));
          store_sums(sums[0], kBlockColumns);
        }
        for (long r = 0; r < rows; ++r)
          for (int v = 0; v < vectors; ++v) block.finish(row + r, v, load(sums[r] + v * kLanes));
      });
    }
}

// ------------------------------------------------------------------------------------------------- weights' gradient

// Words of 16 columns of two rows, the first in the lower halves; a null second row is zero.
CHARLM_INLINE __m512i words_of_rows(const uint16_t* first, const uint16_t* second) {
  const auto wide = [](const uint16_t* p) {
    return _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  };
  return second ? _mm512_or_si512(wide(first), _mm512_slli_epi32(wide(second), 16)) : wide(first);
}

// words[i] lane j to words[j] lane i.
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

// Rows n and 16 columns of x, transposed to one tile: 16 rows of 32 n. `rows` of them are there, the others are zero.
CHARLM_INLINE void to_tile(const uint16_t* x, long rows, long stride, uint16_t* tile) {
  __m512i words[16];
#pragma GCC unroll 16
  for (int w = 0; w < 16; ++w)
    words[w] = 2 * w < rows ? words_of_rows(x + 2 * w * stride, 2 * w + 1 < rows ? x + (2 * w + 1) * stride : nullptr)
                            : _mm512_setzero_si512();
  transpose(words);
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) store_bits(tile + i * kTileInputs, words[i]);
}

// For weight_gradient_on_tiles: each chunk is [16 columns][32 rows n] tiles, all n of the first 16 columns first.
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

void weight_gradient_on_tiles(const WeightGradient& args, void* scratch, long first_block, long last_block) {
  if (args.inputs % kTileRows) return weight_gradient<Bf16>(args, scratch, first_block, last_block);
  Tiles tiles;
  auto* weights = static_cast<uint16_t*>(scratch);
  for (long k = 0; k < args.inputs; ++k)
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
          store_bits(
              weights + (w * kGates + v) * kLanes * 2,
              2 * w < rows ? words_of_rows(first, 2 * w + 1 < rows ? first + args.columns : nullptr) : all_bits(0));
        }
      for (long input = 0; input < args.inputs; input += kTileRows) {
        float* sums = args.gradient + input * args.columns + block * kBlockColumns;
        load_sums(sums, args.columns);
        multiply_tiles(x + input * steps * kTileInputs, kTileInputs, kTileRows * kTileInputs, steps, weights);
        store_sums(sums, args.columns);
      }
    }
  }
}

}  // namespace
