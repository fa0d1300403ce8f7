#pragma once
// OpenMP's pragmas, for compilers that know them. Without -fopenmp a pragma would be ignored too, but compilers
// warn of one that they do not know.

/// MOLE_OMP("omp parallel for") before a loop is `#pragma omp parallel for`; nothing without OpenMP.
#if defined(_OPENMP)
#  define MOLE_OMP(pragma) _Pragma(pragma)
#else
#  define MOLE_OMP(pragma)
#endif
