// expect: narrowing conversion|cannot be narrowed
// An extent is a whole number: a computed 2.5 must not silently become 2.

#include <mole/core/shape.hpp>

int main() {
#ifdef MOLE_COMPILE_FAIL_OK
  const mole::Shape shape{2, 3};
#else
  const mole::Shape shape{2.5, 3};
#endif
  return shape.rank();
}
