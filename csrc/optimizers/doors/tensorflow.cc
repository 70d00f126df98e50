// The step as a TensorFlow op that updates resource variables in place. TensorFlow's C API does not
// reach them, so this library is built from the headers of one TensorFlow, and fits its minor
// version only.

#define EIGEN_USE_THREADS

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>
#include <stdexcept>
#include <vector>

#include "machine/parallel.h"
#include "optimizers/doors/step_inputs.h"
#include "tensorflow/core/framework/op.h"
#include "tensorflow/core/framework/op_kernel.h"
#include "tensorflow/core/framework/resource_mgr.h"
#include "tensorflow/core/framework/resource_var.h"
#include "tensorflow/core/framework/shape_inference.h"

namespace fastkeras::optimizers {
namespace {

namespace tf = tensorflow;

// TensorFlow itself refuses a graph whose rule is none of these.
std::string RuleAttribute() {
  std::string names;
  for (const RuleFacts& facts : kRuleFacts) {
    absl::StrAppend(&names, names.empty() ? "" : ", ", "'", facts.name, "'");
  }
  return absl::StrCat("rule: {", names, "}");
}

REGISTER_OP("Fastkeras>OptimizerStep")
    .Attr(RuleAttribute())
    .Attr("N: int >= 1")
    .Attr("M: int >= 0")
    .Attr("num_remainders: int >= 0")
    .Attr("num_rows: int >= 0")
    .Attr("quantized: list(bool)")
    .Attr("has_remainder: list(bool)")
    .Attr("has_rows: list(bool)")
    .Attr("adapted: list(bool)")
    .Attr("dithered: list(bool)")
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
    .Input("seeds: uint32")  // for what is rounded at random, or none
    .Output("finite: bool")
    .SetIsStateful()
    .SetShapeFn([](tf::shape_inference::InferenceContext* context) {
      context->set_output(0, context->Scalar());
      return absl::OkStatus();
    });

Element ElementOf(tf::DataType type) {
  switch (type) {
    case tf::DT_HALF:
      return Element::kFloat16;
    case tf::DT_BFLOAT16:
      return Element::kBfloat16;
    case tf::DT_FLOAT:
      return Element::kFloat32;
    case tf::DT_DOUBLE:
      return Element::kFloat64;
    case tf::DT_BOOL:
      return Element::kBool;
    case tf::DT_UINT8:
      return Element::kUint8;
    case tf::DT_INT32:
      return Element::kInt32;
    case tf::DT_UINT32:
      return Element::kUint32;
    case tf::DT_INT64:
      return Element::kInt64;
    default:
      return Element::kOther;
  }
}

void Take(const tf::Tensor& tensor, Array* array) {
  array->data = tensor.data();
  array->shape.clear();
  for (int d = 0; d < tensor.dims(); ++d) array->shape.push_back(tensor.dim_size(d));
  array->type = ElementOf(tensor.dtype());
}

class OptimizerStep : public tf::OpKernel {
 public:
  explicit OptimizerStep(tf::OpKernelConstruction* context) : tf::OpKernel(context) {
    StepAttributes attributes;
    OP_REQUIRES_OK(context, context->GetAttr("rule", &attributes.rule));
    OP_REQUIRES_OK(context, context->GetAttr("N", &attributes.count));
    OP_REQUIRES_OK(context, context->GetAttr("M", &attributes.num_slots));
    OP_REQUIRES_OK(context, context->GetAttr("quantized", &attributes.quantized));
    OP_REQUIRES_OK(context, context->GetAttr("has_remainder", &attributes.has_remainder));
    OP_REQUIRES_OK(context, context->GetAttr("has_rows", &attributes.has_rows));
    OP_REQUIRES_OK(context, context->GetAttr("adapted", &attributes.adapted));
    OP_REQUIRES_OK(context, context->GetAttr("dithered", &attributes.dithered));
    try {
      inputs_.Set(attributes, context->num_inputs(), kNumSettings);
    } catch (const std::invalid_argument& error) {
      context->CtxFailure(absl::InvalidArgumentError(error.what()));
    }
  }

