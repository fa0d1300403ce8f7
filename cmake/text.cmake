# What tokenizers need: ICU, and libsentencepiece for SentencePiece models. Neither is downloaded: both are large, and
# packaged everywhere. Installed beside moleConfig.cmake.

# mole_find_icu(): the targets ICU::uc and ICU::i18n, for all directories, where ICU is installed.
macro(mole_find_icu)
  if(NOT TARGET ICU::uc OR NOT TARGET ICU::i18n)
    find_package(ICU QUIET COMPONENTS uc i18n)
    foreach(library IN ITEMS uc i18n)
      if(TARGET ICU::${library})
        set_target_properties(ICU::${library} PROPERTIES IMPORTED_GLOBAL TRUE)
      endif()
    endforeach()
  endif()
endmacro()

# mole_find_sentencepiece(): the target mole_sentencepiece_library where it is installed; it has no CMake package.
macro(mole_find_sentencepiece)
  find_path(MOLE_SENTENCEPIECE_INCLUDE sentencepiece_processor.h)
  find_library(MOLE_SENTENCEPIECE_LIBRARY sentencepiece)
  mark_as_advanced(MOLE_SENTENCEPIECE_INCLUDE MOLE_SENTENCEPIECE_LIBRARY)
  if(MOLE_SENTENCEPIECE_INCLUDE AND MOLE_SENTENCEPIECE_LIBRARY AND NOT TARGET mole_sentencepiece_library)
    add_library(mole_sentencepiece_library INTERFACE IMPORTED GLOBAL)
    target_include_directories(mole_sentencepiece_library SYSTEM INTERFACE "${MOLE_SENTENCEPIECE_INCLUDE}")
    target_link_libraries(mole_sentencepiece_library INTERFACE "${MOLE_SENTENCEPIECE_LIBRARY}")
  endif()
endmacro()
