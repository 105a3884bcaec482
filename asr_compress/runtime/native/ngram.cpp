#include "ngram.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <stdexcept>
#include <string>

namespace asr {
namespace {

constexpr uint32_t kNone = UINT32_MAX;
constexpr double kLog10 = 2.302585092994046;
constexpr float kUnknownMissing = static_cast<float>(-100 * kLog10);  // as KenLM has it where a model lists no <unk>
constexpr size_t kHighestOrder = 16;

[[noreturn]] void fail(const std::string& what, std::string_view line) {
    throw std::invalid_argument(what + " in the line '" + std::string(line.substr(0, 60)) + "'");
}

// Word -> id, ids counting from 0 in the order of insertion.
class Vocabulary {
public:
    explicit Vocabulary(size_t words) {
        size_t slots = 16;
        while (slots < 2 * words) slots *= 2;
        slots_.assign(slots, kNone);
    }
    uint32_t insert(std::string_view word) {
        uint32_t& slot = slots_[slot_of(word)];
        if (slot == kNone) {
            slot = static_cast<uint32_t>(words_.size());
            words_.push_back(word);
        }
        return slot;
    }
    uint32_t find(std::string_view word) const { return slots_[slot_of(word)]; }
    size_t size() const { return words_.size(); }

private:
    size_t slot_of(std::string_view word) const {
        uint64_t hash = 0xcbf29ce484222325u;
        for (char c : word) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
        size_t mask = slots_.size() - 1, at = (hash ^ (hash >> 32)) & mask;
        while (slots_[at] != kNone && words_[slots_[at]] != word) at = (at + 1) & mask;
        return at;
    }
    std::vector<uint32_t> slots_;
    std::vector<std::string_view> words_;
};

// The lines of a text, without what ends them.
class Lines {
public:
    explicit Lines(std::string_view text) : rest_(text) {}
    bool next(std::string_view& line) {
        if (rest_.empty()) return false;
        size_t end = std::min(rest_.find('\n'), rest_.size());
        line = rest_.substr(0, end);
        rest_.remove_prefix(std::min(end + 1, rest_.size()));
        while (!line.empty() && (line.back() == '\r' || line.back() == ' ' || line.back() == '\t'))
            line.remove_suffix(1);
        return true;
    }

private:
    std::string_view rest_;
};

std::string_view next_field(std::string_view& rest) {
    size_t begin = 0;
    while (begin < rest.size() && (rest[begin] == ' ' || rest[begin] == '\t')) begin++;
    size_t end = begin;
    while (end < rest.size() && rest[end] != ' ' && rest[end] != '\t') end++;
    std::string_view field = rest.substr(begin, end - begin);
    rest.remove_prefix(end);
    return field;
}

// A decimal number, log10, as a natural logarithm. The C library's functions ask the locale and want a zero.
float log_number(std::string_view field, std::string_view line) {
    const char *at = field.data(), *end = at + field.size();
    bool negative = at < end && *at == '-';
    if (at < end && (*at == '-' || *at == '+')) at++;
    double value = 0;
    int digits = 0, power = 0;
    for (bool fraction = false; at < end; at++) {
        if (*at == '.' && !fraction) {
            fraction = true;
        } else if (*at >= '0' && *at <= '9') {
            value = value * 10 + (*at - '0');
            digits++;
            power -= fraction;
        } else {
            break;
        }
    }
    if (digits && at < end && (*at == 'e' || *at == 'E')) {
        at++;
        bool minus = at < end && *at == '-';
        if (at < end && (*at == '-' || *at == '+')) at++;
        int exponent = 0, places = 0;
        for (; at < end && *at >= '0' && *at <= '9' && places < 4; at++, places++) exponent = exponent * 10 + (*at - '0');
        if (!places) digits = 0;
        power += minus ? -exponent : exponent;
    }
    if (!digits || at != end) fail("'" + std::string(field.substr(0, 20)) + "' is no number", line);
    double number = (negative ? -1 : 1) * (power ? value * std::pow(10.0, power) : value) * kLog10;
    if (!(std::abs(number) < 1e6)) fail("'" + std::string(field.substr(0, 20)) + "' is no log probability", line);
    return static_cast<float>(number);
}

// The n-grams of one order, by history and then by word. Those of order 1 are listed by word id, seen or not.
struct Order {
    std::vector<uint32_t> history;  // index among those of the order below
    std::vector<uint32_t> word;
    std::vector<float> log_prob, backoff;
    std::vector<uint32_t> first;  // of each history, and one more
    std::vector<uint32_t> state;  // where a path is that ends with this n-gram

