// Memory for packed weights and for scratch: sizes are planned, and every request is checked against the plan.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <stdexcept>
#include <type_traits>
#include <vector>

namespace asr {

constexpr size_t kAlignment = 64;

inline size_t aligned(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// a * b, or an exception where that does not fit.
inline size_t product_of(size_t a, size_t b) {
    size_t result;
    if (__builtin_mul_overflow(a, b, &result)) throw std::length_error("a size is too large");
    return result;
}

// Weights, packed once and then only read. Slabs of whole huge pages: a large map read over and over from the
// caches otherwise misses in the TLB as well.
class WeightMemory {
public:
    WeightMemory() = default;
    WeightMemory(const WeightMemory&) = delete;
    ~WeightMemory();

    // Zeroed and aligned. A kernel may read ahead of the end, so some bytes behind each array are ours.
    template <class T>
    T* take(size_t count) {
        static_assert(std::is_trivial_v<T>);
        return static_cast<T*>(take_bytes(product_of(count, sizeof(T))));
    }
    size_t bytes() const { return taken_; }

private:
    void* take_bytes(size_t bytes);
    struct Slab {
        char* start;
        size_t size;
    };
    std::vector<Slab> slabs_;
    size_t used_ = 0, taken_ = 0;  // used: of the last slab
};

// Uninitialized floats that only ever grow. Aligned: sixteen of them that lie across two cache lines take twice as long.
class Buffer {
public:
    float* reserve(size_t floats) {
        if (floats > size_) {
            size_ = 0;
            memory_.reset();  // first, so that the old and the new never stand side by side
            memory_.reset(
                static_cast<float*>(::operator new(product_of(floats, sizeof(float)), std::align_val_t{kAlignment})));
            size_ = floats;
        }
        return memory_.get();
    }
    const float* get() const { return memory_.get(); }

private:
    struct Delete {
        void operator()(float* memory) const { ::operator delete(memory, std::align_val_t{kAlignment}); }
    };
    std::unique_ptr<float, Delete> memory_;
    size_t size_ = 0;
};

// Working memory of one thread, given out from the front and taken back as a whole.
class Scratch {
public:
    explicit Scratch(size_t bytes) : size_(aligned(bytes)), memory_(new char[size_ + kAlignment]) {
        auto address = reinterpret_cast<uintptr_t>(memory_.get());
        start_ = memory_.get() + (kAlignment - address % kAlignment) % kAlignment;
    }
    template <class T>
    T* take(size_t count) {
        static_assert(std::is_trivial_v<T>);
        size_t bytes = aligned(product_of(count, sizeof(T)));
        if (bytes > size_ - used_) throw std::logic_error("the plan of scratch memory is too small");
        T* result = reinterpret_cast<T*>(start_ + used_);
        used_ += bytes;
        return result;
    }
    // Gives back what was taken since its construction.
    class Frame {
    public:
        explicit Frame(Scratch& scratch) : scratch_(scratch), used_(scratch.used_) {}
        ~Frame() { scratch_.used_ = used_; }
        Frame(const Frame&) = delete;

    private:
        Scratch& scratch_;
        size_t used_;
    };

private:
    size_t size_, used_ = 0;
    std::unique_ptr<char[]> memory_;
    char* start_;
};

// Adds up what a function will take, in the same units as Scratch.
template <class T>
size_t scratch_for(size_t count) {
    return aligned(product_of(count, sizeof(T)));
}

}  // namespace asr
