// A back-off n-gram model, compiled for the pronunciations of one lexicon.
//
// Words are named by rank: the place of a pronunciation in the lexicon sorted by tokens. A prefix of pronunciations is
// then a range of ranks, and the best word that a history allows below a prefix is the largest number in a range of
// one sorted array. After the last rank come those of </s> and of <unk>.
//
// A state is the longest history that makes a difference to what follows; two paths in the same state have the same
// future. State 0 is the empty history.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace asr {

class NgramModel {
public:
    struct Step {
        float log_prob;  // natural logarithm
        uint32_t state;
    };

    // No model: everything has probability one.
    explicit NgramModel(size_t ranks);
    // From ARPA text. words: the word of each rank. N-grams with words that are not among them are dropped.
    // Throws std::invalid_argument where the text is not as it should be.
    NgramModel(std::string_view arpa, const std::vector<std::string_view>& words);

    bool empty() const { return empty_; }
    uint32_t start() const { return start_; }
    size_t states() const { return states_.size(); }
    size_t bytes() const;
    Step score(uint32_t state, uint32_t rank) const;
    float end(uint32_t state) const { return score(state, ranks_).log_prob; }
    float unigram(uint32_t rank) const { return unigrams_[scored_as_[rank]].log_prob; }
    // An upper bound of the scores of ranks low <= rank < high, whose largest unigram score is given.
    float best(uint32_t state, uint32_t low, uint32_t high, float unigram) const;
    // And of those of all ranks.
    float best(uint32_t state) const { return states_[state].best; }

private:
    friend class ArpaCompiler;
    struct State {
        uint32_t first, end;  // its arcs
        float backoff;
        uint32_t suffix;  // the state to back off to
        float best;       // the largest score of any word but </s>
    };
    uint32_t arc_from(const State& state, uint32_t rank) const;

    bool empty_ = true;
    uint32_t ranks_ = 0, start_ = 0;
    std::vector<uint32_t> scored_as_;  // rank -> itself, or that of <unk>
    std::vector<Step> unigrams_;       // by rank
    std::vector<State> states_;
    std::vector<uint32_t> arc_ranks_;  // ascending within a state
    std::vector<float> arc_log_probs_;
    std::vector<uint32_t> arc_states_;
};

}  // namespace asr
