// dkcam.runtime._native: the C functions for NumPy arrays, without the interpreter's lock.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "dkcam/kernels.h"
#ifdef DKCAM_CUDA
#include "dkcam/kernels_cuda.h"
#endif

namespace nb = nanobind;

namespace {

using Frame = nb::ndarray<const uint8_t, nb::shape<-1, -1, 3>, nb::device::cpu>;
using Picture = nb::ndarray<uint8_t, nb::shape<-1, -1, 3>, nb::device::cpu>;
using Planes = nb::ndarray<float, nb::shape<3, -1, -1>, nb::device::cpu>;
using Heat = nb::ndarray<const float, nb::shape<-1, -1, -1>, nb::c_contig, nb::device::cpu>;
using Tables = nb::ndarray<const uint32_t, nb::shape<-1, 256>, nb::c_contig, nb::device::cpu>;

template <typename Array>
void check_rows(const Array &array) {
    if (array.stride(2) != 1 || array.stride(1) != 3) throw nb::value_error("rows must be contiguous");
}

dkcam_picture picture(const Frame &frame) {
    check_rows(frame);
    return {frame.data(), static_cast<ptrdiff_t>(frame.stride(0)), static_cast<int>(frame.shape(0)), static_cast<int>(frame.shape(1))};
}

dkcam_target target(const Picture &out) {
    check_rows(out);
    return {out.data(), static_cast<ptrdiff_t>(out.stride(0)), static_cast<int>(out.shape(0)), static_cast<int>(out.shape(1))};
}

void check(int status) {
    if (status != 0) throw nb::value_error("sizes are out of range");
}

void shrink(const Frame &frame, const Picture &out, int threads) {
    const auto from = picture(frame);
    const auto to = target(out);
    nb::gil_scoped_release free;
    check(dkcam_shrink(from, to, threads));
}

void shrink_normalised(const Frame &frame, const Planes &out, std::tuple<float, float, float> mean,
                       std::tuple<float, float, float> std, int threads) {
    const auto from = picture(frame);
    if (out.stride(2) != 1) throw nb::value_error("rows must be contiguous");
    const auto [m0, m1, m2] = mean;
    const auto [s0, s1, s2] = std;
    const float means[3] = {m0, m1, m2}, deviations[3] = {s0, s1, s2};
    nb::gil_scoped_release free;
    check(dkcam_shrink_normalised(from, out.data(), out.stride(0), out.stride(1), static_cast<int>(out.shape(1)),
                                  static_cast<int>(out.shape(2)), means, deviations, threads));
}

void overlay(const Frame &frame, const Heat &heat, const Tables &tables, const Picture &out, std::tuple<int, int> size,
             std::tuple<double, double> scale, std::tuple<int, int> offset, bool tint, int threads) {
    const auto from = picture(frame);
    const auto to = target(out);
    if (tables.shape(0) != heat.shape(0)) throw nb::value_error("one table for each heatmap");
    const dkcam_fit fit{std::get<0>(size),   std::get<1>(size),   std::get<0>(scale),
                        std::get<1>(scale), std::get<0>(offset), std::get<1>(offset)};
    nb::gil_scoped_release free;
    check(dkcam_overlay(from, heat.data(), static_cast<int>(heat.shape(0)), static_cast<int>(heat.shape(1)),
                        static_cast<int>(heat.shape(2)), fit, tables.data(), tint, to, threads));
}

#ifdef DKCAM_CUDA
using DeviceRows = std::tuple<uintptr_t, ptrdiff_t, int, int>;  // pointer, bytes from row to row, height, width

template <typename Rows>
Rows on_device(const DeviceRows &rows) {
    const auto [pointer, stride, height, width] = rows;
    return {reinterpret_cast<uint8_t *>(pointer), stride, height, width};
}

// Where an array with __dlpack__ lies in CUDA memory: pointer, shape, strides in bytes, NumPy's type string.
std::tuple<uintptr_t, std::vector<size_t>, std::vector<int64_t>, std::string> dlpack(const nb::ndarray<nb::ro, nb::device::cuda> &array) {
    const int64_t item = array.itemsize();
    std::vector<size_t> shape;
    std::vector<int64_t> strides;
    for (size_t i = 0; i < array.ndim(); ++i) {
        shape.push_back(array.shape(i));
        strides.push_back(array.stride(i) * item);
    }
    const auto kind = static_cast<nb::dlpack::dtype_code>(array.dtype().code);
    const char *letter = kind == nb::dlpack::dtype_code::UInt ? "u" : kind == nb::dlpack::dtype_code::Int ? "i" : "f";
    return {reinterpret_cast<uintptr_t>(array.data()), shape, strides, letter + std::to_string(item)};
}

void check_launch(int status) {
    check(status < 0 ? status : 0);
    if (status != 0) throw std::runtime_error("CUDA error " + std::to_string(status));
}

void cuda_shrink(const DeviceRows &frame, const DeviceRows &out, uintptr_t stream) {
    check_launch(dkcam_cuda_shrink(on_device<dkcam_picture>(frame), on_device<dkcam_target>(out), reinterpret_cast<void *>(stream)));
}

void cuda_shrink_normalised(const DeviceRows &frame, uintptr_t planes, std::tuple<ptrdiff_t, ptrdiff_t> strides, std::tuple<int, int> size,
                            std::tuple<float, float, float> mean, std::tuple<float, float, float> std, uintptr_t stream) {
    const auto [m0, m1, m2] = mean;
    const auto [s0, s1, s2] = std;
    const float means[3] = {m0, m1, m2}, deviations[3] = {s0, s1, s2};
    check_launch(dkcam_cuda_shrink_normalised(on_device<dkcam_picture>(frame), reinterpret_cast<float *>(planes), std::get<0>(strides),
                                              std::get<1>(strides), std::get<0>(size), std::get<1>(size), means, deviations,
                                              reinterpret_cast<void *>(stream)));
}

void cuda_overlay(const DeviceRows &frame, uintptr_t heat, std::tuple<int, int, int> shape, uintptr_t tables, const DeviceRows &out,
                  std::tuple<int, int> size, std::tuple<double, double> scale, std::tuple<int, int> offset, bool tint, uintptr_t stream) {
    const auto [count, high, wide] = shape;
    const dkcam_fit fit{std::get<0>(size),   std::get<1>(size),   std::get<0>(scale),
                        std::get<1>(scale), std::get<0>(offset), std::get<1>(offset)};
    check_launch(dkcam_cuda_overlay(on_device<dkcam_picture>(frame), reinterpret_cast<const float *>(heat), count, high, wide, fit,
                                    reinterpret_cast<const uint32_t *>(tables), tint, on_device<dkcam_target>(out),
                                    reinterpret_cast<void *>(stream)));
}
#endif

}  // namespace

