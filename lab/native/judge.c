/* The judge in the guest: writes blocks that say what they are, remembers every one, reads all back when asked.
 *
 * Each disk has an area of blocks in chunks of 64 KiB; writer w owns the chunks c with c % writers == w, so no two
 * writes to one block are ever under way at once, and "the last acknowledged" is well defined for each block. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/falloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include "block.h"
#include "labd.h"

#define DISKS 8
#define WRITERS 8
#define CHUNK 16          /* blocks */
#define ZEROED (1ull << 63) /* the last write to the block was zeros */
#define UNSURE (1ull << 62) /* the last write to the block failed: its content may be the old or the new */
#define NUMBER(entry) ((entry) & ~(ZEROED | UNSURE))

struct writer {
    pthread_t thread;
    struct disk *disk;
    uint32_t index, of;
    int64_t rate, random_percent, most_blocks, flush_every, zero_every, span;
    uint64_t writes, flushes, failures, bytes;
};
struct disk {
    char name[16];
    int fd;
    uint8_t index;
    uint32_t serial;
    uint64_t seed, offset, blocks, fill;
    _Atomic uint64_t sequence;
    uint64_t *table; /* per block: number of the last write (0: never written), with the flags above */
    struct writer writers[WRITERS];
    int active;
};

static struct disk disks[DISKS];
static int disk_count, writing;
static volatile int stopping;
static pthread_mutex_t judge_lock = PTHREAD_MUTEX_INITIALIZER;

static struct disk *find(const char *name)
{
    for (int i = 0; i < disk_count; i++)
        if (!strcmp(disks[i].name, name))
            return &disks[i];
    return NULL;
}

static void remember(struct disk *d, uint64_t first, uint32_t count, uint64_t entry)
{
    for (uint32_t i = 0; i < count; i++)
        d->table[first + i] = entry;
}

/* One write, acknowledged or failed; returns its latency in ns. */
static uint64_t write_once(struct writer *w, struct block *buffer, uint64_t first, uint32_t count, int zeros, int flush)
{
    struct disk *d = w->disk;
    uint64_t number = ++d->sequence;
    size_t bytes = (size_t)count * BLOCK_SIZE;
    off_t at = (off_t)(d->offset + first * BLOCK_SIZE);
    struct record r = {.type = REC_WRITE, .disk = d->index, .writer = (uint16_t)w->index, .serial = d->serial,
                       .first = (uint32_t)first, .count = (uint16_t)count, .flags = (uint16_t)zeros, .sequence = number};
    if (zeros) {
        struct record intent = r;
        intent.type = REC_INTENT;
        ledger_put(&intent);
    } else {
        for (uint32_t i = 0; i < count; i++)
            block_make(&buffer[i], d->serial, d->seed, first + i, number, first, count, w->index);
    }
    uint64_t began = now_ns();
    int failed = 0;
    if (zeros) {
        uint64_t range[2] = {(uint64_t)at, bytes};
        if (ioctl(d->fd, BLKZEROOUT, range) < 0)
            failed = errno;
    } else if (pwrite(d->fd, buffer, bytes, at) != (ssize_t)bytes) {
        failed = errno ? errno : EIO;
    }
    if (failed) {
        r.type = REC_FAILED;
        r.flags = (uint16_t)failed;
        w->failures++;
        for (uint32_t i = 0; i < count; i++)
            d->table[first + i] |= UNSURE;
        ledger_put(&r);
        usleep(100000);
        return now_ns() - began;
    }
    remember(d, first, count, number | (zeros ? ZEROED : 0));
    int unflushed = flush && fdatasync(d->fd) < 0 ? errno : 0;
    uint64_t took = now_ns() - began;
    r.latency_us = (uint32_t)(took / 1000);
    ledger_put(&r);
    w->writes++;
    w->bytes += bytes;
    if (unflushed) {
        w->failures++;
    } else if (flush) {
        r.type = REC_FLUSH;
        w->flushes++;
        ledger_put(&r);
    }
    return took;
}

static void *write_on(void *given)
{
    struct writer *w = given;
    struct disk *d = w->disk;
    struct block *buffer = aligned_alloc(BLOCK_SIZE, CHUNK * BLOCK_SIZE);
    uint64_t state = d->seed ^ now_ns() ^ (w->index + 1) * 0x9e3779b97f4a7c15ull;
    uint64_t chunks = (uint64_t)w->span / CHUNK / w->of, sequential = 0, due = now_ns();
    for (uint64_t n = 1; !stopping; n++) {
        uint64_t chunk = 0, from = 0;
        uint32_t count;
        if ((int64_t)(next_noise(&state) % 100) < w->random_percent) {
            chunk = next_noise(&state) % chunks;
            count = 1 + (uint32_t)(next_noise(&state) % (uint64_t)w->most_blocks);
            from = next_noise(&state) % (CHUNK - count + 1);
        } else {
            count = (uint32_t)w->most_blocks;
            chunk = sequential / CHUNK % chunks;
            from = sequential % CHUNK;
            if (from + count > CHUNK)
                count = CHUNK - (uint32_t)from;
            sequential += count;
        }
        write_once(w, buffer, (chunk * w->of + w->index) * CHUNK + from, count,
                   w->zero_every && n % (uint64_t)w->zero_every == 0, w->flush_every && n % (uint64_t)w->flush_every == 0);
        if (w->rate > 0) {
            due += 1000000000ull / (uint64_t)w->rate;
            uint64_t now = now_ns();
            if (due > now)
                usleep((useconds_t)((due - now) / 1000));
            else if (now - due > 1000000000ull)
                due = now; /* do not catch up for long after a stall */
        }
    }
    free(buffer);
    return NULL;
}

