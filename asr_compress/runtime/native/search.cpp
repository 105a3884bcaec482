#include "search.h"

#include <algorithm>
#include <functional>
#include <limits>
#include <numeric>
#include <stdexcept>
#include <string>

namespace asr {
namespace {

constexpr double kNever = -std::numeric_limits<double>::infinity();
constexpr float kBarred = -std::numeric_limits<float>::infinity();
constexpr size_t kMostPronunciations = 1u << 28;

uint64_t mixed(uint64_t key) {
    key *= 0x9e3779b97f4a7c15u;
    return key ^ (key >> 29);
}

void check(const WordGraph::Lexicon& lexicon, uint32_t tokens) {
    size_t count = lexicon.word_of.size();
    if (count == 0 || count > kMostPronunciations || lexicon.tokens.size() > kMostPronunciations)
        throw std::invalid_argument("a lexicon must have at least one pronunciation, and fewer than 2**28 tokens");
    if (lexicon.starts.size() != count + 1 || lexicon.starts.front() != 0 ||
        lexicon.starts.back() != lexicon.tokens.size())
        throw std::invalid_argument("starts do not divide the tokens into pronunciations");
    for (size_t i = 0; i < count; i++) {
        if (lexicon.starts[i] >= lexicon.starts[i + 1])
            throw std::invalid_argument("pronunciation " + std::to_string(i) + " has no tokens");
        if (lexicon.word_of[i] >= lexicon.words.size())
            throw std::invalid_argument("pronunciation " + std::to_string(i) + " is of no word");
    }
    for (uint32_t token : lexicon.tokens)
        if (token == 0 || token >= tokens)
            throw std::invalid_argument("a pronunciation has token " + std::to_string(token) + "; it must be 1 to " +
                                        std::to_string(tokens - 1));
}

// Pronunciations by tokens, a beginning before what it begins, then by word.
std::vector<uint32_t> ranked(const WordGraph::Lexicon& lexicon) {
    std::vector<uint32_t> order(lexicon.word_of.size());
    std::iota(order.begin(), order.end(), 0u);
    auto at = [&](uint32_t i) { return lexicon.tokens.begin() + lexicon.starts[i]; };
    std::sort(order.begin(), order.end(), [&](uint32_t a, uint32_t b) {
        auto [left, right] = std::mismatch(at(a), at(a + 1), at(b), at(b + 1));
        if (left != at(a + 1) && right != at(b + 1)) return *left < *right;
        if (left != at(a + 1) || right != at(b + 1)) return left == at(a + 1);
        return lexicon.word_of[a] < lexicon.word_of[b];
    });
    return order;
}

// Breadth first, so that the children of a node are neighbors.
std::vector<WordGraph::Node> tree_of(const WordGraph::Lexicon& lexicon, const std::vector<uint32_t>& order) {
    uint32_t count = static_cast<uint32_t>(order.size());
    std::vector<WordGraph::Node> nodes = {{0, 0, 0, 0, count, 0, 0.0f}};
    std::vector<uint32_t> depths = {0};
    auto length = [&](uint32_t rank) { return lexicon.starts[order[rank] + 1] - lexicon.starts[order[rank]]; };
    for (size_t n = 0; n < nodes.size(); n++) {
        uint32_t depth = depths[n], rank = nodes[n].low, high = nodes[n].high;
        while (rank < high && length(rank) == depth) rank++;
        nodes[n].ends = rank - nodes[n].low;
        nodes[n].first_child = static_cast<uint32_t>(nodes.size());
        while (rank < high) {
            uint32_t low = rank, token = lexicon.tokens[lexicon.starts[order[rank]] + depth];
            while (rank < high && lexicon.tokens[lexicon.starts[order[rank]] + depth] == token) rank++;
            nodes.push_back({token, 0, 0, low, rank, 0, 0.0f});
            depths.push_back(depth + 1);
        }
        nodes[n].children = static_cast<uint32_t>(nodes.size()) - nodes[n].first_child;
    }
    return nodes;
}

NgramModel model_of(const WordGraph::Lexicon& lexicon, const std::vector<uint32_t>& order,
                    const std::string_view* arpa) {
    if (!arpa) return NgramModel(order.size());
    std::vector<std::string_view> words;
    words.reserve(order.size());
    for (uint32_t i : order) words.push_back(lexicon.words[lexicon.word_of[i]]);
    return NgramModel(*arpa, words);
}

}  // namespace

WordGraph::WordGraph(uint32_t tokens, uint32_t boundary, const Lexicon& lexicon, const std::string_view* arpa)
    : tokens_(tokens), boundary_(boundary), model_(0) {
    if (boundary == 0 || boundary > tokens) throw std::invalid_argument("the boundary is no token but the blank");
    check(lexicon, tokens);
    std::vector<uint32_t> order = ranked(lexicon);
    for (uint32_t i : order) words_.push_back(lexicon.word_of[i]);
    model_ = model_of(lexicon, order, arpa);
    nodes_ = tree_of(lexicon, order);
    for (Node& node : nodes_) {
        node.unigram = model_.unigram(node.low);
        for (uint32_t rank = node.low; rank < node.high; rank++)
            node.unigram = std::max(node.unigram, model_.unigram(rank));
    }
}

// A place says where a path is in the tree, and the last token where that matters. At the root it is the last token
// of the word before, which may go on. In order: the root after a blank and inner nodes within their token; inner
// nodes after a blank; the root within each token.
uint32_t Search::node_of(uint32_t place) const {
    return place < nodes_ ? place : place < 2 * nodes_ ? place - nodes_ : 0;
}

uint32_t Search::token_of(uint32_t place) const {
    if (place < nodes_) return place ? graph_->nodes()[place].token : 0;
    return place < 2 * nodes_ ? 0 : place - 2 * nodes_;
}

Search::Search(std::shared_ptr<const WordGraph> graph, const SearchWeights& weights)
    : graph_(std::move(graph)), weights_(weights), nodes_(static_cast<uint32_t>(graph_->nodes().size())) {
    if (weights.beam_width == 0 || weights.beam_tokens == 0)
        throw std::invalid_argument("beam_width and beam_tokens must be at least 1");
    uint32_t start = graph_->model().start();
    hypotheses_.push_back({0.0, look_ahead(0, start), 0, start, -1, 0});
}

Search::Search(const Search& other)
    : graph_(other.graph_),
      weights_(other.weights_),
      nodes_(other.nodes_),
      frame_(other.frame_),
      hypotheses_(other.hypotheses_),
      traces_(other.traces_),
      collect_at_(other.collect_at_) {}

size_t Search::bytes() const {
    return hypotheses_.capacity() * sizeof(Hypothesis) + traces_.capacity() * sizeof(Trace) +
           candidates_.capacity() * sizeof(Candidate) + slots_.capacity() * sizeof(Slot) +
           seen_.capacity() * sizeof(Seen);
}

void Search::push(const float* log_probs, size_t frames) {
    if (frames > static_cast<size_t>(INT32_MAX) - frame_) throw std::invalid_argument("the utterance is too long");
    for (size_t t = 0; t < frames; t++) step(log_probs + t * graph_->tokens());
}

void Search::step(const float* log_probs) {
    if (hypotheses_.empty()) return;  // only numbers that are none lead here
    choose_tokens(log_probs);
    candidates_.clear();
    round_++;
    best_ = cutoff_ = kNever;
    tighten_at_ = SIZE_MAX;
    // What waits comes first: it is soon done, and bars most of what could begin.
    for (const Hypothesis& h : hypotheses_) wait(h, log_probs);
    tighten();
    for (const Hypothesis& h : hypotheses_) expand(h);
    survive();
    frame_++;
    if (traces_.size() >= collect_at_) collect_traces();
}

// The most probable tokens: only they begin anew.
void Search::choose_tokens(const float* log_probs) {
    size_t tokens = graph_->tokens(), kept = std::min(weights_.beam_tokens, tokens - 1);
    scratch_tokens_.resize(tokens - 1);
    std::iota(scratch_tokens_.begin(), scratch_tokens_.end(), 1u);
    auto likelier = [&](uint32_t a, uint32_t b) {
        return log_probs[a] > log_probs[b] || (log_probs[a] == log_probs[b] && a < b);
    };
    std::partial_sort(scratch_tokens_.begin(), scratch_tokens_.begin() + static_cast<long>(kept),
                      scratch_tokens_.end(), likelier);
    chosen_.assign(scratch_tokens_.begin(), scratch_tokens_.begin() + static_cast<long>(kept));
    allowed_.assign(tokens, kBarred);
    for (uint32_t token : chosen_) allowed_[token] = log_probs[token];
    best_token_ = chosen_.empty() ? kBarred : log_probs[chosen_[0]];
}

// The paths that begin no token: a blank follows, or the last token lasts.
void Search::wait(const Hypothesis& h, const float* log_probs) {
    uint32_t token = token_of(h.place);
    Candidate next{h, -1, kNoWord};
    if (token) {
        next.path = h.path + log_probs[token];
        next.score = h.score + log_probs[token];
        next.end = frame_ + 1;
        add(next);
    }
    next.path = h.path + log_probs[0];
    next.score = h.score + log_probs[0];
    next.place = blank_place(node_of(h.place));
    next.end = h.end;
    add(next);
}

void Search::expand(const Hypothesis& h) {
    uint32_t node = node_of(h.place), last = token_of(h.place);
    double begun = node ? 0.0 : weights_.word_score;
    // The look-ahead never grows on the way into a word.
    if (!(h.score + begun + best_token_ >= cutoff_) && !(h.score + best_token_ >= cutoff_)) return;
    if (node == 0 && graph_->boundary() < graph_->tokens() && graph_->boundary() != last) {
        uint32_t boundary = graph_->boundary();
        Candidate next{h, static_cast<int32_t>(boundary), kNoWord};
        next.path = h.path + allowed_[boundary];
        next.score = h.score + allowed_[boundary];
        next.place = root_place(boundary);
        next.end = frame_ + 1;
        add(next);
    }
    const WordGraph::Node* nodes = graph_->nodes().data();
    const WordGraph::Node *first = nodes + nodes[node].first_child, *end = first + nodes[node].children;
    auto enter_child = [&](const WordGraph::Node* child) {
        double step = begun + allowed_[child->token];
        if (child->token != last && h.score + step >= cutoff_)
            enter(h, h.path + step, static_cast<uint32_t>(child - nodes));
    };
    if (nodes[node].children <= 8 * chosen_.size()) {
        for (const WordGraph::Node* child = first; child < end; child++) enter_child(child);
    } else {
        for (uint32_t token : chosen_) {
            auto before = [](const WordGraph::Node& child, uint32_t wanted) { return child.token < wanted; };
            const WordGraph::Node* child = std::lower_bound(first, end, token, before);
            if (child < end && child->token == token) enter_child(child);
        }
    }
}

// The path goes to a node: on its way to longer words, and to the root with each word that ends there.
void Search::enter(const Hypothesis& h, double path, uint32_t node_index) {
    const WordGraph::Node& node = graph_->nodes()[node_index];
    double score = path + look_ahead(node_index, h.state);
    if (!(score >= cutoff_)) return;
    Candidate next{{path, score, node_index, h.state, h.trace, h.end}, static_cast<int32_t>(node.token), kNoWord};
    if (node.children) add(next);
    next.place = root_place(node.token);
    for (uint32_t rank = node.low; rank < node.low + node.ends; rank++) {
        NgramModel::Step step = graph_->model().score(h.state, rank);
        next.path = path + weights_.lm_weight * step.log_prob;
        if (!(next.path >= cutoff_)) continue;
        next.score = next.path + look_ahead(0, step.state);
        next.state = step.state;
        next.word = graph_->word(rank);
        add(next);
    }
}

double Search::look_ahead(uint32_t node_index, uint32_t state) {
    const NgramModel& model = graph_->model();
    if (model.empty()) return 0;
    if (node_index == 0) return weights_.lm_weight * model.best(state);
    if (seen_.empty()) seen_.assign(kSeen, {UINT64_MAX, 0.0});
    uint64_t key = static_cast<uint64_t>(node_index) << 32 | state;
    Seen& seen = seen_[mixed(key) % kSeen];
    if (seen.key != key) {
        const WordGraph::Node& node = graph_->nodes()[node_index];
        seen = {key, weights_.lm_weight * model.best(state, node.low, node.high, node.unigram)};
    }
    return seen.value;
}

// Keeps a candidate unless it cannot survive or a better path is in the same place.
void Search::add(const Candidate& candidate) {
    if (!(candidate.score >= cutoff_) || candidate.score == kNever) return;
    if (slots_.size() < 2 * (candidates_.size() + 1)) {
        slots_.assign(std::max<size_t>(1024, 2 * slots_.size()), {0, 0});
        round_ = 1;
        for (uint32_t i = 0; i < candidates_.size(); i++) *slot_of(candidates_[i]) = {round_, i};
    }
    Slot* slot = slot_of(candidate);
    if (slot->round == round_) {
        Candidate& there = candidates_[slot->candidate];
        if (!(candidate.path > there.path)) return;
        there = candidate;
    } else {
        *slot = {round_, static_cast<uint32_t>(candidates_.size())};
        candidates_.push_back(candidate);
    }
    if (candidate.score > best_) {
        best_ = candidate.score;
        cutoff_ = std::max(cutoff_, best_ - weights_.beam_threshold);
    }
    if (candidates_.size() >= tighten_at_) tighten();
}

Search::Slot* Search::slot_of(const Candidate& candidate) {
    size_t mask = slots_.size() - 1;
    size_t at = mixed(static_cast<uint64_t>(candidate.place) << 32 | candidate.state) & mask;
    for (;; at = (at + 1) & mask) {
        Slot& slot = slots_[at];
        if (slot.round != round_) return &slot;
        const Candidate& there = candidates_[slot.candidate];
        if (there.place == candidate.place && there.state == candidate.state) return &slot;
    }
}

// Scores only rise from here on: what is not among the best so far will not be among the best.
void Search::tighten() {
    size_t width = weights_.beam_width;
    if (candidates_.size() > width) {
        scratch_scores_.clear();
        for (const Candidate& candidate : candidates_) scratch_scores_.push_back(candidate.score);
        auto last = scratch_scores_.begin() + static_cast<long>(width - 1);
        std::nth_element(scratch_scores_.begin(), last, scratch_scores_.end(), std::greater<double>());
        cutoff_ = std::max(cutoff_, *last);
    }
    tighten_at_ = candidates_.size() + std::max<size_t>(width, 64);
}

void Search::survive() {
    tighten();
    hypotheses_.clear();
    size_t above = 0;
    for (const Candidate& candidate : candidates_) above += candidate.score > cutoff_;
    size_t level = weights_.beam_width - above;  // room for those exactly at the cutoff
    for (const Candidate& candidate : candidates_) {
        if (!(candidate.score >= cutoff_)) continue;
        if (candidate.score == cutoff_ && level-- == 0) {
            level = 0;
            continue;
        }
        hypotheses_.push_back(candidate);
        if (candidate.token < 0) continue;
        Hypothesis& h = hypotheses_.back();
        traces_.push_back({candidate.trace, candidate.token, candidate.word, frame_, candidate.end});
        h.trace = static_cast<int32_t>(traces_.size() - 1);
        h.end = frame_ + 1;
    }
}

// Drops the traces that no hypothesis leads back to. A trace comes after the one before it, so one pass marks.
void Search::collect_traces() {
    std::vector<int32_t> moved(traces_.size(), -1);
    for (const Hypothesis& h : hypotheses_)
        if (h.trace >= 0) moved[static_cast<size_t>(h.trace)] = 0;
    for (size_t i = traces_.size(); i-- > 0;)
        if (moved[i] == 0 && traces_[i].before >= 0) moved[static_cast<size_t>(traces_[i].before)] = 0;
    size_t kept = 0;
    for (size_t i = 0; i < traces_.size(); i++) {
        if (moved[i] < 0) continue;
        Trace trace = traces_[i];
        if (trace.before >= 0) trace.before = moved[static_cast<size_t>(trace.before)];
        moved[i] = static_cast<int32_t>(kept);
        traces_[kept++] = trace;
    }
    traces_.resize(kept);
    for (Hypothesis& h : hypotheses_)
        if (h.trace >= 0) h.trace = moved[static_cast<size_t>(h.trace)];
    collect_at_ = std::max(kCollectAt, 2 * kept);
}

Search::Result Search::result(bool final) const {
    const NgramModel& model = graph_->model();
    const Hypothesis *best = nullptr, *likeliest = nullptr;
    double score = kNever;
    int32_t closing = kNoWord;
    for (const Hypothesis& h : hypotheses_) {
        if (!likeliest || h.score > likeliest->score) likeliest = &h;
        if (!final) continue;
        uint32_t node_index = node_of(h.place);
        if (node_index == 0) {
            double ended = h.path + weights_.lm_weight * model.end(h.state);
            if (!best || ended > score) best = &h, score = ended, closing = kNoWord;
            continue;
        }
        // A word that wants only its boundary may end without.
        const WordGraph::Node& node = graph_->nodes()[node_index];
        for (uint32_t c = node.first_child; c < node.first_child + node.children; c++) {
            const WordGraph::Node& child = graph_->nodes()[c];
            if (child.token != graph_->boundary()) continue;
            for (uint32_t rank = child.low; rank < child.low + child.ends; rank++) {
                NgramModel::Step step = model.score(h.state, rank);
                double ended = h.path + weights_.lm_weight * (step.log_prob + model.end(step.state));
                if (!best || ended > score) best = &h, score = ended, closing = graph_->word(rank);
            }
        }
    }
    if (!best) best = likeliest;
    if (!best) return {0.0, {}};
    Result result{score == kNever ? best->path : score, {}};
    append_labels(best->trace, best->end, result.labels);
    int32_t end = static_cast<int32_t>(frame_);
    if (closing != kNoWord) result.labels.push_back({static_cast<int32_t>(graph_->boundary()), closing, end, end});
    return result;
}

void Search::append_labels(int32_t trace, uint32_t end, std::vector<Label>& labels) const {
    while (trace >= 0) {
        const Trace& label = traces_[static_cast<size_t>(trace)];
        labels.push_back({label.token, label.word, static_cast<int32_t>(label.begin), static_cast<int32_t>(end)});
        end = label.end_before;
        trace = label.before;
    }
    std::reverse(labels.begin(), labels.end());
}

}  // namespace asr
