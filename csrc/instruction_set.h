// Which of the compiled kernels answer: those of the widest instruction set that this processor
// has.

#ifndef FASTKERAS_INSTRUCTION_SET_H_
#define FASTKERAS_INSTRUCTION_SET_H_

namespace fastkeras {

// "avx512", "avx2" or "portable". SetInstructionSet lets a test take a lesser one; it returns
// false, and changes nothing, if this processor has no such set.
const char* InstructionSet();
bool SetInstructionSet(const char* name);

// Of the kernels of three instruction sets, the current one's; on another processor than x86-64
// only the first exists.
enum InstructionSetIndex { kPortable, kAvx2, kAvx512 };
InstructionSetIndex CurrentInstructionSet();

}  // namespace fastkeras

#endif  // FASTKERAS_INSTRUCTION_SET_H_