static void halt_writers(void)
{
    if (!writing)
        return;
    stopping = 1;
    for (int i = 0; i < disk_count; i++)
        for (int k = 0; k < disks[i].active; k++)
            pthread_join(disks[i].writers[k].thread, NULL);
    writing = stopping = 0;
}

static void let_writers(void)
{
    stopping = 0;
    writing = 1;
    for (int i = 0; i < disk_count; i++)
        for (int k = 0; k < disks[i].active; k++)
            pthread_create(&disks[i].writers[k].thread, NULL, write_on, &disks[i].writers[k]);
}

typedef void block_visitor(struct disk *d, uint64_t number, const struct block *b, struct text *out);
static uint64_t complaints, looked_at;

static int read_area(struct disk *d, block_visitor *visit, struct text *out)
{
    const uint64_t step = 256;
    char *buffer = aligned_alloc(BLOCK_SIZE, step * BLOCK_SIZE);
    int failed = 0;
    for (uint64_t n = 0; n < d->blocks && !failed; n += step) {
        uint64_t count = d->blocks - n < step ? d->blocks - n : step;
        size_t bytes = count * BLOCK_SIZE;
        if (pread(d->fd, buffer, bytes, (off_t)(d->offset + n * BLOCK_SIZE)) != (ssize_t)bytes) {
            failed = errno ? errno : EIO;
            say(out, "%s: reading block %llu: %s\n", d->name, (unsigned long long)n, strerror(failed));
            break;
        }
        for (uint64_t i = 0; i < count; i++, looked_at++)
            visit(d, n + i, (const struct block *)(buffer + i * BLOCK_SIZE), out);
    }
    free(buffer);
    return failed;
}

static void complain(struct disk *d, uint64_t number, const struct block *b, uint64_t entry, struct text *out)
{
    if (complaints++ >= 20)
        return;
    say(out, "%s block %llu: expected ", d->name, (unsigned long long)number);
    if (entry & ZEROED)
        say(out, "zeros of write %llu", (unsigned long long)NUMBER(entry));
    else if (NUMBER(entry))
        say(out, "write %llu", (unsigned long long)NUMBER(entry));
    else
        say(out, number < d->fill ? "the initial filling" : "zeros, never written");
    if (block_zero(b))
        say(out, ", found zeros\n");
    else if (block_valid(b, d->serial, d->seed, number))
        say(out, ", found write %llu\n", (unsigned long long)b->sequence);
    else if (b->magic == BLOCK_MAGIC)
        say(out, ", found a torn or foreign block (disk %u block %llu write %llu)\n", b->serial,
            (unsigned long long)b->number, (unsigned long long)b->sequence);
    else
        say(out, ", found something nobody wrote\n");
}

static void compare(struct disk *d, uint64_t number, const struct block *b, struct text *out)
{
    uint64_t entry = d->table[number];
    int zero = block_zero(b), good;
    if (entry & UNSURE)
        good = zero || block_valid(b, d->serial, d->seed, number);
    else if (entry & ZEROED || (!entry && number >= d->fill))
        good = zero;
    else
        good = !zero && block_valid(b, d->serial, d->seed, number) && b->sequence == NUMBER(entry);
    if (!good)
        complain(d, number, b, entry, out);
}

static void adopt(struct disk *d, uint64_t number, const struct block *b, struct text *out)
{
    if (block_zero(b)) {
        d->table[number] = number < d->fill ? ZEROED : 0;
    } else if (block_valid(b, d->serial, d->seed, number)) {
        d->table[number] = b->sequence;
        if (b->sequence > d->sequence)
            d->sequence = b->sequence;
        if (!b->sequence && number >= d->fill)
            complain(d, number, b, 0, out);
    } else {
        d->table[number] = UNSURE;
        complain(d, number, b, 0, out);
    }
}