    size_t size() const { return word.size(); }
    void add(uint32_t h, uint32_t w, float p, float b) {
        history.push_back(h);
        word.push_back(w);
        log_prob.push_back(p);
        backoff.push_back(b);
    }
    void sort(size_t histories) {
        first.assign(histories + 1, 0);
        for (uint32_t h : history) first[h + 1]++;
        std::partial_sum(first.begin(), first.end(), first.begin());
        std::vector<uint32_t> next(first.begin(), first.end() - 1), order(size());
        for (uint32_t i = 0; i < size(); i++) order[next[history[i]]++] = i;
        for (size_t h = 0; h < histories; h++)
            std::sort(order.begin() + first[h], order.begin() + first[h + 1],
                      [&](uint32_t a, uint32_t b) { return word[a] < word[b]; });
        permute(history, order);
        permute(word, order);
        permute(log_prob, order);
        permute(backoff, order);
    }
    uint32_t find(uint32_t h, uint32_t w) const {
        auto begin = word.begin() + first[h], end = word.begin() + first[h + 1];
        auto at = std::lower_bound(begin, end, w);
        return at != end && *at == w ? static_cast<uint32_t>(at - word.begin()) : kNone;
    }

private:
    template <class T>
    static void permute(std::vector<T>& values, const std::vector<uint32_t>& order) {
        std::vector<T> sorted(values.size());
        for (size_t i = 0; i < order.size(); i++) sorted[i] = values[order[i]];
        values = std::move(sorted);
    }
};

}  // namespace

// Reads ARPA text into orders, names the states, and lays out their arcs.
class ArpaCompiler {
public:
    ArpaCompiler(NgramModel& model, const std::vector<std::string_view>& words)
        : model_(model), vocabulary_(words.size() + 3) {
        begin_ = vocabulary_.insert("<s>");
        end_ = vocabulary_.insert("</s>");
        unknown_ = vocabulary_.insert("<unk>");
        word_of_rank_.reserve(words.size() + 2);
        for (std::string_view word : words) word_of_rank_.push_back(vocabulary_.insert(word));
        word_of_rank_.push_back(end_);
        word_of_rank_.push_back(unknown_);
    }

    void compile(std::string_view text) {
        Lines lines(text);
        std::vector<size_t> counts = read_counts(lines);
        orders_.resize(counts.size());
        for (size_t n = 0; n < counts.size(); n++) read_order(lines, n, counts[n]);
        name_states();
        list_ranks();
        score_unigrams();
        lay_out_arcs();
        find_best();
        model_.start_ = seen_[begin_] ? orders_[0].state[begin_] : 0;
    }

private:
    static std::vector<size_t> read_counts(Lines& lines) {
        std::string_view line;
        while (lines.next(line) && line != "\\data\\") {
            if (line.size() > 2 && line[0] == '\\') break;
        }
        if (line != "\\data\\") throw std::invalid_argument("it has no line \\data\\");
        std::vector<size_t> counts;
        while (lines.next(line) && !line.empty()) {
            std::string wanted = "ngram " + std::to_string(counts.size() + 1) + "=";
            if (line.substr(0, wanted.size()) != wanted) fail("'" + wanted + "' is missing", line);
            size_t count = 0;
            for (char c : line.substr(wanted.size())) {
                if (c < '0' || c > '9' || count > UINT32_MAX / 20) fail("no number of n-grams that can be", line);
                count = count * 10 + static_cast<size_t>(c - '0');
            }
            counts.push_back(count);
        }
        if (counts.empty() || counts.size() > kHighestOrder)
            throw std::invalid_argument("it lists " + std::to_string(counts.size()) + " orders; it must have 1 to 16");
        return counts;
    }

    void read_order(Lines& lines, size_t n, size_t count) {
        std::string title = "\\" + std::to_string(n + 1) + "-grams:";
        std::string_view line;
        while (lines.next(line) && line.empty()) {
        }
        if (line != title) fail("'" + title + "' is missing", line);
        Order& order = orders_[n];
        if (n == 0) {
            size_t words = vocabulary_.size();
            seen_.assign(words, false);
            order.word.resize(words);
            std::iota(order.word.begin(), order.word.end(), 0u);
            order.log_prob.assign(words, kUnknownMissing);
            order.backoff.assign(words, 0.0f);
        }
        last_.assign(n, kNone);
        for (size_t i = 0; i < count; i++) {
            if (!lines.next(line) || line.empty() || line[0] == '\\')
                throw std::invalid_argument("it announces " + std::to_string(count) + " " + title.substr(1) + " it has " +
                                            std::to_string(i));
            read_ngram(order, n, line);
        }
        Lines after = lines;
        if (after.next(line) && !line.empty() && line[0] != '\\')
            throw std::invalid_argument("it has more " + title.substr(1, title.size() - 2) + " than it announces");
        if (n > 0) order.sort(orders_[n - 1].size());
    }

