// NumPy arrays, updated in place. fastkeras.optimizers explains what is wrong with arguments; the
// checks here only keep them from doing harm.

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

#include "doors/released_gil.h"
#include "doors/tensor_exchange.h"
#include "machine/parallel.h"
#include "optimizers/optimizers.h"

namespace py = pybind11;

namespace fastkeras::optimizers {
namespace {

using Objects = std::vector<py::object>;  // arrays of NumPy, tensors, or None
using Chains = std::vector<std::vector<std::tuple<int, double, int>>>;
constexpr int kAligned = py::detail::npy_api::NPY_ARRAY_ALIGNED_;
using Numbers = py::array_t<double, py::array::c_style | py::array::forcecast | kAligned>;
using Shape = std::vector<int64_t>;

// An entry of a list of arguments; its text is made only for an error.
struct Name {
  const char* list;
  size_t index;

  std::string operator+(const char* text) const {
    return std::string(list) + "[" + std::to_string(index) + "]" + text;
  }
};

void Require(bool holds, const char* what) {
  if (!holds) throw py::value_error(what);
}

void Require(bool holds, const Name& name, const char* what) {
  if (!holds) throw py::value_error(name + what);
}

Shape ShapeOf(const py::array& array) { return {array.shape(), array.shape() + array.ndim()}; }

enum class Type { kFloat16, kBfloat16, kFloat32, kFloat64, kUint8, kInt64, kOther };

// An array or a tensor, while its owner is alive and is not changed.
struct View {
  char* data;
  Shape shape;
  Type type;
  int64_t size, bytes;
  bool in_a_row, writeable;  // and aligned

  bool Is(Type other, const Shape& of_shape) const { return type == other && shape == of_shape; }
};

// NumPy has one object for each of its own dtypes, and is slow to give a dtype's name.
template <typename T>
bool Is(const py::array& array) {
  static const PyObject* const dtype = py::dtype::of<T>().release().ptr();
  return array.dtype().ptr() == dtype || array.dtype().equal(py::dtype::of<T>());
}

Type TypeOf(const py::array& array) {
  if (Is<float>(array)) return Type::kFloat32;
  if (Is<double>(array)) return Type::kFloat64;
  if (Is<uint8_t>(array)) return Type::kUint8;
  if (Is<int64_t>(array)) return Type::kInt64;
  const std::string name = py::str(array.dtype());
  return name == "float16" ? Type::kFloat16 : name == "bfloat16" ? Type::kBfloat16 : Type::kOther;
}

Type TypeOf(const ExchangedTensor& tensor) {
  const int bits = tensor.bits;
  if (tensor.lanes != 1) return Type::kOther;
  if (tensor.code == TypeCode::kBfloat && bits == 16) return Type::kBfloat16;
  if (tensor.code == TypeCode::kUInt && bits == 8) return Type::kUint8;
  if (tensor.code == TypeCode::kInt && bits == 64) return Type::kInt64;
  if (tensor.code != TypeCode::kFloat) return Type::kOther;
  return bits == 16   ? Type::kFloat16
         : bits == 32 ? Type::kFloat32
         : bits == 64 ? Type::kFloat64
                      : Type::kOther;
}

View ViewOfTensor(const Name& what, const py::object& object, const ExchangeTable& table) {
  ExchangedTensor tensor{};
  if (table.tensor_from_object(object.ptr(), &tensor) != 0) throw py::error_already_set();
  Require(tensor.device_type == kOnCpu, what, " must be on the CPU");
  View view{static_cast<char*>(tensor.data) + tensor.byte_offset,
            {tensor.shape, tensor.shape + tensor.ndim},
            TypeOf(tensor),
            1,
            0,
            true,
            true};
  for (int axis = tensor.ndim - 1; axis >= 0; --axis) {
    const bool moves = tensor.shape[axis] != 1 && tensor.strides != nullptr;
    if (moves && tensor.strides[axis] != view.size) view.in_a_row = false;
    view.size *= tensor.shape[axis];
  }
  const int64_t item = tensor.bits / 8;
  view.bytes = view.size * item;
  if (view.size == 0) view.in_a_row = true;
  if (item > 0 && reinterpret_cast<uintptr_t>(view.data) % item != 0) view.in_a_row = false;
  Require(tensor.data != nullptr || view.size == 0, what, " must have memory");
  return view;
}

View ViewOf(const Name& what, const py::object& object) {
  if (py::isinstance<py::array>(object)) {
    auto array = py::reinterpret_borrow<py::array>(object);
    const int flags = array.flags();
    return {static_cast<char*>(const_cast<void*>(array.data())),
            ShapeOf(array),
            TypeOf(array),
            array.size(),
            array.nbytes(),
            (flags & py::array::c_style) && (flags & kAligned),
            array.writeable()};
  }
  // of the last type that had one, since all tensors are of one type or two
  static PyTypeObject* type = nullptr;
  static const ExchangeTable* table = nullptr;
  if (Py_TYPE(object.ptr()) != type) {
    const ExchangeTable* const found = ExchangeTableOf(Py_TYPE(object.ptr()));
    if (found == nullptr) throw py::type_error(what + " must be an array of NumPy or a tensor");
    Py_XDECREF(type);
    type = Py_TYPE(object.ptr());
    Py_INCREF(type);
    table = found;
  }
  return ViewOfTensor(what, object, *table);
}

Dtype DtypeOf(const Name& what, const View& view) {
  switch (view.type) {
    case Type::kFloat16:
      return Dtype::kFloat16;
    case Type::kBfloat16:
      return Dtype::kBfloat16;
    case Type::kFloat32:
      return Dtype::kFloat32;
    case Type::kFloat64:
      return Dtype::kFloat64;
    default:
      throw py::type_error(what + " must be float16, bfloat16, float32 or float64");
  }
}

// Where arrays are in memory, so that no other array shares the memory of one that is written.
class Memory {
 public:
  using Stretch = std::pair<const char*, const char*>;

