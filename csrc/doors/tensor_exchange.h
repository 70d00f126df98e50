// The memory of other libraries' tensors, without calling Python: by DLPack's table of functions
// (DLPackExchangeAPI, version 1.3), which torch has since 2.10.

#ifndef FASTKERAS_DOORS_TENSOR_EXCHANGE_H_
#define FASTKERAS_DOORS_TENSOR_EXCHANGE_H_

#include <Python.h>

#include <cstdint>

namespace fastkeras {

enum class TypeCode : uint8_t { kInt = 0, kUInt = 1, kFloat = 2, kBfloat = 4, kBool = 6 };
constexpr int32_t kOnCpu = 1;

struct ExchangedTensor {  // DLTensor
  void* data;
  int32_t device_type, device_id;
  int32_t ndim;
  TypeCode code;
  uint8_t bits;
  uint16_t lanes;
  int64_t* shape;
  int64_t* strides;  // in elements; may be null for a contiguous tensor
  uint64_t byte_offset;
};

struct ExchangeTable {  // DLPackExchangeAPI
  uint32_t major, minor;
  ExchangeTable* previous;
  void *allocate, *managed_from_object, *managed_to_object;
  int (*tensor_from_object)(void* object, ExchangedTensor* out);  // may be null
  void* current_stream;
};

// The table of a type of tensors, or null if it has none that we know.
inline const ExchangeTable* ExchangeTableOf(PyTypeObject* type) {
  PyObject* const capsule =
      PyObject_GetAttrString(reinterpret_cast<PyObject*>(type), "__dlpack_c_exchange_api__");
  const void* found =
      capsule != nullptr ? PyCapsule_GetPointer(capsule, "dlpack_exchange_api") : nullptr;
  PyErr_Clear();
  Py_XDECREF(capsule);
  const auto* table = static_cast<const ExchangeTable*>(found);
  while (table != nullptr && table->major != 1) table = table->previous;
  return table != nullptr && table->tensor_from_object != nullptr ? table : nullptr;
}

}  // namespace fastkeras

#endif  // FASTKERAS_DOORS_TENSOR_EXCHANGE_H_
