/* Between the parts of labd, the program that runs in every lab guest. */
#ifndef LABD_H
#define LABD_H
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include "record.h"

struct text { /* a growing answer */
    char *data;
    size_t length, room;
};
void say(struct text *out, const char *format, ...) __attribute__((format(printf, 2, 3)));

uint64_t now_ns(void);
int64_t option(const char *args, const char *name, int64_t otherwise); /* "name=123" in args */

void ledger_open(const char *port);
void ledger_put(struct record *r); /* fills magic, time and CRC; waits while too many are unsent */

int judge_define(char *args, struct text *out);
int judge_start(char *args, struct text *out);
int judge_stop(struct text *out);
int judge_verify(struct text *out);
int judge_status(struct text *out);

int beacon_start(char *args, struct text *out);

int db_start(char *args, struct text *out);
int db_stop(struct text *out);
int db_check(struct text *out);
#endif
