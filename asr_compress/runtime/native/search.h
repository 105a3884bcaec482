// CTC beam search over the words of a lexicon with an n-gram model: token passing in a prefix tree.
//
// A hypothesis is a place in the tree, a state of the model of language and whether the last frame was a blank. Of
// two paths to the same hypothesis only the better has a future, so the best path of each is all that is kept
// (Viterbi), and with it when each of its tokens sounded. A word enters the score with its last token, where the path
// goes on at the root; before, the best word that can still come of a node is counted instead (look-ahead), exactly,
// in the context at hand. See Ney and Ortmanns, "Progress in dynamic programming search for LVCSR", 2000; Hannun et
// al., "First-pass large vocabulary continuous speech recognition using bi-directional recurrent DNNs", 2014.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>
#include <vector>

#include "ngram.h"

namespace asr {

constexpr int32_t kNoWord = -1;

// Pronunciations, each a word's and a string of tokens, as one prefix tree, and the n-gram model compiled for them.
// Only read once it is built: threads may share it.
class WordGraph {
public:
    struct Node {
        uint32_t token;
        uint32_t first_child, children;  // neighbors, by token
        uint32_t low, high;              // ranks of the pronunciations that begin so
        uint32_t ends;                   // the first so many of them end here
        float unigram;                   // the best of their words, without context
    };
    struct Lexicon {
        std::vector<std::string_view> words;
        std::vector<uint32_t> word_of;          // each pronunciation's
        std::vector<uint32_t> starts, tokens;   // each pronunciation's tokens: starts[i] to starts[i + 1]
    };

    // tokens: how many there are; 0 is the blank. boundary: the token that ends each word and may stand at the start
    // and after another boundary as well; tokens if there is none. arpa: null for no model of language.
    // Throws std::invalid_argument where a number is out of range or the model not as it should be.
    WordGraph(uint32_t tokens, uint32_t boundary, const Lexicon& lexicon, const std::string_view* arpa);

    uint32_t tokens() const { return tokens_; }
    uint32_t boundary() const { return boundary_; }
    const std::vector<Node>& nodes() const { return nodes_; }
    const NgramModel& model() const { return model_; }
    int32_t word(uint32_t rank) const { return static_cast<int32_t>(words_[rank]); }
    size_t bytes() const { return nodes_.size() * sizeof(Node) + words_.size() * 4 + model_.bytes(); }

private:
    uint32_t tokens_, boundary_;
    std::vector<uint32_t> words_;  // by rank
    NgramModel model_;
    std::vector<Node> nodes_;  // nodes_[0] is the root
};

struct SearchWeights {
    size_t beam_width, beam_tokens;
    double beam_threshold, lm_weight, word_score;
};

class Search {
public:
    struct Label {
        int32_t token, word;  // word: the one that ends with this token, or kNoWord
        int32_t begin, end;   // frames
    };
    struct Result {
        double score;
        std::vector<Label> labels;
    };

    Search(std::shared_ptr<const WordGraph> graph, const SearchWeights& weights);
    Search(const Search& other);
    Search& operator=(const Search&) = delete;

    const WordGraph& graph() const { return *graph_; }
    void push(const float* log_probs, size_t frames);
    // final: the utterance ends here, so that words must be complete and </s> is scored.
    Result result(bool final) const;
    size_t bytes() const;

private:
    struct Hypothesis {
        double path;   // score of what is behind
        double score;  // and of what is sure to come
        uint32_t place, state;
        int32_t trace;
        uint32_t end;  // frame after the last one of the last token
    };
    struct Candidate : Hypothesis {
        int32_t token, word;  // the label that is new; token -1 for none
    };
    // A label of a path. Paths share their beginnings.
    struct Trace {
        int32_t before, token, word;
        uint32_t begin, end_before;
    };
    struct Slot {
        uint32_t round, candidate;  // of another round: free
    };
    struct Seen {
        uint64_t key;
        double value;
    };
    void step(const float* log_probs);
    void choose_tokens(const float* log_probs);
    void wait(const Hypothesis& h, const float* log_probs);
    void expand(const Hypothesis& h);
    void enter(const Hypothesis& h, double path, uint32_t node);
    void add(const Candidate& candidate);
    Slot* slot_of(const Candidate& candidate);
    void tighten();
    void survive();
    void collect_traces();
    double look_ahead(uint32_t node, uint32_t state);
    uint32_t node_of(uint32_t place) const;
    uint32_t token_of(uint32_t place) const;
    uint32_t blank_place(uint32_t node) const { return node ? node + nodes_ : 0; }
    uint32_t root_place(uint32_t token) const { return 2 * nodes_ + token; }
    void append_labels(int32_t trace, uint32_t end, std::vector<Label>& labels) const;

    // What a search is: copied by its copy.
    std::shared_ptr<const WordGraph> graph_;
    SearchWeights weights_;
    uint32_t nodes_;
    uint32_t frame_ = 0;
    std::vector<Hypothesis> hypotheses_;
    std::vector<Trace> traces_;
    size_t collect_at_ = kCollectAt;

    // Work space of a frame.
    static constexpr size_t kCollectAt = 1 << 16;
    static constexpr size_t kSeen = 1 << 14;
    std::vector<float> allowed_;             // by token: its log probability, or so low that nothing survives it
    std::vector<uint32_t> chosen_, scratch_tokens_;
    float best_token_ = 0;
    std::vector<Candidate> candidates_;
    std::vector<Slot> slots_;
    uint32_t round_ = 0;
    std::vector<double> scratch_scores_;
    size_t tighten_at_ = 0;
    double best_ = 0, cutoff_ = 0;
    std::vector<Seen> seen_;  // look-ahead values, each in the one slot that its key has
};

}  // namespace asr
