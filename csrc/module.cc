// The Python extension `fastkeras._core`: each domain binds its own functions.

#include <pybind11/pybind11.h>

#include <stdexcept>
#include <string>

#include "doors/released_gil.h"
#include "machine/instruction_set.h"
#include "machine/multiply_adds.h"
#include "machine/parallel.h"

namespace fastkeras::crf {
void BindCrf(pybind11::module_& module);
void BindReady(pybind11::module_& module);
void BindSecondOrder(pybind11::module_& module);
void BindSemiMarkov(pybind11::module_& module);
void BindWeighted(pybind11::module_& module);
}  // namespace fastkeras::crf
namespace fastkeras::optimizers {
void BindOptimizers(pybind11::module_& module);
}
namespace fastkeras::seq2seq {
void BindSeq2Seq(pybind11::module_& module);
}
namespace fastkeras::word2vec {
void BindText(pybind11::module_& module);
void BindVectors(pybind11::module_& module);
void BindWord2Vec(pybind11::module_& module);
}  // namespace fastkeras::word2vec
namespace fastkeras::word2vec::layers {
void BindLayers(pybind11::module_& module);
}

PYBIND11_MODULE(_core, module) {
  module.doc() = "Kernels for NumPy arrays, behind the engine `native`.";
  module.def("instruction_set", &fastkeras::InstructionSet);
  module.def("set_instruction_set", [](const std::string& name) {
    if (fastkeras::SetInstructionSet(name.c_str())) return;
    throw std::invalid_argument("name='" + name + "' is not of this processor");
  });
  module.def(
      "multiply_adds",
      [](int64_t times) {
        if (times < 0 || times > 1 << 24) {
          throw std::invalid_argument("times=" + std::to_string(times) + " must be 0 to 2^24");
        }
        const fastkeras::ReleasedGil released;
        return fastkeras::MultiplyAdds(times);
      },
      pybind11::arg("times"));
  module.def("num_threads", [] { return fastkeras::NumThreads(0); });
  module.def("set_num_threads", &fastkeras::SetNumThreads);
  module.def("set_worth_a_thread", &fastkeras::SetWorthAThread);
  fastkeras::crf::BindCrf(module);
  fastkeras::crf::BindReady(module);
  fastkeras::crf::BindSecondOrder(module);
  fastkeras::crf::BindSemiMarkov(module);
  fastkeras::crf::BindWeighted(module);
  fastkeras::optimizers::BindOptimizers(module);
  fastkeras::seq2seq::BindSeq2Seq(module);
  fastkeras::word2vec::BindText(module);
  fastkeras::word2vec::BindVectors(module);
  fastkeras::word2vec::BindWord2Vec(module);
  fastkeras::word2vec::layers::BindLayers(module);
}
