// NumPy in, NumPy out, in place. fastkeras.optimizers says what is wrong with its arguments; here
// they are only kept from doing harm.

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <iterator>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "optimizers/optimizers.h"
#include "parallel.h"
#include "released_gil.h"

namespace py = pybind11;

namespace fastkeras::optimizers {
namespace {

using Arrays = std::vector<py::array>;
using Optional = std::vector<std::optional<py::array>>;
using Chains = std::vector<std::vector<std::tuple<int, double, int>>>;
constexpr int kAligned = py::detail::npy_api::NPY_ARRAY_ALIGNED_;
using Numbers = py::array_t<double, py::array::c_style | py::array::forcecast | kAligned>;
using Shape = std::vector<py::ssize_t>;

void Require(bool holds, const std::string& what) {
  if (!holds) throw py::value_error(what);
}

Shape ShapeOf(const py::array& array) { return {array.shape(), array.shape() + array.ndim()}; }

// NumPy has one object for each dtype of its own, and takes long to say its name.
template <typename T>
bool Is(const py::array& array) {
  static const PyObject* const dtype = py::dtype::of<T>().release().ptr();
  return array.dtype().ptr() == dtype || array.dtype().equal(py::dtype::of<T>());
}

Dtype DtypeOf(const std::string& what, const py::array& array) {
  if (Is<float>(array)) return Dtype::kFloat32;
  if (Is<double>(array)) return Dtype::kFloat64;
  const std::string name = py::str(array.dtype());
  if (name == "float16") return Dtype::kFloat16;
  if (name == "bfloat16") return Dtype::kBfloat16;
  throw py::type_error(what + ": no kernel for dtype " + name);
}

// Where arrays lie, so that what is written has its memory for itself.
class Memory {
 public:
  void AddRead(const py::array& array) { Add(array, reads_); }
  void AddWritten(const py::array& array) { Add(array, written_); }

  void CheckNothingIsShared() {
    std::sort(written_.begin(), written_.end());
    for (size_t i = 1; i < written_.size(); ++i) {
      Require(written_[i - 1].second <= written_[i].first, "arrays that are written overlap");
    }
    for (const auto& [begin, end] : reads_) {
      const auto after = std::lower_bound(written_.begin(), written_.end(), Stretch{end, nullptr});
      Require(after == written_.begin() || std::prev(after)->second <= begin,
              "a gradient or its rows overlap with what is written");
    }
  }

 private:
  using Stretch = std::pair<const char*, const char*>;

  static void Add(const py::array& array, std::vector<Stretch>& to) {
    const char* const begin = static_cast<const char*>(array.data());
    if (array.nbytes() > 0) to.emplace_back(begin, begin + array.nbytes());
  }

