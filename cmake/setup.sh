# Sourced by the scripts that build (tests/run, examples/*/run, .ci/run): installs through apt what is
# missing, where that is allowed, and says what it does. Set MOLE_NO_APT=1 to forbid apt.
#
# mole_setup GROUP...   packages of these groups: base tests numbers mole pictures ci
# mole_need_icu         stops with a message where ICU is missing
# mole_need_png         the same for libpng
# mole_configure ARG... configures the release preset
# mole_jobs             compile jobs at a time: by cores and by memory

# Programs are written PROGRAM:PACKAGE: any program of that name will do, whoever installed it.
mole_packages() {
  case $1 in
    base)
      echo "c++:g++ cmake:cmake make:make ca-certificates"
      echo "libeigen3-dev libopenblas-openmp-dev nlohmann-json3-dev" ;;
    tests) echo "doctest-dev libnlopt-dev libicu-dev libsentencepiece-dev" ;;
    numbers) echo "libicu-dev libcli11-dev libnlopt-dev gnuplot:gnuplot-nox" ;;
    mole) echo "libicu-dev libcli11-dev libnlopt-dev libsentencepiece-dev gnuplot:gnuplot-nox" ;;
    pictures) echo "libpng-dev libcli11-dev gnuplot:gnuplot-nox" ;;
    ci) echo "clang-format-14:clang-format-14 clang++-14:clang-14 libclang-rt-14-dev libomp-14-dev libbenchmark-dev"
      echo "mpicxx:libopenmpi-dev mpirun:openmpi-bin" ;;
  esac
}

mole_say() { printf 'mole: %s\n' "$*"; }

mole_fail() {
  printf 'mole: %s\n' "$@" >&2
  exit 1
}

# Prints the packages of the groups that are not there.
mole_missing() {
  local group entry
  for group in "$@"; do
    for entry in $(mole_packages "$group"); do
      case $entry in
        *:*) command -v "${entry%%:*}" >/dev/null || echo "${entry##*:}" ;;
        *) dpkg -s "$entry" 2>/dev/null | grep -q '^Status: install ok installed' || echo "$entry" ;;
      esac
    done
  done
}

# Runs apt-get as root, quietly and without questions; fails where there is no right to.
mole_apt() {
  local as_root=()
  if [ "$(id -u)" != 0 ]; then as_root=(sudo -n); fi
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq -o Dpkg::Use-Pty=0 "$@"
}

mole_may_apt() {
  [ -z "${MOLE_NO_APT:-}" ] && command -v apt-get >/dev/null && command -v dpkg >/dev/null &&
    { [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null; }
}

mole_install() {
  local package
  mole_say "installing through apt: $*"
  # Lists that are missing or old do not know the packages' present versions.
  if ! mole_apt install -y --no-install-recommends "$@" >/dev/null 2>&1; then
    mole_say "apt-get update"
    mole_apt update || mole_say "apt-get update failed; going on with what is known"
    if ! mole_apt install -y --no-install-recommends "$@" >/dev/null; then
      # One that this release lacks must not keep the others out.
      for package in "$@"; do
        mole_apt install -y --no-install-recommends "$package" >/dev/null ||
          mole_say "apt could not install $package"
      done
    fi
  fi
}

mole_setup() {
  local missing program
  missing=$(mole_missing "$@" | tr '\n' ' ')
  if [ -n "$missing" ]; then
    if mole_may_apt; then
      # shellcheck disable=SC2086
      mole_install $missing
      missing=$(mole_missing "$@" | tr '\n' ' ')
    else
      mole_say "apt may not be used here: MOLE_NO_APT is set, or there is no apt, or neither root nor sudo" \
        "without a password"
    fi
  fi
  for program in c++ cmake make; do
    command -v "$program" >/dev/null || mole_fail "there is no $program here and it could not be installed." \
      "As root, run: apt-get update && apt-get install -y $missing" "then run this again."
  done
  if [ -n "$missing" ]; then
    mole_say "not installed: ${missing% }: CMake downloads the libraries among them; without OpenBLAS," \
      "Eigen multiplies; without gnuplot there are no plots; without ICU or SentencePiece, not their tokenizers;" \
      "without libpng the program pictures is not built"
  fi
}

# For who cannot do without numbers or mole: CMake leaves both out where ICU is missing.
mole_need_icu() {
  if [ -z "${ICU_ROOT:-}" ] && ! echo '#include <unicode/rbnf.h>' | c++ -E -x c++ - >/dev/null 2>&1; then
    mole_fail "ICU's headers are not here and could not be installed; there is no download for them." \
      "As root, run: apt-get update && apt-get install -y libicu-dev" \
      "or point ICU_ROOT at an installation, then run this again."
  fi
}

# For who cannot do without pictures: CMake leaves it out where libpng is missing.
mole_need_png() {
  if ! echo '#include <png.h>' | c++ -E -x c++ - >/dev/null 2>&1; then
    mole_fail "libpng's headers are not here and could not be installed; there is no download for them." \
      "As root, run: apt-get update && apt-get install -y libpng-dev" "then run this again."
  fi
}

mole_configure() {
  cmake --preset release "$@" && return
  mole_fail "the configuration failed: the message above names the remedy." "On Debian or Ubuntu, as root:" \
    "apt-get update && apt-get install -y $(mole_missing base tests numbers mole pictures | tr '\n' ' ')"
}

mole_jobs() {
  local cores memory
  cores=$(nproc 2>/dev/null || echo 1)
  memory=$(awk '/^MemAvailable/ {print int($2 / 1500000)}' /proc/meminfo 2>/dev/null || echo 1)
  if [ "${memory:-1}" -lt "$cores" ]; then cores=$memory; fi
  if [ "$cores" -lt 1 ]; then cores=1; fi
  echo "$cores"
}
