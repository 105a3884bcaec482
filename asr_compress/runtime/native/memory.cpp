#include "memory.h"

#include <cstdlib>
#include <cstring>
#include <new>

#if defined(__linux__) && !defined(__SANITIZE_ADDRESS__)  // AddressSanitizer guards what the allocator gives
#include <sys/mman.h>
#define FRESH_PAGES 1
#else
#define FRESH_PAGES 0
#endif

namespace asr {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kReadAhead = 8192;  // prefetches stay within the slab

// Zeroed, `size` of them, a multiple of kHugePage, from such a multiple on. Straight from the system: what the
// allocator gives again consists of small pages from anywhere, which get into each other's way in the second-level
// cache. A recurrence was up to 1.5 times slower there.
#if FRESH_PAGES
char* new_pages(size_t size) {
    size_t mapped = size + kHugePage;
    if (mapped < size) throw std::length_error("a size is too large");
    void* all = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED) throw std::bad_alloc();
    size_t before = (kHugePage - reinterpret_cast<uintptr_t>(all) % kHugePage) % kHugePage;
    char* start = static_cast<char*>(all) + before;
    if (before) munmap(all, before);
    munmap(start + size, kHugePage - before);
    madvise(start, size, MADV_HUGEPAGE);  // a wish: without it the code runs, a little slower
    std::memset(start, 0, size);          // now, not while the first utterance waits
    return start;
}
void give_back(char* start, size_t size) { munmap(start, size); }
#else
char* new_pages(size_t size) {
    auto start = static_cast<char*>(std::aligned_alloc(kHugePage, size));
    if (!start) throw std::bad_alloc();
    std::memset(start, 0, size);
    return start;
}
void give_back(char* start, size_t) { std::free(start); }
#endif

}  // namespace

void* WeightMemory::take_bytes(size_t bytes) {
    bytes = aligned(bytes);
    if (slabs_.empty() || bytes > slabs_.back().size - kReadAhead - used_) {
        size_t size = (bytes + kReadAhead + kHugePage - 1) / kHugePage * kHugePage;
        if (size < bytes) throw std::length_error("a size is too large");
        slabs_.reserve(slabs_.size() + 1);  // so that nothing throws once the pages are there
        slabs_.push_back({new_pages(size), size});
        used_ = 0;
    }
    void* result = slabs_.back().start + used_;
    used_ += bytes;
    taken_ += bytes;
    return result;
}

WeightMemory::~WeightMemory() {
    for (const Slab& slab : slabs_) give_back(slab.start, slab.size);
}

}  // namespace asr
