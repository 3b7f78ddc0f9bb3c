/* The records that the guest sends out: see lab/ledger.py, which reads them. */
#ifndef RECORD_H
#define RECORD_H
#include <stdint.h>

#define RECORD_MAGIC 0x43455242u /* "BREC" */

enum record_type {
    REC_BOOT = 1,    /* labd began; sequence: number of its start on this boot */
    REC_WRITE = 2,   /* acknowledged write of count blocks from first; flags & 1: zeros */
    REC_FLUSH = 3,   /* fdatasync returned: every write of this writer up to sequence is durable */
    REC_INTENT = 4,  /* zeros are about to be written: they carry no number of their own */
    REC_FAILED = 5,  /* a write was refused; flags: errno; the blocks hold the old or the new content */
    REC_MARK = 6,    /* the host asked for a mark; sequence: its number */
    REC_COMMIT = 7,  /* the database committed row number sequence */
    REC_ADOPT = 8,   /* the judge took over what the disk holds; sequence: highest number found */
    REC_PULSE = 9,   /* nothing was written; the guest lives (so that stalls show also when idle) */
};

struct record {
    uint32_t magic;
    uint8_t type, disk; /* disk: index in the order of definition; its serial is in `serial` */
    uint16_t writer;
    uint32_t serial;
    uint32_t first;
    uint16_t count, flags;
    uint32_t latency_us;
    uint64_t sequence, guest_ns;
    uint32_t spare, crc; /* CRC-32 of what precedes it */
} __attribute__((packed));
_Static_assert(sizeof(struct record) == 48, "a record is 48 bytes");
#endif
