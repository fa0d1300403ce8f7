// The second translation unit of the program in a.cpp.

#include <mole/mole.hpp>

mole::Tensor<double> make_in_b(mole::Index rows, mole::Index columns);

mole::Tensor<double> make_in_b(mole::Index rows, mole::Index columns) {
  return mole::Tensor<double>::ones({rows, columns});
}
