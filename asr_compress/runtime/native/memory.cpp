#include "memory.h"

#include <cstdlib>
#include <cstring>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace asr {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kReadAhead = 8192;  // prefetches stay within the slab

}  // namespace

void* WeightMemory::take_bytes(size_t bytes) {
    bytes = aligned(bytes);
    if (slabs_.empty() || bytes > slabs_.back().size - kReadAhead - used_) {
        size_t size = (bytes + kReadAhead + kHugePage - 1) / kHugePage * kHugePage;
        if (size < bytes) throw std::length_error("a size is too large");
        auto start = static_cast<char*>(std::aligned_alloc(kHugePage, size));
        if (!start) throw std::bad_alloc();
#if defined(__linux__)
        madvise(start, size, MADV_HUGEPAGE);  // a wish: without it the code runs, a little slower
#endif
        std::memset(start, 0, size);
        slabs_.push_back({start, size});
        used_ = 0;
    }
    void* result = slabs_.back().start + used_;
    used_ += bytes;
    taken_ += bytes;
    return result;
}

WeightMemory::~WeightMemory() {
    for (const Slab& slab : slabs_) std::free(slab.start);
}

}  // namespace asr
