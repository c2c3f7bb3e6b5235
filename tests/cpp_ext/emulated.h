// CUDA's words for g++: each block runs as processor threads with a real barrier, one block after another.
#pragma once

#include <barrier>
#include <thread>
#include <vector>

#define __global__
#define __device__
#define __shared__ static

struct Index {
    int x = 0, y = 0;
};
inline thread_local Index threadIdx, blockIdx;
inline thread_local std::barrier<> *block_barrier = nullptr;

inline void __syncthreads() { block_barrier->arrive_and_wait(); }

template <typename Job>
int emulate(void (*kernel)(Job), int across, int down, int threads, const Job &job) {
    std::barrier<> together(threads);
    std::vector<std::thread> block;
    for (int t = 0; t < threads; ++t)
        block.emplace_back([&, t] {
            block_barrier = &together;
            threadIdx.x = t;
            for (int y = 0; y < down; ++y)
                for (int x = 0; x < across; ++x) {
                    blockIdx = {x, y};
                    kernel(job);
                    __syncthreads();  // blocks share the static memory here
                }
        });
    for (auto &thread : block) thread.join();
    return 0;
}
