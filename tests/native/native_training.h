// Checks of the engine's training functions: they agree with the equations, with any number of threads.
#pragma once

#include <array>
#include <utility>

#include "api.h"
#include "native_laws.h"

namespace {

constexpr long kTableRows = 5;

struct Training {
  const Kernels* kernels;
  int storage;
  long T, B, H, width;
  Floats weight_hh = random(4 * H * H, 0.3), weight_ih = random(4 * H * width, 0.3);
  Floats x = random(T * B * width), table = random(kTableRows * 4 * H), d_output = random(T * B * H), h = random(B * H);
  Floats c = random_floats(B * H), bias = random_floats(4 * H);
  Floats d_last_hidden = random_floats(B * H), d_last_cell = random_floats(B * H);
  Ids index = random_ids(T * B, kTableRows);

  Floats random(long count, double size = 1) const {  // rounded to the storage
    return loaded(storage, stored(storage, random_floats(count, size)));
  }

  Bytes packed(const Floats& matrix, long inputs, int threads) const {
    Bytes out = unwritten(storage, 4 * H * inputs);
    charlm_pack_gates(kernels, storage, matrix.data(), H, inputs, out.data(), threads);
    return out;
  }

  // Returns hidden, cell and gates.
  Results forward(bool with_table, bool keep_gates, int threads) const {
    Bytes hidden = unwritten(storage, (T + 1) * B * H), gates = unwritten(storage, keep_gates ? T * B * 4 * H : 0);
    const Bytes first = stored(storage, h), input = stored(storage, with_table ? table : x);
    const Bytes packed_hh = packed(weight_hh, H, threads), packed_ih = packed(weight_ih, width, threads);
    Floats cell((keep_gates ? T + 1 : 1) * B * H, NAN);
    std::copy(first.begin(), first.end(), hidden.begin());
    std::copy(c.begin(), c.end(), cell.begin());
    charlm_recurrence(kernels, storage, T, B, H, with_table ? nullptr : input.data(), with_table ? 0 : width,
                      with_table ? nullptr : packed_ih.data(), with_table ? input.data() : nullptr,
                      with_table ? index.data() : nullptr, bias.data(), packed_hh.data(), hidden.data(), cell.data(),
                      keep_gates ? gates.data() : nullptr, threads);
    return {loaded(storage, hidden), cell, loaded(storage, gates)};
  }

  std::array<Reals, 3> plain_forward(bool with_table) const {
    Reals hidden(h.begin(), h.end()), cell(c.begin(), c.end()), gates;
    hidden.resize((T + 1) * B * H), cell.resize((T + 1) * B * H);
    for (long n = 0; n < T * B; ++n) {
      gates.insert(gates.end(), bias.begin(), bias.end());
      double* sums = &gates[n * 4 * H];
      for (long g = 0; with_table && g < 4 * H; ++g) sums[g] += table[index[n] * 4 * H + g];
      if (!with_table) plain_product(weight_ih, width, &x[n * width], sums);
      plain_product(weight_hh, H, &hidden[n * H], sums);
      plain_cell(sums, H, &cell[n * H], &cell[(n + B) * H], &hidden[(n + B) * H]);
    }
    return {hidden, cell, gates};
  }

  // Returns d_gates and the gradient of the first cell state.
  Results backward(const Results& pass, bool with_d_output, bool with_d_last_hidden, int threads) const {
    Bytes transposed = unwritten(storage, charlm_transposed_size(kernels, H)),
          d_gates = unwritten(storage, T * B * 4 * H);
    const Bytes gates = stored(storage, pass[2]), out = stored(storage, d_output);
    Floats d_cell = d_last_cell;
    charlm_pack_transposed(kernels, storage, weight_hh.data(), H, transposed.data(), threads);
    charlm_recurrence_gradient(kernels, storage, T, B, H, with_d_output ? out.data() : nullptr,
                               with_d_last_hidden ? d_last_hidden.data() : nullptr, d_cell.data(), transposed.data(),
                               pass[1].data(), gates.data(), d_gates.data(), threads);
    return {loaded(storage, d_gates), d_cell};
  }

