// Enough of CUDA for g++ to compile src/cuda/kernels/focal_loss.cu as it is, and to run it: one block at a time, and in
// it one OS thread for each CUDA thread, or (unless SHIM_THREADS is defined) one fiber, which is a hundred times
// quicker. Shuffles and __syncthreads are barriers either way; ThreadSanitizer needs the OS threads to see a race.
#pragma once
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>
#ifdef SHIM_THREADS
#include <barrier>
#include <thread>
#else
#include <ucontext.h>
#endif

namespace shim {

struct Index {
    unsigned x, y, z;
};

inline thread_local Index thread_index, block_index, block_size, grid_size;
constexpr unsigned WARP_SIZE = 32;

#ifdef SHIM_THREADS
struct Barrier : std::barrier<> {
    using std::barrier<>::barrier;
};

inline void run_threads(unsigned count, const std::function<void(unsigned)> &body) {
    std::vector<std::jthread> threads;
    for (unsigned i = 0; i < count; ++i) threads.emplace_back(body, i);
}
#else
inline ucontext_t scheduler;
inline ucontext_t *running;

struct Barrier {
    unsigned expected, arrived = 0, generation = 0;
    explicit Barrier(unsigned expected) : expected(expected) {}
    void arrive_and_wait() {
        if (++arrived == expected) {
            arrived = 0;
            ++generation;
            return;
        }
        for (const unsigned mine = generation; mine == generation;) {
            const Index thread = thread_index;
            swapcontext(running, &scheduler);
            thread_index = thread;
        }
    }
};

inline const std::function<void(unsigned)> *fiber_body;
inline bool *fiber_done;
inline void fiber_main(unsigned i) {
    (*fiber_body)(i);
    fiber_done[i] = true;
}

inline void run_threads(unsigned count, const std::function<void(unsigned)> &body) {
    constexpr size_t STACK = 64 << 10;
    static std::vector<char> stacks;
    stacks.resize(std::max(stacks.size(), count * STACK));
    std::vector<ucontext_t> fibers(count);
    const auto done = std::make_unique<bool[]>(count);
    fiber_body = &body;
    fiber_done = done.get();
    for (unsigned i = 0; i < count; ++i) {
        getcontext(&fibers[i]);
        fibers[i].uc_stack.ss_sp = stacks.data() + i * STACK;
        fibers[i].uc_stack.ss_size = STACK;
        fibers[i].uc_link = &scheduler;
        makecontext(&fibers[i], (void (*)())fiber_main, 1, i);
    }
    for (unsigned left = count; left > 0;) {
        left = 0;
        for (unsigned i = 0; i < count; ++i) {
            if (done[i]) continue;
            running = &fibers[i];
            swapcontext(&scheduler, running);
            left += !done[i];
        }
    }
}
#endif

struct Warp {
    Barrier barrier{WARP_SIZE};
    uint64_t slots[WARP_SIZE];
};

inline std::unique_ptr<Barrier> block_barrier;
inline std::vector<std::unique_ptr<Warp>> warps;

// Runs `kernel` for every thread of every block.
inline void launch(unsigned blocks, unsigned threads, const std::function<void()> &kernel) {
    for (unsigned block = 0; block < blocks; ++block) {
        block_barrier = std::make_unique<Barrier>(threads);
        warps.clear();
        for (unsigned i = 0; i < threads; i += WARP_SIZE) warps.push_back(std::make_unique<Warp>());
        run_threads(threads, [&](unsigned thread) {
            thread_index = {thread, 0, 0};
            block_index = {block, 0, 0};
            block_size = {threads, 1, 1};
            grid_size = {blocks, 1, 1};
            kernel();
        });
    }
}

template <class T> T exchange(T value, unsigned source) {
    static_assert(sizeof(T) <= sizeof(uint64_t));
    Warp &warp = *warps[thread_index.x / WARP_SIZE];
    std::memcpy(&warp.slots[thread_index.x % WARP_SIZE], &value, sizeof(T));
    warp.barrier.arrive_and_wait();
    std::memcpy(&value, &warp.slots[source], sizeof(T));
    warp.barrier.arrive_and_wait();
    return value;
}

// The GPU's approximations are documented by their largest errors alone. With `noise` on, results are off by up to as
// much, in a way that depends on the argument and the seed; with 0 they are right.
inline unsigned noise = 0;

inline float disturbed(float x, float y, unsigned ulps) {
    if (noise == 0 || y < 1.2e-38f) return y;
    uint32_t hash = (std::bit_cast<uint32_t>(x) + noise) * 2654435761u;
    hash = (hash ^ hash >> 15) * 2246822519u;
    return std::bit_cast<float>(std::bit_cast<uint32_t>(y) + (hash >> 16) % (2 * ulps + 1) - ulps);
}

} // namespace shim

#define __global__
#define __device__
#define __forceinline__ inline
#define __noinline__
#define __shared__ static
#define __grid_constant__
#define __launch_bounds__(...)
#define threadIdx shim::thread_index
#define blockIdx shim::block_index
#define blockDim shim::block_size
#define gridDim shim::grid_size

struct alignas(16) uint4 {
    unsigned x, y, z, w;
};

inline void __syncthreads() { shim::block_barrier->arrive_and_wait(); }
template <class T> T __shfl_sync(unsigned, T value, int lane) { return shim::exchange(value, lane); }
template <class T> T __shfl_xor_sync(unsigned, T value, int distance) {
    return shim::exchange(value, (threadIdx.x % shim::WARP_SIZE) ^ distance);
}
inline unsigned __float_as_uint(float x) { return std::bit_cast<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return std::bit_cast<float>(x); }
inline long long __double_as_longlong(double x) { return std::bit_cast<long long>(x); }
inline double __longlong_as_double(long long x) { return std::bit_cast<double>(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }

inline float exp2_approximate(float x) {
    const float y = exp2f(x);
    return y < 1.17549435e-38f ? 0 : shim::disturbed(x, y, 2);
}
inline float reciprocal_approximate(float x) { return shim::disturbed(x, 1 / x, 1); }

inline float half_to_float(unsigned short bits) {
    const unsigned magnitude = bits & 0x7fff, sign = (bits & 0x8000u) << 16;
    const float value = magnitude >= 0x7c00 ? std::bit_cast<float>(magnitude << 13 | 0x7f800000u)
                                            : std::bit_cast<float>(magnitude << 13) * 0x1p112f;
    return std::bit_cast<float>(std::bit_cast<unsigned>(value) | sign);
}
inline unsigned short float_to_half(float x) {
    const unsigned bits = std::bit_cast<unsigned>(x), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    const float absolute = std::bit_cast<float>(magnitude);
    if (x != x) return 0x7fff;
    if (absolute >= 65520) return (unsigned short)(sign | 0x7c00);
    if (absolute < 0x1p-14f) return (unsigned short)(sign | (unsigned)nearbyintf(absolute * 0x1p24f));
    return (unsigned short)(sign | (((magnitude + 0xfff + (magnitude >> 13 & 1)) >> 13) - (112 << 10)));
}
