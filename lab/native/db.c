/* A real database in the guest: SQLite, WAL, synchronous=FULL, on an ext4 at the start of the disk.
 * Each commit that returned is reported; so each reported row must be there, after a power cut too. */
#include <errno.h>
#include <pthread.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>
#include "labd.h"

static pthread_t thread;
static volatile int running, stopping;
static int64_t rate;
static char failure[256];

static int mounted(void)
{
    return access("/db/lost+found", F_OK) == 0; /* what mkfs leaves in a new file system */
}

static sqlite3 *open_db(struct text *out)
{
    sqlite3 *db;
    if (sqlite3_open("/db/lab.sqlite", &db) != SQLITE_OK ||
        sqlite3_exec(db,
                     "PRAGMA busy_timeout=20000; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;"
                     "CREATE TABLE IF NOT EXISTS row(n INTEGER PRIMARY KEY, body BLOB);",
                     NULL, NULL, NULL) != SQLITE_OK) {
        say(out, "cannot open the database: %s", sqlite3_errmsg(db));
        sqlite3_close(db);
        return NULL;
    }
    return db;
}

static int64_t number(sqlite3 *db, const char *sql)
{
    sqlite3_stmt *s;
    int64_t value = -1;
    if (sqlite3_prepare_v2(db, sql, -1, &s, NULL) == SQLITE_OK && sqlite3_step(s) == SQLITE_ROW)
        value = sqlite3_column_int64(s, 0);
    sqlite3_finalize(s);
    return value;
}

static void *work(void *opened)
{
    sqlite3 *db = opened;
    int64_t n = number(db, "SELECT coalesce(max(n), 0) FROM row");
    failure[0] = 0;
    while (!stopping) {
        char sql[160];
        uint64_t began = now_ns();
        n++;
        snprintf(sql, sizeof sql, "BEGIN; INSERT INTO row VALUES(%lld, randomblob(300)); COMMIT;", (long long)n);
        if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK) {
            snprintf(failure, sizeof failure, "row %lld: %s", (long long)n, sqlite3_errmsg(db));
            fprintf(stderr, "database: %s\n", failure);
            break;
        }
        struct record r = {.type = REC_COMMIT, .sequence = (uint64_t)n,
                           .latency_us = (uint32_t)((now_ns() - began) / 1000)};
        ledger_put(&r);
        if (rate > 0) {
            int64_t rest = 1000000 / rate - (int64_t)((now_ns() - began) / 1000);
            if (rest > 0)
                usleep((useconds_t)rest);
        }
    }
    sqlite3_close(db);
    return NULL;
}

int db_start(char *args, struct text *out)
{
    char device[64] = "/dev/vda";
    rate = option(args, "rate", 50);
    if (running)
        return 0; /* at the new rate from now on */
    sscanf(args, "%63s", device);
    if (!mounted() && mount(device, "/db", "ext4", MS_NOATIME, "") < 0)
        return say(out, "mount %s: %s", device, strerror(errno)), errno;
    sqlite3 *db = open_db(out);
    if (!db)
        return EIO;
    stopping = 0;
    running = 1;
    pthread_create(&thread, NULL, work, db);
    return 0;
}

int db_stop(struct text *out)
{
    if (running) {
        stopping = 1;
        pthread_join(thread, NULL);
        running = 0;
    }
    if (failure[0])
        return say(out, "%s", failure), EIO;
    return 0;
}

static int answer(void *out, int columns, char **values, char **names)
{
    (void)columns;
    (void)names;
    say(out, "%s\n", values[0]);
    return 0;
}

/* First line: the highest row and the number of rows (no row is missing when they are equal); then SQLite's verdict. */
int db_check(struct text *out)
{
    if (!mounted() && mount("/dev/vda", "/db", "ext4", MS_NOATIME, "") < 0)
        return say(out, "mount: %s", strerror(errno)), errno;
    sqlite3 *db = open_db(out);
    if (!db)
        return EIO;
    /* one statement, so one snapshot: rows may be added meanwhile */
    sqlite3_exec(db, "SELECT coalesce(max(n), 0) || ' ' || count(*) FROM row", answer, out, NULL);
    sqlite3_exec(db, "PRAGMA integrity_check", answer, out, NULL);
    sqlite3_close(db);
    return 0;
}
