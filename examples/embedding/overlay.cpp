// A C++ pipeline around an engine of its own: overlay FRAME.ppm HEAT.f32 CELLS_HIGHxCELLS_WIDE INPUT_HIGHxINPUT_WIDE OUT.ppm
//
//   cmake -S cpp_ext -B build -DDKCAM_CUDA=OFF && cmake --build build
//   c++ -std=c++20 -Icpp_ext/include examples/embedding/overlay.cpp build/libdkcam_kernels.a -lpthread -o overlay
//
// It makes the network's input from a frame, takes the heatmap (float32, row by row) that the engine would give for it,
// and draws that over the frame in red.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "dkcam/kernels.h"

struct Picture {  // interleaved BGR, as cameras give it
    int height = 0, width = 0;
    std::vector<uint8_t> bytes;
    dkcam_picture view() const { return {bytes.data(), 3 * width, height, width}; }
    dkcam_target target() { return {bytes.data(), 3 * width, height, width}; }
};

static Picture read_ppm(const std::string &name) {
    std::ifstream file(name, std::ios::binary);
    std::string magic;
    int most = 0;
    Picture picture;
    file >> magic >> picture.width >> picture.height >> most;
    file.get();
    if (!file || magic != "P6" || most != 255) throw std::runtime_error(name + " is no 8-bit PPM (P6)");
    picture.bytes.resize(size_t(3) * picture.height * picture.width);
    file.read(reinterpret_cast<char *>(picture.bytes.data()), std::streamsize(picture.bytes.size()));
    if (!file) throw std::runtime_error(name + " is cut off");
    for (size_t i = 0; i < picture.bytes.size(); i += 3) std::swap(picture.bytes[i], picture.bytes[i + 2]);  // PPM is RGB
    return picture;
}

static void write_ppm(const std::string &name, Picture picture) {
    for (size_t i = 0; i < picture.bytes.size(); i += 3) std::swap(picture.bytes[i], picture.bytes[i + 2]);
    std::ofstream file(name, std::ios::binary);
    file << "P6\n" << picture.width << ' ' << picture.height << "\n255\n";
    file.write(reinterpret_cast<const char *>(picture.bytes.data()), std::streamsize(picture.bytes.size()));
    if (!file) throw std::runtime_error(name + " cannot be written");
}

static std::pair<int, int> size_of(const std::string &text) {
    int high = 0, wide = 0;
    if (std::sscanf(text.c_str(), "%dx%d", &high, &wide) != 2) throw std::runtime_error(text + " is no size; expected HxW");
    return {high, wide};
}

// What each level of heat adds to the frame: red, up to 60 % of it where the map is hottest.
static std::vector<uint32_t> red() {
    std::vector<uint32_t> table(256);
    for (int level = 0; level < 256; ++level) {
        const double opacity = 0.6 * level / 255;
        const auto add = uint32_t(std::lround(255 * opacity)), keep = uint32_t(std::lround(255 * (1 - opacity)));
        table[size_t(level)] = keep << 24 | add << 16;  // bytes 0, 1, 2 are B, G, R
    }
    return table;
}

int main(int count, char **words) try {
    if (count != 6) throw std::runtime_error("expected FRAME.ppm HEAT.f32 HxW HxW OUT.ppm");
    const Picture frame = read_ppm(words[1]);
    const auto [cells_high, cells_wide] = size_of(words[3]);
    const auto [high, wide] = size_of(words[4]);
    const int threads = int(std::thread::hardware_concurrency());

    Picture input{high, wide, std::vector<uint8_t>(size_t(3) * high * wide)};  // RGB, uint8: a graph of dk-export takes it as it is
    if (dkcam_shrink(frame.view(), input.target(), threads) != 0) throw std::runtime_error("the input is larger than the frame");

    std::vector<float> heat(size_t(cells_high) * cells_wide);  // your engine's output `heatmap` for `input`
    std::ifstream file(words[2], std::ios::binary);
    file.read(reinterpret_cast<char *>(heat.data()), std::streamsize(heat.size() * sizeof(float)));
    if (!file) throw std::runtime_error(std::string(words[2]) + " holds fewer cells");

    const dkcam_fit fit{high, wide, double(high) / frame.height, double(wide) / frame.width, 0, 0};  // stretched to the input
    Picture out{frame.height, frame.width, std::vector<uint8_t>(frame.bytes.size())};
    const auto table = red();
    if (dkcam_overlay(frame.view(), heat.data(), 1, cells_high, cells_wide, fit, table.data(), 0, out.target(), threads) != 0)
        throw std::runtime_error("a size is out of range");
    write_ppm(words[5], out);
    return 0;
} catch (const std::exception &error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
}
