#include <string.h>
#include "block.h"

static uint32_t crc_table[8][256];

void crc_init(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t c = i;
        for (int k = 0; k < 8; k++)
            c = c & 1 ? 0xedb88320u ^ (c >> 1) : c >> 1;
        crc_table[0][i] = c;
    }
    for (uint32_t i = 0; i < 256; i++)
        for (int t = 1; t < 8; t++)
            crc_table[t][i] = (crc_table[t - 1][i] >> 8) ^ crc_table[0][crc_table[t - 1][i] & 255];
}

uint32_t crc32_of(const void *data, size_t length)
{
    const uint8_t *p = data;
    uint32_t c = ~0u;
    for (; length >= 8; length -= 8, p += 8) {
        uint32_t lo, hi;
        memcpy(&lo, p, 4);
        memcpy(&hi, p + 4, 4);
        lo ^= c;
        c = crc_table[7][lo & 255] ^ crc_table[6][lo >> 8 & 255] ^ crc_table[5][lo >> 16 & 255] ^
            crc_table[4][lo >> 24] ^ crc_table[3][hi & 255] ^ crc_table[2][hi >> 8 & 255] ^
            crc_table[1][hi >> 16 & 255] ^ crc_table[0][hi >> 24];
    }
    while (length--)
        c = crc_table[0][(c ^ *p++) & 255] ^ (c >> 8);
    return ~c;
}

uint64_t next_noise(uint64_t *state)
{
    uint64_t x = *state;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return *state = x;
}

void block_make(struct block *b, uint32_t serial, uint64_t seed, uint64_t number, uint64_t sequence,
                       uint64_t first, uint32_t count, uint32_t writer)
{
    uint64_t state = seed ^ (number + 1) * 0x9e3779b97f4a7c15ull ^ (sequence + 1) * 0xc2b2ae3d27d4eb4full ^ serial;
    if (!state)
        state = 1;
    b->magic = BLOCK_MAGIC;
    b->serial = serial;
    b->seed = seed;
    b->number = number;
    b->sequence = sequence;
    b->first = first;
    b->count = count;
    b->writer = writer;
    for (size_t i = 0; i < sizeof b->noise / sizeof *b->noise; i++)
        b->noise[i] = next_noise(&state);
    b->noise_tail = (uint32_t)next_noise(&state);
    b->crc = crc32_of(b, BLOCK_SIZE - 4);
}

int block_valid(const struct block *b, uint32_t serial, uint64_t seed, uint64_t number)
{
    return b->magic == BLOCK_MAGIC && b->serial == serial && b->seed == seed && b->number == number &&
           b->crc == crc32_of(b, BLOCK_SIZE - 4);
}

int block_zero(const void *data)
{
    const uint64_t *p = data;
    for (size_t i = 0; i < BLOCK_SIZE / 8; i++)
        if (p[i])
            return 0;
    return 1;
}
