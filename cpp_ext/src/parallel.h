#pragma once

#include <algorithm>
#include <thread>
#include <vector>

namespace dkcam {

// work(first, last) over 0..count in `threads` parts, the last of them on the calling thread.
template <typename Work>
void parallel(int count, int threads, const Work &work) {
    const int parts = std::clamp(threads, 1, std::max(count, 1));
    std::vector<std::thread> helpers;
    helpers.reserve(parts - 1);
    const auto bound = [&](int part) { return static_cast<int>(static_cast<long long>(count) * part / parts); };
    for (int part = 0; part + 1 < parts; ++part) helpers.emplace_back(work, bound(part), bound(part + 1));
    work(bound(parts - 1), count);
    for (auto &helper : helpers) helper.join();
}

}  // namespace dkcam
