/* Sends the records out through the judge's virtio-serial port. Written at once when the port is idle; what comes in
 * while a write() is under way goes out with the next one. At most QUEUE records are unsent, so the writers cannot
 * run far ahead of what the host knows. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include "block.h"
#include "labd.h"

#define QUEUE 128

static struct record queue[QUEUE];
static size_t queued;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t some = PTHREAD_COND_INITIALIZER, room = PTHREAD_COND_INITIALIZER;
static int port_fd;

static void *sender(void *unused)
{
    static struct record batch[QUEUE];
    (void)unused;
    for (;;) {
        pthread_mutex_lock(&lock);
        while (!queued)
            pthread_cond_wait(&some, &lock);
        size_t n = queued;
        memcpy(batch, queue, n * sizeof *batch);
        queued = 0;
        pthread_cond_broadcast(&room);
        pthread_mutex_unlock(&lock);
        const char *p = (const char *)batch;
        for (size_t left = n * sizeof *batch; left;) {
            ssize_t done = write(port_fd, p, left);
            if (done > 0) {
                p += done;
                left -= (size_t)done;
            } else if (errno != EINTR) {
                usleep(2000); /* nobody listens at the other end just now */
            }
        }
    }
    return NULL;
}

void ledger_open(const char *port)
{
    pthread_t thread;
    while ((port_fd = open(port, O_RDWR)) < 0)
        usleep(5000);
    pthread_create(&thread, NULL, sender, NULL);
}

void ledger_put(struct record *r)
{
    r->magic = RECORD_MAGIC;
    r->guest_ns = now_ns();
    r->spare = 0;
    r->crc = crc32_of(r, sizeof *r - 4);
    pthread_mutex_lock(&lock);
    while (queued == QUEUE)
        pthread_cond_wait(&room, &lock);
    queue[queued++] = *r;
    pthread_cond_signal(&some);
    pthread_mutex_unlock(&lock);
}
