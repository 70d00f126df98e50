// The step as a TensorFlow op that updates resource variables in place. TensorFlow's C API does not
// reach them, so this library is built from the headers of one TensorFlow, and fits its minor
// version only.

#define EIGEN_USE_THREADS

#include <algorithm>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <vector>

#include "absl/strings/str_cat.h"
#include "optimizers/optimizers.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/core/framework/resource_var.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace fastkeras::optimizers {
namespace {

namespace tf = tensorflow;

REGISTER_OP("Fastkeras>OptimizerStep")
    .Attr("rule: int")
    .Attr("N: int >= 1")
    .Attr("M: int >= 0")
    .Attr("num_remainders: int >= 0")
    .Attr("num_rows: int >= 0")
    .Attr("quantized: list(bool)")
    .Attr("has_remainder: list(bool)")
    .Attr("has_rows: list(bool)")
    .Attr("adapted: list(bool)")
    .Attr("T: list({half, bfloat16, float, double}) >= 1")
    .Input("parameters: N * resource")
    .Input("slots: M * resource")  // of the first parameter, of the second, ...; if quantized:
                                   // codes, scales, codes, scales, ...
    .Input("remainders: num_remainders * resource")  // of those that have one
    .Input("gradients: T")
    .Input("rows: num_rows * int64")  // of the gradients that have some rows only, each once
    .Input("frozen: bool")
    .Input("coefficients: double")
    .Input("decays: double")
    .Input("chain_lengths: int32")
    .Input("chain_kinds: int32")
    .Input("chain_operands: double")
    .Input("chain_groups: int32")
    .Input("rates: double")
    .Input("seeds: uint32")  // for rounding at random, or none
    .Output("finite: bool")
    .SetIsStateful()
    .SetShapeFn([](tf::shape_inference::InferenceContext* context) {
      context->set_output(0, context->Scalar());
      return absl::OkStatus();
    });

template <typename... Parts>
absl::Status Invalid(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

absl::Status DtypeOf(tf::DataType type, Dtype* dtype) {
  switch (type) {
    case tf::DT_FLOAT:
      *dtype = Dtype::kFloat32;
      return absl::OkStatus();
    case tf::DT_DOUBLE:
      *dtype = Dtype::kFloat64;
      return absl::OkStatus();
    case tf::DT_HALF:
      *dtype = Dtype::kFloat16;
      return absl::OkStatus();
    case tf::DT_BFLOAT16:
      *dtype = Dtype::kBfloat16;
      return absl::OkStatus();
    default:
      return Invalid("no kernel for ", tf::DataTypeString(type));
  }
}

class OptimizerStep : public tf::OpKernel {
 public:
  explicit OptimizerStep(tf::OpKernelConstruction* context) : tf::OpKernel(context) {
    int rule;
    OP_REQUIRES_OK(context, context->GetAttr("rule", &rule));
    OP_REQUIRES(context, rule >= 0 && rule < static_cast<int>(Rule::kCount),
                Invalid("rule=", rule, " is unknown"));
    rule_ = static_cast<Rule>(rule);
    OP_REQUIRES_OK(context, context->GetAttr("N", &count_));
    OP_REQUIRES_OK(context, Flags(context, "quantized", &quantized_));
    OP_REQUIRES_OK(context, Flags(context, "has_remainder", &has_remainder_));
    OP_REQUIRES_OK(context, Flags(context, "has_rows", &has_rows_));
    OP_REQUIRES_OK(context, Flags(context, "adapted", &adapted_));
    first_slots_.push_back(count_);  // among the inputs
    for (const bool quantized : quantized_) {
      OP_REQUIRES(context, !quantized || CanQuantize(rule_), Invalid("the rule has no 8 bits"));
      first_slots_.push_back(first_slots_.back() + NumSlots(rule_) * (quantized ? 2 : 1));
    }
    int given;
    OP_REQUIRES_OK(context, context->GetAttr("M", &given));
    OP_REQUIRES(context, first_slots_.back() == count_ + given,
                Invalid("the rule keeps ", first_slots_.back() - count_, " slots, got ", given));
    first_gradient_ = first_slots_.back();
    first_setting_ = first_gradient_ + count_;
    for (int i = 0; i < count_; ++i) {
      remainders_.push_back(has_remainder_[i] ? first_gradient_++ : -1);
      first_setting_ += has_remainder_[i] + has_rows_[i];
    }
    for (int i = 0, next = first_gradient_ + count_; i < count_; ++i) {
      rows_.push_back(has_rows_[i] ? next++ : -1);
    }
    OP_REQUIRES(context, first_setting_ + kNumSettings == context->num_inputs(),
                Invalid("remainders or rows are not as many as their flags say"));
  }

  void Compute(tf::OpKernelContext* context) override {
    OP_REQUIRES_OK(context, CheckSettings(context));
    const auto frozen = Setting(context, kFrozen).vec<bool>();
    std::vector<tf::core::RefCountPtr<tf::Var>> held;
    OP_REQUIRES_OK(context, Lookup(context, &held));
    std::vector<std::unique_ptr<tf::mutex_lock>> locks;
    OP_REQUIRES_OK(context, Lock(held, &locks));
    std::vector<Variable> variables(count_);
    for (int i = 0; i < count_; ++i) {
      OP_REQUIRES_OK(context, Prepare(context, held, i, frozen(i), &variables[i]));
    }
    OP_REQUIRES_OK(context, TakeChains(context, &variables));
    tf::Tensor* finite;
    OP_REQUIRES_OK(context, context->allocate_output(0, tf::TensorShape({}), &finite));
    tf::thread::ThreadPool* const pool =
        context->device()->tensorflow_cpu_worker_threads()->workers;
    try {
      finite->scalar<bool>()() =
          Step(rule_, variables, [pool](int64_t tasks, const std::function<void(int64_t)>& fn) {
            const int64_t block = std::max<int64_t>(1, tasks / (8 * pool->NumThreads()));
            pool->ParallelFor(tasks,
                              tf::thread::ThreadPool::SchedulingParams(
                                  tf::thread::ThreadPool::SchedulingStrategy::kFixedBlockSize,
                                  absl::nullopt, block),
                              [&fn](int64_t first, int64_t last) {
                                for (int64_t task = first; task < last; ++task) fn(task);
                              });
          });
    } catch (const std::invalid_argument& error) {
      context->CtxFailure(Invalid(error.what()));
    }
  }

 private:
  enum { kFrozen, kCoefficients, kDecays, kLengths, kKinds, kOperands, kGroups, kRates, kSeeds };
  static constexpr int kNumSettings = kSeeds + 1;

  absl::Status Flags(tf::OpKernelConstruction* context, const char* name,
                     std::vector<bool>* flags) const {
    TF_RETURN_IF_ERROR(context->GetAttr(name, flags));
    if (static_cast<int>(flags->size()) == count_) return absl::OkStatus();
    return Invalid(name, " has ", flags->size(), " entries for ", count_);
  }

  const tf::Tensor& Setting(tf::OpKernelContext* context, int which) const {
    return context->input(first_setting_ + which);
  }

  absl::Status CheckSettings(tf::OpKernelContext* context) const {
    const tf::Tensor& coefficients = Setting(context, kCoefficients);
    if (coefficients.dims() != 2 || coefficients.dim_size(0) != count_ ||
        coefficients.dim_size(1) > kMaxCoefficients) {
      return Invalid("coefficients: ", coefficients.shape().DebugString());
    }
    for (const int which : {kFrozen, kDecays, kLengths, kRates, kSeeds}) {
      const tf::Tensor& setting = Setting(context, which);
      if (which == kSeeds && setting.NumElements() == 0) continue;
      if (setting.dims() != 1 || setting.dim_size(0) != count_) {
        return Invalid("one setting for each variable, got ", setting.shape().DebugString());
      }
    }
    return absl::OkStatus();
  }

  absl::Status TakeChains(tf::OpKernelContext* context, std::vector<Variable>* variables) const {
    const auto lengths = Setting(context, kLengths).vec<int32_t>();
    const auto kinds = Setting(context, kKinds).flat<int32_t>();
    const auto operands = Setting(context, kOperands).flat<double>();
    const auto groups = Setting(context, kGroups).flat<int32_t>();
    int64_t k = 0;
    for (int i = 0; i < count_; ++i) {
      for (const int64_t end = k + lengths(i); k < end; ++k) {
        if (k >= kinds.size() || k >= operands.size() || k >= groups.size() || kinds(k) < 0 ||
            kinds(k) >= static_cast<int>(TransformKind::kCount)) {
          return Invalid("the chain of variable ", i, " is malformed");
        }
        (*variables)[i].chain.push_back(
            {static_cast<TransformKind>(kinds(k)), operands(k), groups(k)});
      }
    }
    return absl::OkStatus();
  }

  absl::Status Lookup(tf::OpKernelContext* context,
                      std::vector<tf::core::RefCountPtr<tf::Var>>* held) const {
    held->resize(first_gradient_);
    for (size_t i = 0; i < held->size(); ++i) {
      TF_RETURN_IF_ERROR(tf::LookupResource(
          context, tf::HandleFromInput(context, static_cast<int>(i)), &(*held)[i]));
    }
    return absl::OkStatus();
  }

  // In the order of their addresses, so that two steps never wait for each other.
  static absl::Status Lock(const std::vector<tf::core::RefCountPtr<tf::Var>>& held,
                           std::vector<std::unique_ptr<tf::mutex_lock>>* locks) {
    std::vector<tf::mutex*> mutexes;
    for (const auto& variable : held) mutexes.push_back(variable->mu());
    std::sort(mutexes.begin(), mutexes.end());
    if (std::adjacent_find(mutexes.begin(), mutexes.end()) != mutexes.end()) {
      return Invalid("a variable is given twice");
    }
    for (tf::mutex* mutex : mutexes) locks->push_back(std::make_unique<tf::mutex_lock>(*mutex));
    return absl::OkStatus();
  }

  absl::Status Prepare(tf::OpKernelContext* context,
                       const std::vector<tf::core::RefCountPtr<tf::Var>>& held, int i, bool frozen,
                       Variable* variable) const {
    *variable = {};
    variable->frozen = frozen;
    if (frozen) return absl::OkStatus();
    const tf::Tensor& gradient = context->input(first_gradient_ + i);
    TF_RETURN_IF_ERROR(Own(context, held[i].get(), &variable->parameter));
    const tf::Tensor& parameter = *held[i]->tensor();
    TF_RETURN_IF_ERROR(DtypeOf(parameter.dtype(), &variable->dtype));
    TF_RETURN_IF_ERROR(DtypeOf(gradient.dtype(), &variable->gradient_dtype));
    variable->gradient = gradient.data();
    variable->size = parameter.NumElements();
    tf::TensorShape expected = parameter.shape();
    if (has_rows_[i]) TF_RETURN_IF_ERROR(TakeRows(context, i, &expected, variable));
    if (gradient.shape() != expected ||
        (parameter.dtype() == tf::DT_DOUBLE) != (gradient.dtype() == tf::DT_DOUBLE)) {
      return Invalid("gradient ", i, " is ", gradient.DebugString(0), ", its variable ",
                     parameter.DebugString(0));
    }
    if (has_remainder_[i]) {
      tf::Var* const remainder = held[remainders_[i]].get();
      void* data;
      TF_RETURN_IF_ERROR(Own(context, remainder, &data));
      variable->remainder = static_cast<float*>(data);
      if (remainder->tensor()->shape() != parameter.shape() ||
          remainder->tensor()->dtype() != tf::DT_FLOAT) {
        return Invalid("the remainder of variable ", i, " is ",
                       remainder->tensor()->DebugString(0));
      }
    }
    variable->quantized = quantized_[i];
    if (variable->quantized && has_rows_[i]) return Invalid("rows of 8-bit moments");
    int next = first_slots_[i];
    for (int s = 0; s < NumSlots(rule_); ++s) {
      const tf::DataType wanted = variable->quantized                  ? tf::DT_UINT8
                                  : parameter.dtype() == tf::DT_DOUBLE ? tf::DT_DOUBLE
                                                                       : tf::DT_FLOAT;
      tf::Var* const slot = held[next++].get();
      TF_RETURN_IF_ERROR(Own(context, slot, &variable->slots[s]));
      if (slot->tensor()->shape() != parameter.shape() || slot->tensor()->dtype() != wanted) {
        return Invalid("slot ", s, " of variable ", i, " is ", slot->tensor()->DebugString(0),
                       ", the variable ", parameter.DebugString(0));
      }
      if (!variable->quantized) continue;
      tf::Var* const scales = held[next++].get();
      void* data;
      TF_RETURN_IF_ERROR(Own(context, scales, &data));
      variable->scales[s] = static_cast<float*>(data);
      const int64_t blocks = (variable->size + kQuantizedBlock - 1) / kQuantizedBlock;
      if (scales->tensor()->NumElements() != blocks || scales->tensor()->dtype() != tf::DT_FLOAT ||
          parameter.dtype() == tf::DT_DOUBLE) {
        return Invalid("the scales of slot ", s, " of variable ", i, " are ",
                       scales->tensor()->DebugString(0));
      }
    }
    const auto coefficients = Setting(context, kCoefficients).matrix<double>();
    for (int c = 0; c < coefficients.dimension(1); ++c) {
      variable->coefficients[c] = coefficients(i, c);
    }
    variable->decay = Setting(context, kDecays).vec<double>()(i);
    variable->adapted = adapted_[i];
    variable->rate = Setting(context, kRates).vec<double>()(i);
    variable->dithered = Setting(context, kSeeds).NumElements() > 0;
    if (variable->dithered) variable->seed = Setting(context, kSeeds).vec<uint32_t>()(i);
    return absl::OkStatus();
  }

  // `shape` is that of the parameter, and becomes that of its gradient.
  absl::Status TakeRows(tf::OpKernelContext* context, int i, tf::TensorShape* shape,
                        Variable* variable) const {
    const tf::Tensor& rows = context->input(rows_[i]);
    if (shape->dims() < 1 || rows.dims() != 1) {
      return Invalid("rows of variable ", i, " are ", rows.DebugString(0));
    }
    const auto numbers = rows.vec<int64_t>();
    for (int64_t r = 0; r < numbers.size(); ++r) {
      if (numbers(r) < 0 || numbers(r) >= shape->dim_size(0)) {
        return Invalid("row ", numbers(r), " of variable ", i, ", which has ", shape->dim_size(0));
      }
    }
    variable->rows = numbers.data();
    variable->num_rows = numbers.size();
    shape->set_dim(0, 1);
    variable->row_size = shape->num_elements();
    shape->set_dim(0, numbers.size());
    return absl::OkStatus();
  }

  // Gives the variable a buffer that no one reads any more. Only a tensor that somebody still holds
  // costs a copy; a variable in copy-on-read mode never gives its buffer away.
  static absl::Status Own(tf::OpKernelContext* context, tf::Var* variable, void** data) {
    if (!variable->tensor()->IsInitialized()) {
      return absl::FailedPreconditionError("a variable is not initialized");
    }
    if (!variable->copy_on_read_mode.load() && !variable->tensor()->RefCountIsOne()) {
      tf::Tensor copy;
      TF_RETURN_IF_ERROR(
          context->allocate_temp(variable->tensor()->dtype(), variable->tensor()->shape(), &copy));
      std::memcpy(copy.data(), variable->tensor()->data(), copy.TotalBytes());
      *variable->tensor() = copy;
    }
    *data = variable->tensor()->data();
    return absl::OkStatus();
  }

  Rule rule_;
  int count_;
  std::vector<bool> quantized_, has_remainder_, has_rows_, adapted_;
  // Among the inputs; the slots are those of each variable, and one past the last.
  std::vector<int> first_slots_, remainders_, rows_;
  int first_gradient_, first_setting_;
};

REGISTER_KERNEL_BUILDER(Name("Fastkeras>OptimizerStep").Device(tf::DEVICE_CPU), OptimizerStep);

}  // namespace
}  // namespace fastkeras::optimizers
