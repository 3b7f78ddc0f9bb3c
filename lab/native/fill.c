/* Writes the initial filling of a judge's area into a raw image on the host:
 *   fill IMAGE OFFSET BLOCKS SERIAL SEED */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include "block.h"

#define STEP 256

int main(int argc, char **argv)
{
    static struct block buffer[STEP];
    if (argc != 6)
        return 2;
    int fd = open(argv[1], O_WRONLY | O_CLOEXEC);
    off_t at = (off_t)strtoull(argv[2], NULL, 0);
    uint64_t blocks = strtoull(argv[3], NULL, 0), seed = strtoull(argv[5], NULL, 0);
    uint32_t serial = (uint32_t)strtoul(argv[4], NULL, 0);
    if (fd < 0)
        return perror(argv[1]), 1;
    crc_init();
    for (uint64_t n = 0; n < blocks; n += STEP) {
        uint64_t count = blocks - n < STEP ? blocks - n : STEP;
        for (uint64_t i = 0; i < count; i++)
            block_make(&buffer[i], serial, seed, n + i, 0, n + i, 1, 0);
        if (pwrite(fd, buffer, count * BLOCK_SIZE, at + (off_t)(n * BLOCK_SIZE)) != (ssize_t)(count * BLOCK_SIZE))
            return perror("write"), 1;
    }
    return close(fd) ? (perror("close"), 1) : 0;
}
