// The Python extension `fastkeras._core`: each domain binds its own functions.

#include <pybind11/pybind11.h>

namespace fastkeras::crf {
void BindCrf(pybind11::module_& module);
}

PYBIND11_MODULE(_core, module) {
  module.doc() = "Kernels for NumPy arrays, behind the engine `native`.";
  fastkeras::crf::BindCrf(module);
}