  std::array<Reals, 2> plain_backward(const Results& pass, bool with_d_output, bool with_d_last_hidden) const {
    Reals d_gates(T * B * 4 * H), d_cell(d_last_cell.begin(), d_last_cell.end());
    for (long at = T * B * H - 1; at >= 0; --at) {
      const long n = at / H, k = at % H, one = n % B * H + k;
      const bool last = n >= (T - 1) * B;
      double dh = (with_d_output ? d_output[at] : 0.0) + (with_d_last_hidden && last ? d_last_hidden[one] : 0.0);
      for (long g = 0; !last && g < 4 * H; ++g) dh += weight_hh[g * H + k] * d_gates[(n + B) * 4 * H + g];
      const float* gate = &pass[2][n * 4 * H + k];
      const double i = gate[0], f = gate[H], g = gate[2 * H], o = gate[3 * H], tanh_c = std::tanh(pass[1][at + B * H]);
      const double dc = dh * o * (1 - tanh_c * tanh_c) + d_cell[one];
      double* to = &d_gates[n * 4 * H + k];
      to[0] = dc * g * i * (1 - i), to[H] = dc * pass[1][at] * f * (1 - f);
      to[2 * H] = dc * i * (1 - g * g), to[3 * H] = dh * tanh_c * o * (1 - o);
      d_cell[one] = dc * f;
    }
    return {d_gates, d_cell};
  }

  void check() const {
    for (const bool with_table : {false, true}) {
      const auto run_forward = [&](int threads) { return forward(with_table, true, threads); };
      const Results pass = with_any_threads("recurrence", run_forward);
      const auto plain = plain_forward(with_table);
      for (const int j : {0, 1, 2})
        require_close(pass[j], plain[j], kTolerance[storage], std::array{"hidden", "cell", "gates"}[j]);
      const Floats last_cell(pass[1].end() - B * H, pass[1].end());
      require(same(forward(with_table, false, 2), {pass[0], last_cell, {}}),
              "the recurrence depends on whether gates are kept");
      for (const auto& given : {std::pair{true, true}, {true, false}, {false, true}}) {  // d_output and d_last_hidden
        const auto run_backward = [&](int threads) { return backward(pass, given.first, given.second, threads); };
        const Results gradient = with_any_threads("gradient", run_backward);
        const auto expected = plain_backward(pass, given.first, given.second);
        require_close(gradient[0], expected[0], kTolerance[storage], "d_gates");
        require_close(gradient[1], expected[1], kTolerance[storage], "d_cell");
      }
    }
  }
};

// Adds rows to those that an index selects, or all to one row.
void check_add_rows(const Kernels* kernels, int storage, long N, long columns, bool by_index) {
  const Bytes rows = stored(storage, random_floats(N * columns));
  const Floats values = loaded(storage, rows), start = random_floats((by_index ? kTableRows : 1) * columns);
  const Ids index = random_ids(N, kTableRows);
  Reals expected(start.begin(), start.end());
  for (long at = 0; at < N * columns; ++at)
    expected[(by_index ? index[at / columns] * columns : 0) + at % columns] += values[at];
  const Results sums = with_any_threads("sum of rows", [&](int threads) {
    Floats out = start;
    charlm_add_rows(kernels, storage, rows.data(), by_index ? index.data() : nullptr, N, columns, out.data(), threads);
    return Results{out};
  });
  require_close(sums[0], expected, kFloatTolerance, "sum of rows");
}

void check_weight_gradient(const Kernels* kernels, int storage, long N, long inputs, long columns) {
  const Bytes x = stored(storage, random_floats(N * inputs)), d = stored(storage, random_floats(N * columns));
  const Floats x_values = loaded(storage, x), d_values = loaded(storage, d);
  Reals expected(inputs * columns);
  for (long n = 0; n < N; ++n)
    for (long at = 0; at < inputs * columns; ++at)
      expected[at] += double(x_values[n * inputs + at / columns]) * d_values[n * columns + at % columns];
  const Results sums = with_any_threads("weight gradient", [&](int threads) {
    Floats out(inputs * columns, NAN);
    require_memory(
        charlm_weight_gradient(kernels, storage, N, inputs, columns, x.data(), d.data(), out.data(), threads));
    return Results{out};
  });
  require_close(sums[0], expected, kFloatTolerance, "weight gradient");
}

}  // namespace
