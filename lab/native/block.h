/* What a block of the judge looks like. Shared by the guest (labd) and by the filler on the host; the checker on the
 * host (lab/checker.py) is written separately from this description, so that one mistake cannot hide in both.
 *
 *   0 u32 magic   4 u32 disk serial   8 u64 seed   16 u64 block   24 u64 sequence   32 u64 first block of the write
 *  40 u32 blocks of the write   44 u32 writer   48.. noise   4092 u32 CRC-32 (zlib) of the first 4092 bytes
 *
 * Little endian. Sequence 0 is the initial filling; every write on a disk takes the next number. */
#ifndef BLOCK_H
#define BLOCK_H
#include <stdint.h>
#include <stddef.h>

#undef BLOCK_SIZE /* some kernel headers have another meaning for it */
#define BLOCK_SIZE 4096
#define BLOCK_MAGIC 0x4b4c4246u /* "FBLK" */

struct block {
    uint32_t magic, serial;
    uint64_t seed, number, sequence, first;
    uint32_t count, writer;
    uint64_t noise[(BLOCK_SIZE - 48 - 8) / 8];
    uint32_t noise_tail, crc;
};
_Static_assert(sizeof(struct block) == BLOCK_SIZE, "a block is 4 KiB");

void crc_init(void); /* once, before anything else here */
uint32_t crc32_of(const void *data, size_t length);
uint64_t next_noise(uint64_t *state); /* xorshift64; the state must not be 0 */
void block_make(struct block *b, uint32_t serial, uint64_t seed, uint64_t number, uint64_t sequence, uint64_t first,
                uint32_t count, uint32_t writer);
int block_valid(const struct block *b, uint32_t serial, uint64_t seed, uint64_t number); /* whole, and of this place */
int block_zero(const void *data);
#endif