    void read_ngram(Order& order, size_t n, std::string_view line) {
        std::string_view rest = line, number = next_field(rest);
        uint32_t words[kHighestOrder];
        bool all = true;
        for (size_t k = 0; k <= n; k++) {
            std::string_view field = next_field(rest);
            if (field.empty()) fail("too few words", line);
            words[k] = field == "<UNK>" ? unknown_ : vocabulary_.find(field);
            all = all && words[k] != kNone;
        }
        if (!all) return;
        float log_prob = log_number(number, line);
        std::string_view backoff_field = next_field(rest);
        float backoff = backoff_field.empty() ? 0.0f : log_number(backoff_field, line);
        if (!next_field(rest).empty()) fail("too many words", line);
        if (n == 0) {
            seen_[words[0]] = true;
            order.log_prob[words[0]] = log_prob;
            order.backoff[words[0]] = backoff;
            return;
        }
        if (!std::equal(last_.begin(), last_.end(), words)) {  // neighbors in the file mostly share their history
            last_history_ = words[0];
            if (!seen_[words[0]]) last_history_ = kNone;
            for (size_t k = 1; k < n && last_history_ != kNone; k++)
                last_history_ = orders_[k].find(last_history_, words[k]);
            last_.assign(words, words + n);
        }
        if (last_history_ == kNone) fail("a history that is not listed", line);
        order.add(last_history_, words[n], log_prob, backoff);
    }

    // An n-gram is a state if it matters as a history; else its paths are where its longest such suffix is.
    void name_states() {
        std::vector<std::vector<Suffix>> suffixes(orders_.size());
        for (size_t n = 0; n < orders_.size(); n++) {
            Order& order = orders_[n];
            order.state.resize(order.size());
            if (n + 1 < orders_.size()) suffixes[n].resize(order.size());
            for (uint32_t i = 0; i < order.size(); i++) {
                Suffix suffix = n == 0 ? Suffix{} : suffix_of(suffixes, n, i);
                uint32_t below = suffix.order == 0 ? 0 : orders_[suffix.order - 1].state[suffix.index];
                order.state[i] = below;
                if (n + 1 == orders_.size()) continue;
                suffixes[n][i] = suffix;
                const std::vector<uint32_t>& first = orders_[n + 1].first;
                if (first[i] == first[i + 1] && order.backoff[i] == 0.0f) continue;
                order.state[i] = static_cast<uint32_t>(model_.states_.size());
                model_.states_.push_back({0, 0, order.backoff[i], below, 0.0f});
            }
        }
    }

    struct Suffix {
        uint32_t order = 0, index = 0;  // an n-gram of orders_[order - 1]; none if 0
    };

    // The longest n-gram of the model that ends as n-gram i of orders_[n] does, itself aside.
    Suffix suffix_of(const std::vector<std::vector<Suffix>>& suffixes, size_t n, uint32_t i) const {
        uint32_t word = orders_[n].word[i];
        Suffix history = suffixes[n - 1][orders_[n].history[i]];
        while (history.order > 0) {
            uint32_t found = orders_[history.order].find(history.index, word);
            if (found != kNone) return {history.order + 1, found};
            history = suffixes[history.order - 1][history.index];
        }
        return seen_[word] ? Suffix{1, word} : Suffix{};
    }

    void list_ranks() {
        first_rank_.assign(vocabulary_.size() + 1, 0);
        for (uint32_t word : word_of_rank_) first_rank_[word + 1]++;
        std::partial_sum(first_rank_.begin(), first_rank_.end(), first_rank_.begin());
        std::vector<uint32_t> next(first_rank_.begin(), first_rank_.end() - 1);
        ranks_.resize(word_of_rank_.size());
        for (uint32_t rank = 0; rank < word_of_rank_.size(); rank++) ranks_[next[word_of_rank_[rank]]++] = rank;
    }

    void score_unigrams() {
        uint32_t unknown_rank = static_cast<uint32_t>(word_of_rank_.size() - 1);
        for (uint32_t rank = 0; rank < word_of_rank_.size(); rank++) {
            uint32_t word = word_of_rank_[rank];
            model_.scored_as_[rank] = seen_[word] ? rank : unknown_rank;
            model_.unigrams_[rank] = {orders_[0].log_prob[word], orders_[0].state[word]};
        }
    }