  void Add(const Stretch& stretch, bool is_written) {
    if (stretch.first != stretch.second) (is_written ? written_ : reads_).push_back(stretch);
  }
  void AddRead(const View& view) { Add({view.data, view.data + view.bytes}, false); }
  void AddWritten(const View& view) { Add({view.data, view.data + view.bytes}, true); }

  // Null if nothing is.
  const char* WhatIsShared() {
    std::sort(written_.begin(), written_.end());
    for (size_t i = 1; i < written_.size(); ++i) {
      if (written_[i - 1].second > written_[i].first) return "arrays that are written overlap";
    }
    for (const auto& [begin, end] : reads_) {
      const auto after = std::lower_bound(written_.begin(), written_.end(), Stretch{end, nullptr});
      if (after != written_.begin() && std::prev(after)->second > begin) {
        return "a gradient or its rows overlap with what is written";
      }
    }
    return nullptr;
  }

 private:
  std::vector<Stretch> reads_, written_;
};

const void* Read(const Name& what, const View& view, Memory& memory) {
  Require(view.in_a_row, what, " must be contiguous and aligned");
  memory.AddRead(view);
  return view.data;
}

void* Written(const Name& what, const View& view, bool fits, Memory& memory) {
  Require(view.in_a_row, what, " must be contiguous and aligned");
  Require(view.writeable, what, " must be writeable");
  Require(fits, what, " must have the shape and dtype that its parameter asks for");
  memory.AddWritten(view);
  return view.data;
}

void TakeSlots(size_t of, Rule rule, const Objects& slots, const Shape& shape, Variable& variable,
               Memory& memory) {
  const size_t num_slots = NumSlots(rule);
  const bool wide = variable.dtype == Dtype::kFloat64;
  const bool may_be_narrow = CanBeNarrow(rule) && !wide;
  // A quantized slot is two arrays: its codes and its scales.
  const bool quantized = slots.size() == 2 * num_slots && may_be_narrow;
  Require(slots.size() == num_slots || quantized, Name{"slots", of}, " are not of this rule");
  variable.moments = quantized ? Moments::kCodes : Moments::kWide;
  const Shape blocks = {(variable.size + kQuantizedBlock - 1) / kQuantizedBlock};
  Type type = quantized ? Type::kUint8 : wide ? Type::kFloat64 : Type::kFloat32;
  for (size_t s = 0; s < num_slots; ++s) {
    const View slot = ViewOf(Name{"slots", of}, slots[quantized ? 2 * s : s]);
    if (s == 0 && may_be_narrow && !quantized && slot.type == Type::kBfloat16) {
      variable.moments = Moments::kBfloat16;
      type = Type::kBfloat16;
    }
    variable.slots[s] = Written(Name{"slots", of}, slot, slot.Is(type, shape), memory);
    if (quantized) {
      const View scales = ViewOf(Name{"scales", of}, slots[2 * s + 1]);
      const bool fits = scales.Is(Type::kFloat32, blocks);
      variable.scales[s] = static_cast<float*>(Written(Name{"scales", of}, scales, fits, memory));
    }
  }
}

void TakeRows(size_t of, const View& rows, const View& parameter, const View& gradient,
              Variable& variable, Memory& memory) {
  Require(variable.moments != Moments::kCodes && !variable.adapted, Name{"rows", of},
          " must be None: moments of 8 bits and layer adaptation need all");
  static const int64_t no_rows = 0;  // null is for all rows, and where empty tensors are
  const void* const data = Read(Name{"rows", of}, rows, memory);
  variable.rows = rows.size == 0 ? &no_rows : static_cast<const int64_t*>(data);
  Require(rows.shape.size() == 1 && rows.type == Type::kInt64 && !parameter.shape.empty(),
          Name{"rows", of}, " must be int64, with one axis");
  variable.num_rows = rows.size;
  variable.row_size = variable.num_rows ? gradient.size / variable.num_rows : 0;
  Require(AreRows(variable.rows, variable.num_rows, parameter.shape[0]), Name{"rows", of},
          " must be of the parameter, each once");
}

void TakeChain(size_t of, const Chains::value_type& chain, Variable& variable) {
  for (const auto& [kind, operand, group] : chain) {
    if (kind < 0 || kind >= static_cast<int>(TransformKind::kCount)) {
      const Name chains{"chains", of};
      throw py::value_error(chains + ": no transform has the number " + std::to_string(kind));
    }
    variable.chain.push_back({static_cast<TransformKind>(kind), operand, group});
  }
}

// Whether arrays need no look by Python: all are of NumPy itself, float32 or all float64, have the
// shape of their parameter, can be read and written in place, and share no memory.
bool AreReady(const std::string& name, const py::list& parameters, const py::list& gradients,
              const py::list& slots) {
  const std::optional<Rule> rule = FindRule(name);
  const size_t count = parameters.size();
  if (!rule.has_value() || count == 0) return false;
  if (gradients.size() != count || slots.size() != count) return false;
  const auto* const of_numpy =
      reinterpret_cast<const PyTypeObject*>(py::module_::import("numpy").attr("ndarray").ptr());
  const auto is_array = [of_numpy](py::handle array) { return Py_TYPE(array.ptr()) == of_numpy; };
  if (!is_array(parameters[0])) return false;
  const auto first = py::reinterpret_borrow<py::array>(parameters[0]);
  if (!Is<float>(first) && !Is<double>(first)) return false;
  const PyObject* const dtype = first.dtype().ptr();
  Memory memory;
  const auto take = [&](py::handle object, const py::array* like, bool is_written) {
    if (!is_array(object)) return false;
    const auto array = py::reinterpret_borrow<py::array>(object);
    const int flags = array.flags();
    if (array.dtype().ptr() != dtype || !(flags & py::array::c_style) || !(flags & kAligned)) {
      return false;
    }
    if (is_written && !array.writeable()) return false;
    if (like != nullptr &&
        (array.ndim() != like->ndim() ||
         !std::equal(array.shape(), array.shape() + array.ndim(), like->shape()))) {
      return false;
    }
    auto* const data = static_cast<const char*>(array.data());
    memory.Add({data, data + array.nbytes()}, is_written);
    return true;
  };
  for (size_t i = 0; i < count; ++i) {
    if (!take(parameters[i], nullptr, true)) return false;
    const auto parameter = py::reinterpret_borrow<py::array>(parameters[i]);
    if (!take(gradients[i], &parameter, false)) return false;
    const py::handle own = slots[i];
    if (!PyTuple_Check(own.ptr()) && !PyList_Check(own.ptr())) return false;
    if (PySequence_Fast_GET_SIZE(own.ptr()) != NumSlots(*rule)) return false;
    for (int s = 0; s < NumSlots(*rule); ++s) {
      if (!take(PySequence_Fast_GET_ITEM(own.ptr(), s), &parameter, true)) return false;
    }
  }
  return memory.WhatIsShared() == nullptr;
}

bool StepArrays(const std::string& name, const Objects& parameters, const Objects& gradients,
                const std::vector<Objects>& slots, const std::vector<bool>& frozen,
                const Numbers& coefficients, const Numbers& decays, const Chains& chains,
                const Objects& rows, const Objects& remainders, const std::vector<bool>& adapted,
                const std::vector<bool>& dithered, const Numbers& rates,
                const std::vector<uint32_t>& seeds, int num_threads) {
  const std::optional<Rule> rule = FindRule(name);
  if (!rule.has_value()) throw py::value_error("rule='" + name + "' has no kernel");
  const size_t count = parameters.size();
  for (const size_t given : {gradients.size(), slots.size(), frozen.size(), chains.size(),
                             rows.size(), remainders.size(), adapted.size(), dithered.size()}) {
    Require(given == count, "every list must have one entry for each parameter");
  }
  const auto length = static_cast<int64_t>(count);
  Require(ShapeOf(decays) == Shape{length} && ShapeOf(rates) == Shape{length},
          "decays and rates must be one for each parameter");
  Require(ShapeOf(coefficients) == Shape{length, NumCoefficients(*rule)},
          "coefficients must be those of the rule, for each parameter");
  Require(seeds.empty() || seeds.size() == count, "seeds must be one for each parameter, or none");
  std::vector<Variable> variables(count);
  Memory memory;
  for (size_t i = 0; i < count; ++i) {
    const size_t of = i;
    const View parameter = ViewOf(Name{"parameters", of}, parameters[i]),
               gradient = ViewOf(Name{"gradients", of}, gradients[i]);
    Variable& variable = variables[i];
    variable = {};
    variable.frozen = frozen[i];
    variable.size = parameter.size;
    variable.dtype = DtypeOf(Name{"parameters", of}, parameter);
    variable.gradient_dtype = DtypeOf(Name{"gradients", of}, gradient);
    variable.adapted = adapted[i];
    variable.rate = rates.at(i);
    variable.decay = decays.at(i);
    variable.dithered = dithered[i];
    if (!seeds.empty()) variable.seed = seeds[i];
    variable.parameter = Written(Name{"parameters", of}, parameter, true, memory);
    variable.gradient = Read(Name{"gradients", of}, gradient, memory);
    const bool wide = variable.dtype == Dtype::kFloat64;
    Require(wide == (variable.gradient_dtype == Dtype::kFloat64), Name{"gradients", of},
            " must be float64 if and only if the parameter is");
    TakeSlots(of, *rule, slots[i], parameter.shape, variable, memory);
    Require(!seeds.empty() || !(variable.dithered || variable.moments != Moments::kWide),
            Name{"seeds", of}, " must be given: it or its moments are rounded at random");
    Shape of_gradient = parameter.shape;
    if (!rows[i].is_none()) {
      TakeRows(of, ViewOf(Name{"rows", of}, rows[i]), parameter, gradient, variable, memory);
      of_gradient[0] = variable.num_rows;
    }
    Require(gradient.shape == of_gradient, Name{"gradients", of},
            " must have the shape of its parameter");
    if (!remainders[i].is_none()) {
      Require(!wide && variable.dtype != Dtype::kFloat32, Name{"remainders", of},
              " must be None: only halves have one");
      const View remainder = ViewOf(Name{"remainders", of}, remainders[i]);
      const bool fits = remainder.Is(Type::kFloat32, parameter.shape);
      variable.remainder =
          static_cast<float*>(Written(Name{"remainders", of}, remainder, fits, memory));
    }
    for (py::ssize_t c = 0; c < coefficients.shape(1); ++c) {
      variable.coefficients[c] = coefficients.at(i, c);
    }
    TakeChain(of, chains[i], variable);
  }
  const char* const shared = memory.WhatIsShared();
  Require(shared == nullptr, shared);
  const ReleasedGil released;
  return Step(*rule, variables,
              [num_threads](int64_t tasks, const std::function<void(int64_t)>& fn) {
                ParallelFor(tasks, num_threads, [&fn](int64_t task) { fn(task); });
              });
}

// Adds to each of these scalars in place, and returns what they are then.
std::vector<double> Count(const Objects& scalars, double by) {
  std::vector<View> views;
  for (const py::object& scalar : scalars) {
    views.push_back(ViewOf(Name{"scalars", views.size()}, scalar));
    const View& view = views.back();
    const bool fits =
        view.size == 1 && (view.type == Type::kFloat32 || view.type == Type::kFloat64);
    Require(fits && view.in_a_row && view.writeable, "scalars must be float32 or float64");
  }
  std::vector<double> values;
  for (const View& view : views) {
    if (view.type == Type::kFloat32) {
      auto* const number = reinterpret_cast<float*>(view.data);
      values.push_back(*number += static_cast<float>(by));
    } else {
      values.push_back(*reinterpret_cast<double*>(view.data) += by);
    }
  }
  return values;
}

}  // namespace

void BindOptimizers(py::module_& module) {
  module.def("optimizer_step", &StepArrays, py::arg("rule"), py::arg("parameters"),
             py::arg("gradients"), py::arg("slots"), py::arg("frozen"), py::arg("coefficients"),
             py::arg("decays"), py::arg("chains"), py::arg("rows"), py::arg("remainders"),
             py::arg("adapted"), py::arg("dithered"), py::arg("rates"), py::arg("seeds"),
             py::arg("num_threads") = 0);
  module.def("optimizer_arrays_are_ready", &AreReady, py::arg("rule"), py::arg("parameters"),
             py::arg("gradients"), py::arg("slots"));
  module.def("optimizer_count", &Count, py::arg("scalars"), py::arg("by") = 1.0);
  module.def("optimizer_rules", [] {
    std::vector<std::tuple<std::string, int, std::string>> rules;
    for (const RuleFacts& facts : kRuleFacts) {
      rules.emplace_back(facts.name, facts.num_slots, facts.signs);
    }
    return rules;
  });
  module.def("optimizer_transforms", [] {
    return std::vector<std::string>(std::begin(kTransformNames), std::end(kTransformNames));
  });
}

}  // namespace fastkeras::optimizers
