// Which instructions this machine has.
#include <cstring>

#include "kernels.h"

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif
#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace asr {
namespace {

bool has_avx512() {
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni");
#else
    return false;
#endif
}

// A process must ask the system for the tiles' registers, which are too large for everyone to have them saved.
bool has_amx() {
#if defined(__x86_64__) && defined(__linux__)
    constexpr unsigned tiles = 1u << 24, int8 = 1u << 25;  // CPUID 7, EDX
    constexpr long request_permission = 0x1023, tile_data = 18;
    unsigned a, b, c, d;
    static const bool allowed = has_avx512() && __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & tiles) && (d & int8) &&
                                syscall(SYS_arch_prctl, request_permission, tile_data) == 0;
    return allowed;
#else
    return false;
#endif
}

bool has_avx2() {
#if defined(__x86_64__)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
    return false;
#endif
}

bool has_avxvnni() {
#if defined(__x86_64__) && defined(__linux__)
    constexpr unsigned avx_vnni = 1u << 4;  // CPUID 7.1, EAX
    unsigned a, b, c, d;
    return has_avx2() && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & avx_vnni);
#else
    return false;
#endif
}

bool has_neon_dot() {
#if defined(__aarch64__) && defined(__linux__)
    return getauxval(AT_HWCAP) & (1ul << 20);  // HWCAP_ASIMDDP
#elif defined(__aarch64__) && defined(__APPLE__)
    return true;  // every Apple processor since 2018
#else
    return false;
#endif
}

}  // namespace

const Kernels* select_kernels(const char* name) {
    const struct {
        const char* name;
        bool runs;
        const Kernels* kernels;
    } choices[] = {
        {"amx", has_amx(), amx_kernels()},
        {"avx512", has_avx512(), avx512_kernels()},
        {"avxvnni", has_avxvnni(), avxvnni_kernels()},
        {"avx2", has_avx2(), avx2_kernels()},
        {"neon", has_neon_dot(), neon_kernels()},
        {"portable", true, portable_kernels()},
    };
    for (const auto& choice : choices)
        if (choice.runs && choice.kernels && (!name || !*name || !strcmp(name, choice.name))) return choice.kernels;
    return nullptr;
}

}  // namespace asr