/* disk NAME serial= seed= offset= blocks= fill= base= adopt= */
int judge_define(char *args, struct text *out)
{
    char name[16] = "", path[32];
    sscanf(args, "%15s", name);
    pthread_mutex_lock(&judge_lock);
    int status = 0;
    int was_writing = writing;
    halt_writers();
    if (find(name) || disk_count == DISKS) {
        say(out, "%s is defined already, or there are too many disks", name);
        status = EBUSY;
        goto end;
    }
    struct disk *d = &disks[disk_count];
    memset(d, 0, sizeof *d);
    strcpy(d->name, name);
    snprintf(path, sizeof path, "/dev/%s", name);
    d->fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
    if (d->fd < 0) {
        status = errno;
        say(out, "%s: %s", path, strerror(errno));
        goto end;
    }
    d->index = (uint8_t)disk_count;
    d->serial = (uint32_t)option(args, "serial", 0);
    d->seed = (uint64_t)option(args, "seed", 0);
    d->offset = (uint64_t)option(args, "offset", 0);
    d->blocks = (uint64_t)option(args, "blocks", 0);
    d->fill = (uint64_t)option(args, "fill", 0);
    d->table = calloc(d->blocks, sizeof *d->table);
    disk_count++;
    if (option(args, "adopt", 0)) {
        complaints = looked_at = 0;
        status = read_area(d, adopt, out);
        if (complaints)
            status = EILSEQ;
        struct record r = {.type = REC_ADOPT, .disk = d->index, .serial = d->serial, .sequence = d->sequence};
        ledger_put(&r);
    }
    uint64_t base = (uint64_t)option(args, "base", 0);
    if (base > d->sequence)
        d->sequence = base;
end:
    if (was_writing)
        let_writers();
    pthread_mutex_unlock(&judge_lock);
    return status;
}

static int64_t between(int64_t value, int64_t least, int64_t most)
{
    return value < least ? least : value > most ? most : value;
}

/* start NAME writers= rate= (per writer; 0: flat out) random= (%) most= (blocks) flush= zero= span= (blocks) */
int judge_start(char *args, struct text *out)
{
    char name[16] = "";
    sscanf(args, "%15s", name);
    pthread_mutex_lock(&judge_lock);
    struct disk *d = find(name);
    int status = 0;
    if (!d) {
        say(out, "no disk %s", name);
        status = ENOENT;
    } else {
        halt_writers();
        int64_t writers = between(option(args, "writers", 1), 0, WRITERS);
        int64_t span = between(option(args, "span", (int64_t)d->blocks), CHUNK * (writers + !writers), (int64_t)d->blocks);
        d->active = (int)writers;
        for (int k = 0; k < d->active; k++)
            d->writers[k] = (struct writer){
                .disk = d, .index = (uint32_t)k, .of = (uint32_t)writers, .rate = option(args, "rate", 100),
                .random_percent = option(args, "random", 70), .most_blocks = between(option(args, "most", 16), 1, CHUNK),
                .flush_every = option(args, "flush", 8), .zero_every = option(args, "zero", 0), .span = span};
        let_writers();
    }
    pthread_mutex_unlock(&judge_lock);
    return status;
}

int judge_stop(struct text *out)
{
    int status = 0;
    pthread_mutex_lock(&judge_lock);
    halt_writers();
    for (int i = 0; i < disk_count; i++) {
        struct disk *d = &disks[i];
        d->active = 0;
        if (fdatasync(d->fd) < 0) {
            status = errno;
            say(out, "%s: fdatasync: %s\n", d->name, strerror(errno));
            continue;
        }
        for (uint16_t k = 0; k < WRITERS; k++) {
            struct record r = {.type = REC_FLUSH, .disk = d->index, .writer = k, .serial = d->serial,
                               .sequence = d->sequence};
            ledger_put(&r);
        }
    }
    pthread_mutex_unlock(&judge_lock);
    return status;
}

int judge_verify(struct text *out)
{
    pthread_mutex_lock(&judge_lock);
    int was_writing = writing, failed = 0;
    halt_writers();
    complaints = looked_at = 0;
    for (int i = 0; i < disk_count; i++)
        failed |= read_area(&disks[i], compare, out);
    say(out, "%llu wrong of %llu", (unsigned long long)complaints, (unsigned long long)looked_at);
    if (was_writing)
        let_writers();
    pthread_mutex_unlock(&judge_lock);
    return failed ? EIO : complaints ? EILSEQ : 0;
}

int judge_status(struct text *out)
{
    for (int i = 0; i < disk_count; i++) {
        struct disk *d = &disks[i];
        uint64_t writes = 0, flushes = 0, failures = 0, bytes = 0;
        for (int k = 0; k < WRITERS; k++) {
            writes += d->writers[k].writes;
            flushes += d->writers[k].flushes;
            failures += d->writers[k].failures;
            bytes += d->writers[k].bytes;
        }
        say(out, "%s writing=%d sequence=%llu writes=%llu flushes=%llu failures=%llu bytes=%llu\n", d->name,
            writing ? d->active : 0, (unsigned long long)d->sequence, (unsigned long long)writes,
            (unsigned long long)flushes, (unsigned long long)failures, (unsigned long long)bytes);
    }
    return 0;
}