  void Compute(tf::OpKernelContext* context) override {
    std::vector<tf::core::RefCountPtr<tf::Var>> held;
    OP_REQUIRES_OK(context, Lookup(context, &held));
    std::vector<std::unique_ptr<tf::mutex_lock>> locks;
    OP_REQUIRES_OK(context, Lock(held, &locks));
    const auto array = [&](int i, Array* it) {
      Take(i < inputs_.num_held() ? Own(context, held[i].get()) : context->input(i), it);
    };
    StepSettings settings;
    int next = inputs_.first_setting();
    for (Array* const setting : {&settings.frozen, &settings.coefficients, &settings.decays,
                                 &settings.lengths, &settings.kinds, &settings.operands,
                                 &settings.groups, &settings.rates, &settings.seeds}) {
      Take(context->input(next++), setting);
    }
    tf::Tensor* finite;
    OP_REQUIRES_OK(context, context->allocate_output(0, tf::TensorShape({}), &finite));
    tf::thread::ThreadPool* const pool =
        context->device()->tensorflow_cpu_worker_threads()->workers;
    try {
      StepVariables step = inputs_.Read(array, settings);
      finite->scalar<bool>()() =
          Step(inputs_.rule(), step.variables,
               [pool](int64_t tasks, const std::function<void(int64_t)>& fn) {
                 const int64_t block = std::max<int64_t>(1, tasks / (8 * pool->NumThreads()));
                 FirstException exception;  // TensorFlow's pool would not survive one
                 pool->ParallelFor(tasks,
                                   tf::thread::ThreadPool::SchedulingParams(
                                       tf::thread::ThreadPool::SchedulingStrategy::kFixedBlockSize,
                                       absl::nullopt, block),
                                   [&](int64_t first, int64_t last) {
                                     exception.Catch([&] {
                                       for (int64_t task = first; task < last; ++task) fn(task);
                                     });
                                   });
                 exception.Rethrow();
               });
    } catch (const Failed& failed) {
      context->CtxFailure(failed.status);
    } catch (const std::invalid_argument& error) {
      context->CtxFailure(absl::InvalidArgumentError(error.what()));
    } catch (const std::bad_alloc&) {
      context->CtxFailure(absl::ResourceExhaustedError("out of memory"));
    }
  }

 private:
  struct Failed {
    absl::Status status;
  };

  absl::Status Lookup(tf::OpKernelContext* context,
                      std::vector<tf::core::RefCountPtr<tf::Var>>* held) const {
    held->resize(inputs_.num_held());
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
      return absl::InvalidArgumentError("a variable is given twice");
    }
    for (tf::mutex* mutex : mutexes) locks->push_back(std::make_unique<tf::mutex_lock>(*mutex));
    return absl::OkStatus();
  }

  // Makes sure that nobody else reads the variable's buffer. This copies it only if somebody still
  // holds the tensor; a variable in copy-on-read mode never shares its buffer.
  static const tf::Tensor& Own(tf::OpKernelContext* context, tf::Var* variable) {
    if (!variable->tensor()->IsInitialized()) {
      throw Failed{absl::FailedPreconditionError("a variable is not initialized")};
    }
    if (!variable->copy_on_read_mode.load() && !variable->tensor()->RefCountIsOne()) {
      tf::Tensor copy;
      const absl::Status status =
          context->allocate_temp(variable->tensor()->dtype(), variable->tensor()->shape(), &copy);
      if (!status.ok()) throw Failed{status};
      std::memcpy(copy.data(), variable->tensor()->data(), copy.TotalBytes());
      *variable->tensor() = copy;
    }
    return *variable->tensor();
  }

  StepInputs inputs_;
};

REGISTER_KERNEL_BUILDER(Name("Fastkeras>OptimizerStep").Device(tf::DEVICE_CPU), OptimizerStep);

}  // namespace
}  // namespace fastkeras::optimizers
