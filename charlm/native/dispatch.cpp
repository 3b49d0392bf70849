#include "dispatch.h"

#include <cstring>

#ifdef CHARLM_HAS_AMX
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace charlm {
namespace {

struct InstructionSet {
  const char* name;
  const Kernels* (*kernels)();
  bool (*supported)();
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
// A process must ask Linux for permission to use tiles. Linux refuses if the tiles would not fit on a signal stack.
bool request_tiles() {
  constexpr long kArchReqXcompPerm = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kArchReqXcompPerm, kTileData) == 0;
}
bool has_amx() {
  constexpr unsigned kAmxBf16 = 1u << 22, kAmxTile = 1u << 24;
  unsigned eax, ebx, ecx, edx;
  if (!has_avx512_bf16() || !__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx)) return false;
  return (edx & kAmxBf16) && (edx & kAmxTile) && request_tiles();
}
#endif
#endif

// From best to worst. The build defines CHARLM_HAS_... for those that its compiler supports.
const InstructionSet kInstructionSets[] = {
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
  for (const InstructionSet& set : kInstructionSets)
    if ((!name || !*name || !strcmp(name, set.name)) && set.supported()) return set.kernels();
  return nullptr;
}

}  // namespace charlm