    void lay_out_arcs() {
        uint32_t state = 1;  // states are named in the order of this walk
        std::vector<std::pair<uint32_t, uint32_t>> arcs;
        for (size_t n = 0; n + 1 < orders_.size(); n++) {
            const Order &order = orders_[n], &above = orders_[n + 1];
            for (uint32_t i = 0; i < order.size(); i++) {
                if (order.state[i] != state) continue;
                arcs.clear();
                for (uint32_t k = above.first[i]; k < above.first[i + 1]; k++)
                    for (uint32_t r = first_rank_[above.word[k]]; r < first_rank_[above.word[k] + 1]; r++)
                        arcs.emplace_back(ranks_[r], k);
                std::sort(arcs.begin(), arcs.end());
                model_.states_[state].first = static_cast<uint32_t>(model_.arc_ranks_.size());
                for (auto [rank, k] : arcs) {
                    model_.arc_ranks_.push_back(rank);
                    model_.arc_log_probs_.push_back(above.log_prob[k]);
                    model_.arc_states_.push_back(above.state[k]);
                }
                if (model_.arc_ranks_.size() >= kNone) throw std::invalid_argument("it has too many n-grams");
                model_.states_[state].end = static_cast<uint32_t>(model_.arc_ranks_.size());
                state++;
            }
        }
    }

    void find_best() {
        float& anywhere = model_.states_[0].best = model_.unigram(0);
        for (uint32_t rank = 0; rank < model_.ranks_; rank++) anywhere = std::max(anywhere, model_.unigram(rank));
        for (NgramModel::State& state : model_.states_) {  // a suffix is named before what it is a suffix of
            if (&state == model_.states_.data()) continue;
            state.best = state.backoff + model_.states_[state.suffix].best;
            for (uint32_t arc = state.first; arc < state.end && model_.arc_ranks_[arc] < model_.ranks_; arc++)
                state.best = std::max(state.best, model_.arc_log_probs_[arc]);
        }
    }

    NgramModel& model_;
    Vocabulary vocabulary_;
    uint32_t begin_, end_, unknown_;
    std::vector<uint32_t> word_of_rank_;
    std::vector<bool> seen_;  // words with a unigram
    std::vector<Order> orders_;
    std::vector<uint32_t> last_;  // history of the line before
    uint32_t last_history_ = kNone;
    std::vector<uint32_t> first_rank_, ranks_;  // the ranks of each word
};

NgramModel::NgramModel(size_t ranks)
    : ranks_(static_cast<uint32_t>(ranks)), scored_as_(ranks + 2), unigrams_(ranks + 2, Step{0.0f, 0}) {
    states_.push_back({0, 0, 0.0f, 0, 0.0f});
    std::iota(scored_as_.begin(), scored_as_.end(), 0u);
}

NgramModel::NgramModel(std::string_view arpa, const std::vector<std::string_view>& words) : NgramModel(words.size()) {
    ArpaCompiler(*this, words).compile(arpa);
    empty_ = false;
}

size_t NgramModel::bytes() const {
    return scored_as_.size() * 4 + unigrams_.size() * sizeof(Step) + states_.size() * sizeof(State) +
           arc_ranks_.size() * 12;
}

uint32_t NgramModel::arc_from(const State& state, uint32_t rank) const {
    const uint32_t* ranks = arc_ranks_.data();
    return static_cast<uint32_t>(std::lower_bound(ranks + state.first, ranks + state.end, rank) - ranks);
}

NgramModel::Step NgramModel::score(uint32_t state, uint32_t rank) const {
    rank = scored_as_[rank];
    float backoff = 0;
    while (state != 0) {
        const State& here = states_[state];
        uint32_t arc = arc_from(here, rank);
        if (arc < here.end && arc_ranks_[arc] == rank) return {arc_log_probs_[arc] + backoff, arc_states_[arc]};
        backoff += here.backoff;
        state = here.suffix;
    }
    return {unigrams_[rank].log_prob + backoff, unigrams_[rank].state};
}

float NgramModel::best(uint32_t state, uint32_t low, uint32_t high, float unigram) const {
    float best = -1e30f, backoff = 0;
    while (state != 0) {
        const State& here = states_[state];
        float top = -1e30f;
        for (uint32_t arc = arc_from(here, low); arc < here.end && arc_ranks_[arc] < high; arc++)
            top = std::max(top, arc_log_probs_[arc]);
        best = std::max(best, top + backoff);
        backoff += here.backoff;
        state = here.suffix;
    }
    return std::max(best, unigram + backoff);
}

}  // namespace asr
