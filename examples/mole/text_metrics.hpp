#pragma once
// How like an answer is to the one that was wanted: exact match, token F1, ROUGE-L and BLEU. Each is from 0 to 1.

#include <string>
#include <string_view>
#include <vector>

namespace program {

/// What a model wrote and what it should have written.
struct Answer {
  std::string written, wanted;
};

/// The text without the white space at its ends.
std::string trimmed(std::string_view text);

/// Whether both texts are the same but for white space at their ends.
bool exact_match(const Answer& answer);

/// SQuAD's F1 (Rajpurkar et al. 2016) of the words that both texts share, counted with their repetitions. Words are
/// lower-case, without ASCII punctuation and without "a", "an", "the". Two empty texts have 1.
double token_f1(const Answer& answer);

/// ROUGE-L's F1 (Lin 2004): of the longest common subsequence of words. Words are lower-case runs of letters and
/// digits of any script, where the reference implementation knows ASCII's alone. 0 where either has no words.
double rouge_l(const Answer& answer);

/// BLEU's tokens of a text as mteval-v13a splits it, which is sacrebleu's default.
std::vector<std::string> bleu_tokens(std::string_view text);

/// Corpus BLEU (Papineni et al. 2002) of up to four-grams with brevity penalty, one reference each; the signature in
/// sacrebleu's terms is nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp. 0 without answers.
double corpus_bleu(const std::vector<Answer>& answers);

/// The means of a set of answers; BLEU is the corpus's.
struct TextScores {
  double exact = 0, f1 = 0, rouge_l = 0, bleu = 0;
};

/// All of them. Throws mole::ArgumentError for no answers.
TextScores score(const std::vector<Answer>& answers);

}  // namespace program
