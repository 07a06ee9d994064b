/* The definitions of cut.h, made fast.
 *
 * Zero runs are found apart from the hash, by sampling: a run of `zeros` bytes holds a whole sampled word when the
 * stride is at most zeros - 7, so half of `zeros` never misses one, and data without runs costs a load every stride.
 * The hash then looks only at what lies before the next run. Each piece is fingerprinted while it is still in cache.
 */
#include "cut.h"

#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

static uint64_t load_word(const uint8_t *at)
{
    uint64_t word;
    memcpy(&word, at, sizeof word);
    return word;
}

static size_t smaller(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* How many of data[0 .. size) are zero before the first that is not. */
static size_t zeros_ahead(const uint8_t *data, size_t size)
{
    size_t i = 0;
    while (size - i >= 32 &&
           !(load_word(data + i) | load_word(data + i + 8) | load_word(data + i + 16) | load_word(data + i + 24)))
        i += 32;
    while (size - i >= 8 && !load_word(data + i))
        i += 8;
    while (i < size && !data[i])
        i++;
    return i;
}

/* How many of the `size` bytes before `end` are zero after the last that is not. */
static size_t zeros_behind(const uint8_t *end, size_t size)
{
    size_t i = 0;
    while (size - i >= 8 && !load_word(end - i - 8))
        i += 8;
    while (i < size && !*(end - i - 1))
        i++;
    return i;
}

/* The first position >= from that begins `zeros` zero bytes, or SIZE_MAX. */
static size_t find_run(const uint8_t *data, size_t from, size_t size, size_t zeros)
{
    size_t stride = zeros / 2;
    size_t at = from;
    while (size - at >= 8) {
        if (load_word(data + at)) {
            at += smaller(stride, size - at);
            continue;
        }
        size_t begin = at - zeros_behind(data + at, at - from);
        size_t end = at + zeros_ahead(data + at, smaller(zeros, size - at));
        if (end - begin >= zeros)
            return begin;
        /* data[end] is no zero (or there is none), so the next run begins after it. */
        at = from = smaller(end + 1, size);
    }
    return SIZE_MAX;
}

static void set_piece(struct cut_piece *piece, const uint8_t *data, size_t length, bool zero)
{
    piece->length = length;
    piece->zero = zero;
    if (!zero) {
        XXH128_canonical_t canonical;
        XXH128_canonicalFromHash(&canonical, XXH3_128bits(data, length));
        memcpy(piece->fingerprint, canonical.digest, sizeof piece->fingerprint);
    }
}

static unsigned floor_log2(size_t value)
{
    unsigned bits = 0;
    while (value >>= 1)
        bits++;
    return bits;
}

/* Roll `hash` over data[i .. end) until its top `bits` bits are zero: the length then reached, or 0. */
static inline size_t roll(const uint64_t *gear, const uint8_t *data, size_t i, size_t end, unsigned bits,
                          uint64_t *hash)
{
    uint64_t h = *hash;
    uint64_t bound = UINT64_C(1) << (64 - bits);
#pragma GCC unroll 8
    for (; i < end; i++) {
        h = (h << 1) + gear[data[i]];
        if (h < bound)
            return i + 1;
    }
    *hash = h;
    return 0;
}

/* The length of the piece data[0 ..) at its first gear cut, at most `size`; 0 without one. */
static size_t gear_cut(const struct cut_rule *rule, const uint8_t *data, size_t size)
{
    if (size < rule->minimum)
        return 0;
    unsigned bits = floor_log2(rule->target);
    size_t first = rule->minimum - 1; /* the byte after which the first cut is allowed */
    uint64_t hash = 0;
    for (size_t i = rule->minimum - CUT_WINDOW; i < first; i++)
        hash = (hash << 1) + rule->gear[data[i]];
    /* A cut after byte i makes a piece of i + 1 bytes, so byte target - 1 is the first with the weaker mask. */
    size_t weaker = smaller(size, rule->target - 1);
    size_t cut = roll(rule->gear, data, first, weaker, bits + 2, &hash);
    return cut ? cut : roll(rule->gear, data, weaker, size, bits - 2, &hash);
}

bool cut_rule_valid(const struct cut_rule *rule)
{
    return rule->minimum >= CUT_WINDOW && rule->minimum <= rule->target && rule->target >= 256 &&
           rule->target <= rule->maximum && rule->maximum <= (size_t)1 << 30 && rule->zeros >= 16 &&
           rule->zeros <= rule->maximum;
}

void cut_gear_load(uint64_t gear[256], const uint8_t bytes[CUT_GEAR_BYTES])
{
    for (size_t i = 0; i < 256; i++) {
        gear[i] = 0;
        for (unsigned byte = 0; byte < 8; byte++)
            gear[i] |= (uint64_t)bytes[8 * i + byte] << (8 * byte);
    }
}

void cut_begin(struct cut_scan *scan, const struct cut_rule *rule, const uint8_t *data, size_t size, bool final)
{
    scan->rule = rule;
    scan->data = data;
    scan->size = size;
    scan->final = final;
    scan->start = 0;
    scan->run = find_run(data, 0, size, rule->zeros);
    scan->open = final ? size : size - zeros_behind(data + size, smaller(rule->zeros - 1, size));
}

static bool next_zero(struct cut_scan *scan, struct cut_piece *piece)
{
    const struct cut_rule *rule = scan->rule;
    const uint8_t *data = scan->data + scan->start;
    size_t left = scan->size - scan->start;
    /* The first `zeros` bytes are known to be zero: counting on from there makes progress even where another thread
     * writes into the buffer meanwhile. */
    size_t length = rule->zeros + zeros_ahead(data + rule->zeros, smaller(left, rule->maximum) - rule->zeros);
    if (length == left && length < rule->maximum && !scan->final)
        return false;
    set_piece(piece, data, length, true);
    scan->start += length;
    scan->run = find_run(scan->data, scan->start, scan->size, rule->zeros);
    return true;
}

static bool next_data(struct cut_scan *scan, struct cut_piece *piece)
{
    const struct cut_rule *rule = scan->rule;
    const uint8_t *data = scan->data + scan->start;
    size_t left = scan->size - scan->start;
    size_t bound = smaller(smaller(left, rule->maximum), scan->run - scan->start);
    size_t length = gear_cut(rule, data, bound);
    if (!length) {
        if (bound == left && bound < rule->maximum && !scan->final)
            return false;
        length = bound;
    }
    /* A cut inside a zero run that may grow to `zeros` bytes: the piece would then end where the run begins. */
    if (scan->start + length > scan->open)
        return false;
    set_piece(piece, data, length, false);
    scan->start += length;
    return true;
}

bool cut_next(struct cut_scan *scan, struct cut_piece *piece)
{
    if (scan->start == scan->size)
        return false;
    return scan->start == scan->run ? next_zero(scan, piece) : next_data(scan, piece);
}

bool cut_fixed_next(struct cut_fixed_scan *scan, struct cut_piece *piece)
{
    const uint8_t *data = scan->data + scan->start;
    size_t left = scan->size - scan->start;
    if (!left || (left < scan->next && !scan->final))
        return false;
    size_t length = smaller(left, scan->next);
    set_piece(piece, data, length, zeros_ahead(data, length) == length);
    scan->start += length;
    scan->next = scan->every;
    return true;
}
