// NumPy in, NumPy out, in place; the arguments are checked at the door of fastkeras.optimizers.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <optional>
#include <string>
#include <tuple>

#include "optimizers/optimizers.h"
#include "parallel.h"

namespace py = pybind11;

namespace fastkeras::optimizers {
namespace {

using Arrays = std::vector<py::array>;
using Optional = std::vector<std::optional<py::array>>;
using Chains = std::vector<std::vector<std::tuple<int, double, int>>>;

Dtype DtypeOf(const py::array& array) {
  const std::string name = py::str(array.dtype());
  if (name == "float32") return Dtype::kFloat32;
  if (name == "float64") return Dtype::kFloat64;
  if (name == "float16") return Dtype::kFloat16;
  if (name == "bfloat16") return Dtype::kBfloat16;
  throw py::type_error("no kernel for dtype " + name);
}

bool StepArrays(int rule, Arrays parameters, Arrays gradients, std::vector<Arrays> slots,
                const std::vector<bool>& frozen, const py::array_t<double>& coefficients,
                const py::array_t<double>& decays, const Chains& chains, const Optional& rows,
                Optional remainders, const std::vector<bool>& adapted,
                const py::array_t<double>& rates, const std::vector<uint32_t>& seeds) {
  std::vector<Variable> variables(parameters.size());
  for (size_t i = 0; i < variables.size(); ++i) {
    Variable& variable = variables[i];
    variable = {};
    variable.parameter = parameters[i].mutable_data();
    variable.gradient = gradients[i].data();
    // A quantized slot is two arrays: its codes and its scales.
    const size_t num_slots = NumSlots(static_cast<Rule>(rule));
    variable.quantized = slots[i].size() > num_slots;
    for (size_t s = 0; s < num_slots; ++s) {
      py::array& slot = slots[i][variable.quantized ? 2 * s : s];
      variable.slots[s] = slot.mutable_data();
      if (variable.quantized) {
        variable.scales[s] = static_cast<float*>(slots[i][2 * s + 1].mutable_data());
      }
    }
    variable.size = parameters[i].size();
    if (rows[i]) {
      variable.rows = static_cast<const int64_t*>(rows[i]->data());
      variable.num_rows = rows[i]->size();
      variable.row_size = variable.num_rows ? gradients[i].size() / variable.num_rows : 0;
    }
    if (remainders[i]) {
      variable.remainder = static_cast<float*>(remainders[i]->mutable_data());
    }
    variable.adapted = adapted[i];
    variable.rate = rates.at(i);
    variable.dithered = !seeds.empty();
    if (variable.dithered) variable.seed = seeds[i];
    variable.dtype = DtypeOf(parameters[i]);
    variable.gradient_dtype = DtypeOf(gradients[i]);
    variable.frozen = frozen[i];
    for (py::ssize_t c = 0; c < coefficients.shape(1); ++c) {
      variable.coefficients[c] = coefficients.at(i, c);
    }
    variable.decay = decays.at(i);
    for (const auto& [kind, operand, group] : chains[i]) {
      variable.chain.push_back({static_cast<TransformKind>(kind), operand, group});
    }
  }
  py::gil_scoped_release release;
  return Step(static_cast<Rule>(rule), variables,
              [](int64_t tasks, const std::function<void(int64_t)>& fn) {
                ParallelFor(tasks, 0, [&fn](int64_t task) { fn(task); });
              });
}

}  // namespace

void BindOptimizers(py::module_& module) {
  module.def("optimizer_step", &StepArrays, py::arg("rule"), py::arg("parameters"),
             py::arg("gradients"), py::arg("slots"), py::arg("frozen"), py::arg("coefficients"),
             py::arg("decays"), py::arg("chains"), py::arg("rows"), py::arg("remainders"),
             py::arg("adapted"), py::arg("rates"), py::arg("seeds"));
}

}  // namespace fastkeras::optimizers
