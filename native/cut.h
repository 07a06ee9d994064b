/* Where a stream of bytes is cut into pieces, and the fingerprint of each piece.
 *
 * Role: the kernel. Above: module.c, which offers it to Python. Below: xxhash.h. It knows no Python, allocates
 * nothing and keeps no state but the caller's.
 * Invariant: pieces are consecutive, and a piece depends only on the bytes from its own start on. So a stream may be
 * presented in any buffers, each beginning with the unfinished tail of the one before, and is always cut the same.
 *
 * Definition of `cut_next`, for a stream b of n bytes and a piece that starts at s < n:
 *
 *  zero piece   If b[s .. s+zeros) exists and is all zeros, the piece is the zero run from s on: it ends at the first
 *               byte that is not zero, at s+maximum or at n, whichever comes first.
 *  data piece   Otherwise it ends at the smallest e > s for which one of these holds:
 *                 - b[e .. e+zeros) exists and is all zeros (it may reach past s+maximum);
 *                 - e-s >= minimum and the top k bits of hash(e) are zero, where k = floor(log2(target)) + 2 while
 *                   e-s < target and floor(log2(target)) - 2 from there on;
 *                 - e = s+maximum;
 *                 - e = n.
 *               hash(e) = sum over the 64 bytes before e of gear[b[i]] << (e-1-i), modulo 2**64.
 *
 *  A zero run cut at s+maximum and followed by fewer than `zeros` zero bytes hence goes on as a data piece.
 *
 *  unfinished   Of a stream that goes on (`final` false) only its first n bytes are known. A piece is finished when
 *               it would be the same whatever bytes follow; the first one that is not ends the scan. A tail is
 *               therefore shorter than maximum + zeros bytes.
 *
 * The hash is the gear of FastCDC with its normalised chunking (Xia et al., "FastCDC: a Fast and Efficient
 * Content-Defined Chunking Approach for Data Deduplication", USENIX ATC 2016, sections 3.2 and 3.4), with the top
 * bits of the hash as mask: they are the ones that a full window of 64 bytes has reached. The gear table is a secret.
 *
 * `cut_fixed_next` ends the first piece at `first`, every other `size` bytes after the one before, and the last at the
 * end of the stream; a piece is a zero piece when all its bytes are zero. Unfinished means: not yet whole.
 *
 * The fingerprint of a data piece is its XXH3-128, seed 0, in canonical (big-endian) order.
 */
#ifndef INFINITFS_CUT_H
#define INFINITFS_CUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { CUT_WINDOW = 64, CUT_GEAR_BYTES = 2048, CUT_FINGERPRINT_BYTES = 16 };

/* `fingerprint` is set for data pieces only. */
struct cut_piece {
    size_t length;
    bool zero;
    uint8_t fingerprint[CUT_FINGERPRINT_BYTES];
};

/* 64 <= minimum <= target <= maximum <= 2**30, target >= 256, 16 <= zeros <= maximum; in bytes. */
struct cut_rule {
    uint64_t gear[256];
    size_t minimum, target, maximum, zeros;
};

struct cut_scan {
    const struct cut_rule *rule;
    const uint8_t *data;
    size_t size;
    bool final;
    size_t start; /* of the next piece */
    size_t run;   /* the first position >= start with `zeros` zero bytes, SIZE_MAX without one */
    size_t open;  /* where a zero run may begin that the end of the data cuts short; `size` when final */
};

struct cut_fixed_scan {
    const uint8_t *data;
    size_t size;
    bool final;
    size_t start;
    size_t next, every; /* lengths of the next piece and of those after it; >= 1 */
};

bool cut_rule_valid(const struct cut_rule *rule);

/* Fill `gear` from 256 little-endian 64-bit words. */
void cut_gear_load(uint64_t gear[256], const uint8_t bytes[CUT_GEAR_BYTES]);

/* Start a scan of data[0 .. size); rule and data must outlive it. */
void cut_begin(struct cut_scan *scan, const struct cut_rule *rule, const uint8_t *data, size_t size, bool final);

/* Set `piece` to the next finished piece; false where there is none. */
bool cut_next(struct cut_scan *scan, struct cut_piece *piece);
bool cut_fixed_next(struct cut_fixed_scan *scan, struct cut_piece *piece);

#endif