  std::vector<Stretch> reads_, written_;
};

void CheckLayout(const std::string& what, const py::array& array) {
  Require((array.flags() & py::array::c_style) && (array.flags() & kAligned),
          what + " must be contiguous and aligned");
}

const void* Read(const std::string& what, const py::array& array, Memory& memory) {
  CheckLayout(what, array);
  memory.AddRead(array);
  return array.data();
}

void* Written(const std::string& what, py::array& array, bool fits, Memory& memory) {
  CheckLayout(what, array);
  Require(array.writeable(), what + " must be writeable");
  Require(fits, what + " must have the shape and dtype that its parameter asks for");
  memory.AddWritten(array);
  return array.mutable_data();
}

void TakeSlots(const std::string& of, Rule rule, Arrays& slots, const Shape& shape,
               Variable& variable, Memory& memory) {
  const size_t num_slots = NumSlots(rule);
  const bool wide = variable.dtype == Dtype::kFloat64;
  // A quantized slot is two arrays: its codes and its scales.
  variable.quantized = slots.size() == 2 * num_slots && CanQuantize(rule) && !wide;
  Require(slots.size() == num_slots || variable.quantized, "slots" + of + " are not of this rule");
  const Shape blocks = {(variable.size + kQuantizedBlock - 1) / kQuantizedBlock};
  for (size_t s = 0; s < num_slots; ++s) {
    py::array& slot = slots[variable.quantized ? 2 * s : s];
    const bool is_of_type = variable.quantized ? Is<uint8_t>(slot)
                            : wide             ? Is<double>(slot)
                                               : Is<float>(slot);
    variable.slots[s] = Written("slots" + of, slot, is_of_type && ShapeOf(slot) == shape, memory);
    if (variable.quantized) {
      py::array& scales = slots[2 * s + 1];
      const bool fits = Is<float>(scales) && ShapeOf(scales) == blocks;
      variable.scales[s] = static_cast<float*>(Written("scales" + of, scales, fits, memory));
    }
  }
}

void TakeRows(const std::string& of, const py::array& rows, const py::array& parameter,
              const py::array& gradient, Variable& variable, Memory& memory) {
  Require(!variable.quantized && !variable.adapted,
          "rows" + of + " must be None: moments of 8 bits and layer adaptation need all");
  variable.rows = static_cast<const int64_t*>(Read("rows" + of, rows, memory));
  Require(rows.ndim() == 1 && Is<int64_t>(rows) && parameter.ndim() > 0,
          "rows" + of + " must be int64, with one axis");
  variable.num_rows = rows.size();
  variable.row_size = variable.num_rows ? gradient.size() / variable.num_rows : 0;
  Require(AreRows(variable.rows, variable.num_rows, parameter.shape(0)),
          "rows" + of + " must be of the parameter, each once");
}

void TakeChain(const std::string& of, const Chains::value_type& chain, Variable& variable) {
  for (const auto& [kind, operand, group] : chain) {
    Require(kind >= 0 && kind < static_cast<int>(TransformKind::kCount),
            "chains" + of + ": no transform has the number " + std::to_string(kind));
    variable.chain.push_back({static_cast<TransformKind>(kind), operand, group});
  }
}

bool StepArrays(const std::string& name, Arrays parameters, Arrays gradients,
                std::vector<Arrays> slots, const std::vector<bool>& frozen,
                const Numbers& coefficients, const Numbers& decays, const Chains& chains,
                const Optional& rows, Optional remainders, const std::vector<bool>& adapted,
                const Numbers& rates, const std::vector<uint32_t>& seeds) {
  const std::optional<Rule> rule = FindRule(name);
  Require(rule.has_value(), "rule='" + name + "' has no kernel");
  const size_t count = parameters.size();
  for (const size_t given : {gradients.size(), slots.size(), frozen.size(), chains.size(),
                             rows.size(), remainders.size(), adapted.size()}) {
    Require(given == count, "every list must have one entry for each parameter");
  }
  const auto length = static_cast<py::ssize_t>(count);
  Require(ShapeOf(decays) == Shape{length} && ShapeOf(rates) == Shape{length},
          "decays and rates must be one for each parameter");
  Require(ShapeOf(coefficients) == Shape{length, NumCoefficients(*rule)},
          "coefficients must be those of the rule, for each parameter");
  Require(seeds.empty() || seeds.size() == count, "seeds must be one for each parameter, or none");
  std::vector<Variable> variables(count);
  Memory memory;
  for (size_t i = 0; i < count; ++i) {
    const std::string of = "[" + std::to_string(i) + "]";
    const py::array &parameter = parameters[i], &gradient = gradients[i];
    Variable& variable = variables[i];
    variable = {};
    variable.frozen = frozen[i];
    variable.size = parameter.size();
    variable.dtype = DtypeOf("parameters" + of, parameter);
    variable.gradient_dtype = DtypeOf("gradients" + of, gradient);
    variable.adapted = adapted[i];
    variable.rate = rates.at(i);
    variable.decay = decays.at(i);
    variable.dithered = !seeds.empty();
    if (variable.dithered) variable.seed = seeds[i];
    const Shape shape = ShapeOf(parameter);
    variable.parameter = Written("parameters" + of, parameters[i], true, memory);
    variable.gradient = Read("gradients" + of, gradient, memory);
    const bool wide = variable.dtype == Dtype::kFloat64;
    Require(wide == (variable.gradient_dtype == Dtype::kFloat64),
            "gradients" + of + " must be float64 if and only if the parameter is");
    TakeSlots(of, *rule, slots[i], shape, variable, memory);
    Shape of_gradient = shape;
    if (rows[i]) {
      TakeRows(of, *rows[i], parameter, gradient, variable, memory);
      of_gradient[0] = variable.num_rows;
    }
    Require(ShapeOf(gradient) == of_gradient,
            "gradients" + of + " must have the shape of its parameter");
    if (remainders[i]) {
      Require(!wide && variable.dtype != Dtype::kFloat32,
              "remainders" + of + " must be None: only halves have one");
      const bool fits = Is<float>(*remainders[i]) && ShapeOf(*remainders[i]) == shape;
      variable.remainder =
          static_cast<float*>(Written("remainders" + of, *remainders[i], fits, memory));
    }
    for (py::ssize_t c = 0; c < coefficients.shape(1); ++c) {
      variable.coefficients[c] = coefficients.at(i, c);
    }
    TakeChain(of, chains[i], variable);
  }
  memory.CheckNothingIsShared();
  const ReleasedGil released;
  return Step(*rule, variables, [](int64_t tasks, const std::function<void(int64_t)>& fn) {
    ParallelFor(tasks, 0, [&fn](int64_t task) { fn(task); });
  });
}

}  // namespace

void BindOptimizers(py::module_& module) {
  module.def("optimizer_step", &StepArrays, py::arg("rule"), py::arg("parameters"),
             py::arg("gradients"), py::arg("slots"), py::arg("frozen"), py::arg("coefficients"),
             py::arg("decays"), py::arg("chains"), py::arg("rows"), py::arg("remainders"),
             py::arg("adapted"), py::arg("rates"), py::arg("seeds"));
  module.def("optimizer_rules", [] {
    std::vector<std::tuple<std::string, int, bool>> rules;
    for (const RuleFacts& facts : kRuleFacts) {
      rules.emplace_back(facts.name, facts.num_slots, facts.can_quantize);
    }
    return rules;
  });
  module.def("optimizer_transforms", [] {
    return std::vector<std::string>(std::begin(kTransformNames), std::end(kTransformNames));
  });
}

}  // namespace fastkeras::optimizers
