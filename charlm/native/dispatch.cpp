#include "dispatch.h"

#include <cstring>

#ifdef CHARLM_HAS_AMX
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace charlm {
namespace {

struct Choice {
  const char* name;
  const Kernels* (*kernels)();
  bool (*runs_here)();
};

#if defined(__x86_64__)
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool has_avx512() {
  return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#ifdef CHARLM_HAS_AVX512_BF16
bool has_avx512_bf16() {
  return has_avx512() && __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512vnni");
}
#endif
#ifdef CHARLM_HAS_AMX
// Linux gives a process tiles when it asks for them, and refuses where a signal's stack would be too small for them.
bool may_use_tiles() {
  constexpr long kArchReqXcompPerm = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kArchReqXcompPerm, kTileData) == 0;
}
bool has_amx() {
  constexpr unsigned kAmxBf16 = 1u << 22, kAmxTile = 1u << 24;
  unsigned a, b, c, d;
  if (!has_avx512_bf16() || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  return (d & kAmxBf16) && (d & kAmxTile) && may_use_tiles();
}
#endif
#endif

// Best first. The build says which of them its compiler could make.
const Choice choices[] = {
#ifdef CHARLM_HAS_AMX
    {"amx", amx_kernels, has_amx},
#endif
#ifdef CHARLM_HAS_AVX512_BF16
    {"avx512_bf16", avx512_bf16_kernels, has_avx512_bf16},
#endif
#ifdef CHARLM_HAS_AVX512
    {"avx512", avx512_kernels, has_avx512},
#endif
#ifdef CHARLM_HAS_AVX2
    {"avx2", avx2_kernels, has_avx2},
#endif
    {"portable", portable_kernels, [] { return true; }},
};

}  // namespace

const Kernels* find_kernels(const char* name) {
  for (const Choice& choice : choices)
    if ((!name || !*name || !strcmp(name, choice.name)) && choice.runs_here()) return choice.kernels();
  return nullptr;
}

}  // namespace charlm