NB_MODULE(_native, module) {
    module.doc() = "The per-frame work in C++; see cpp_ext/include/dkcam/kernels.h.";
    module.def("shrink", &shrink, nb::arg("frame"), nb::arg("out"), nb::arg("threads"));
    module.def("shrink_normalised", &shrink_normalised, nb::arg("frame"), nb::arg("out"), nb::arg("mean"), nb::arg("std"), nb::arg("threads"));
    module.def("overlay", &overlay, nb::arg("frame"), nb::arg("heat"), nb::arg("tables"), nb::arg("out"), nb::arg("size"),
               nb::arg("scale"), nb::arg("offset"), nb::arg("tint"), nb::arg("threads"));
#ifdef DKCAM_CUDA
    module.def("dlpack", &dlpack, nb::arg("array"));
    module.def("cuda_shrink", &cuda_shrink, nb::arg("frame"), nb::arg("out"), nb::arg("stream"));
    module.def("cuda_shrink_normalised", &cuda_shrink_normalised, nb::arg("frame"), nb::arg("planes"), nb::arg("strides"), nb::arg("size"),
               nb::arg("mean"), nb::arg("std"), nb::arg("stream"));
    module.def("cuda_overlay", &cuda_overlay, nb::arg("frame"), nb::arg("heat"), nb::arg("shape"), nb::arg("tables"), nb::arg("out"),
               nb::arg("size"), nb::arg("scale"), nb::arg("offset"), nb::arg("tint"), nb::arg("stream"));
#endif
}
