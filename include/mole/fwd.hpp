#pragma once
// Forward declarations and default template arguments, only: `Tensor<>` is a float tensor on the CPU.

namespace mole {

struct Cpu;

template <class T = float, class B = Cpu>
class Tensor;

}  // namespace mole
